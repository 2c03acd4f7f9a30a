"""Calls that overlap, at most so many at once; shared by the operators that call a function for every element."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from apexstream.plugin.operators.calls import STOP
from apexstream.plugin.operators.reading import Bell, Readers, cancelled
from apexstream.plugin.operators.stream import Guard, Source

T = TypeVar("T")


class _Calls:
    """Calls that run or whose results wait to be taken; together at most ``concurrency``."""

    def __init__(self, bell: Bell, concurrency: int, *, ordered: bool) -> None:
        self._bell = bell
        self._concurrency = concurrency
        self._ordered = ordered
        self._running: dict[asyncio.Task[Any], Any] = {}
        self._ready: deque[asyncio.Task[Any]] = deque()  # in order of arrival if ordered, else of completion

    @property
    def has_room(self) -> bool:
        return len(self._running) < self._concurrency

    @property
    def idle(self) -> bool:
        return not self._running

    def start(self, call: Coroutine[Any, Any, Any], element: Any) -> None:
        task = asyncio.create_task(call)
        self._running[task] = element
        if self._ordered:
            self._ready.append(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        if not self._ordered:
            self._ready.append(task)
        self._bell.ring()

    @property
    def has_result(self) -> bool:
        return bool(self._ready) and self._ready[0].done()

    def take(self) -> tuple[Any, Any]:
        """An element and its result, or the exception of its call, raised."""
        task = self._ready.popleft()
        return self._running.pop(task), task.result()

    async def close(self) -> None:
        await cancelled(self._running)


async def overlapping(
    source: Source[T],
    call: Callable[[T], Coroutine[Any, Any, Any]],
    guard: Guard | None,
    *,
    concurrency: int,
    ordered: bool,
) -> AsyncGenerator[tuple[T, Any], None]:
    """Every element with the result of its ``call``, which puts its failures before the guard itself; ``STOP`` ends it.

    In the source's order, errors included, or in the order of completion.
    """
    async with Readers(guard=guard) as readers:
        inbox = readers.add(source, ahead_max=0)
        calls = _Calls(readers.bell, concurrency, ordered=ordered)
        try:
            while not (inbox.over and calls.idle):
                if inbox and calls.has_room:
                    element = inbox.take()
                    calls.start(call(element), element)
                elif calls.has_result:
                    element, result = calls.take()
                    if result is STOP:
                        return
                    yield element, result
                else:
                    if calls.has_room:
                        inbox.want()
                    await readers.bell.wait()
            inbox.finish()
        finally:
            await calls.close()
