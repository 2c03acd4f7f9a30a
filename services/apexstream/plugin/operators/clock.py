"""The time that timer-driven operators live by: the event loop's, or one that tests move by hand."""

import asyncio
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush
from itertools import count
from typing import Final, Protocol, TypeVar

T = TypeVar("T")


class Handle(Protocol):
    """A call that is due some day."""

    def cancel(self) -> None:
        """Let it not happen. After it happened this does nothing."""
        ...


class Timers(Protocol):
    """Monotonic time, and calls at a time."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        """Call ``callback`` from the loop once :meth:`monotonic` has reached ``when``."""
        ...


class LoopClock:
    """The running event loop's clock."""

    def monotonic(self) -> float:
        """Seconds of the loop's clock."""
        return asyncio.get_running_loop().time()

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        """A timer of the loop."""
        return asyncio.get_running_loop().call_at(when, callback)


LOOP_CLOCK: Final = LoopClock()


async def sleep_until(clock: Timers, when: float) -> None:
    """Wait until ``clock`` shows ``when``; not at all if it does already."""
    if clock.monotonic() >= when:
        return
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    handle = clock.call_at(when, lambda: None if woken.done() else woken.set_result(None))
    try:
        await woken
    finally:
        handle.cancel()


class _Call:
    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """A clock for tests, which stands still until it is told to move.

    ``await clock.run(stream.to_list())`` moves it from timer to timer, so that hours pass in milliseconds and every run
    gives the same times.
    """

    def __init__(self, *, turns: int = 30) -> None:
        """``turns`` of the loop are given to what a timer set off before the next timer is looked at."""
        self._now = 0.0
        self._turns = turns
        self._calls: list[tuple[float, int, _Call]] = []
        self._numbers = count()

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> Handle:
        """Called when the clock is moved to ``when`` or beyond; at the next move if that is past."""
        call = _Call(callback)
        heappush(self._calls, (when, next(self._numbers), call))
        return call

    async def sleep(self, seconds: float) -> None:
        """Wait for the clock to move on."""
        await sleep_until(self, self._now + seconds)

    async def advance(self, seconds: float) -> None:
        """Move on, calling what becomes due in its order, and let everything that this sets off happen."""
        until = self._now + seconds
        await self._settle()
        while self._next_due() <= until:
            self._fire()
            await self._settle()
        self._now = until

    async def run(self, main: Awaitable[T]) -> T:
        """Await ``main``, moving to the next timer whenever it waits. Raises ``RuntimeError`` if it waits for no timer."""
        task = asyncio.ensure_future(main)
        try:
            while not task.done():
                await self._settle()
                if not task.done() and self._next_due() == float("inf"):
                    raise RuntimeError("it waits for something, and no timer is set")
                if not task.done():
                    self._fire()
            return task.result()
        finally:
            task.cancel()
            await asyncio.wait([task])

    def _next_due(self) -> float:
        while self._calls and self._calls[0][2].callback is None:
            heappop(self._calls)
        return self._calls[0][0] if self._calls else float("inf")

    def _fire(self) -> None:
        when, _, call = heappop(self._calls)
        self._now = max(self._now, when)
        if call.callback is not None:
            call.callback()

    async def _settle(self) -> None:
        for _ in range(self._turns):
            await asyncio.sleep(0)
