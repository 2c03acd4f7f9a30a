"""Questions of one execution that wait for their answers, at the plugin's end."""

import asyncio
from collections.abc import Callable
from itertools import count

from apexstream.core.coordination import ASKED_MAX


class Questions:
    """Numbers questions and hands them to ``send``; :meth:`ask` returns when :meth:`answer` was called with the number."""

    __slots__ = ("_numbers", "_room", "_send", "_waiting")

    def __init__(self, send: Callable[[int, bytes], None]) -> None:
        self._send = send
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._room = asyncio.Semaphore(ASKED_MAX)

    async def ask(self, question: bytes) -> bytes:
        """The answer. At most ``ASKED_MAX`` wait at once; one that the action gave up counts until its answer has come, as it
        does at the runner's end."""
        await self._room.acquire()
        number = next(self._numbers)
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        self._send(number, question)
        return await waiting

    def answer(self, number: int, answer: bytes) -> None:
        """The answer has come."""
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return
        self._room.release()
        if not waiting.done():
            waiting.set_result(answer)
