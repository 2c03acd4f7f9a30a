"""What one waits for, at the price of what is waited for: asyncio's own keep a deque of 600 bytes for waiters that never come,
and a gateway has several of them for each of its thousands of connections."""

import asyncio
from typing import Any


class Flag:
    """As :class:`asyncio.Event`, for one event loop; set at first."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = True
        self._waiters: list[asyncio.Future[None]] = []

    def is_set(self) -> bool:
        """Whether nobody has to wait."""
        return self._is_set

    def set(self) -> None:
        """Let everybody go on."""
        self._is_set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Have everybody wait from now on."""
        self._is_set = False

    async def wait(self) -> bool:
        """Return once it is set."""
        if self._is_set:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)
        return True


class Inbox:
    """As an unbounded :class:`asyncio.Queue` with one reader; who fills it stops reading from its socket meanwhile."""

    __slots__ = ("_filled", "_messages")

    def __init__(self) -> None:
        self._messages: list[Any] = []
        self._filled: asyncio.Future[None] | None = None

    def put_nowait(self, message: Any) -> None:
        """Append ``message``."""
        self._messages.append(message)
        if self._filled is not None and not self._filled.done():
            self._filled.set_result(None)

    async def get(self) -> Any:
        """The first message, as soon as there is one."""
        while not self._messages:
            self._filled = asyncio.get_running_loop().create_future()
            try:
                await self._filled
            finally:
                self._filled = None
        return self._messages.pop(0)

    def empty(self) -> bool:
        """Whether a reader would have to wait."""
        return not self._messages
