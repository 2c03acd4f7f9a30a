"""Reading sources in tasks of their own, with a bound on what is read ahead: for operators that wait for time as well, or
for several sources. One task reads one source from its start to its close, so that what a source does with its own task
(deadlines, task groups) works.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Generic, TypeVar

from apexstream.plugin.operators.clock import LOOP_CLOCK, Timers
from apexstream.plugin.operators.stream import Guard, Source, close_all, opened, raise_all

T = TypeVar("T")


class Bell:
    """Wakes the one task that waits for any of several things. Ask for the things first, then wait, with no await between."""

    __slots__ = ("_clock", "_waiter")

    def __init__(self, clock: Timers = LOOP_CLOCK) -> None:
        self._clock = clock
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake whoever waits now."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, until: float | None = None) -> None:
        """Return at the next ring, or when the clock shows ``until``."""
        self._waiter = asyncio.get_running_loop().create_future()
        timer = None if until is None else self._clock.call_at(until, self.ring)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def passed(self, when: float | None) -> bool:
        """Whether the clock has reached ``when``."""
        return when is not None and self._clock.monotonic() >= when


class Inbox(Generic[T]):
    """Elements on their way from one task to another: ``ahead_max`` of them wait at most.

    With 0, one is fetched each time that somebody waits for one, and none before.
    """

    __slots__ = ("_ahead_max", "_bell", "_elements", "_room", "_wanted", "ended", "problem")

    def __init__(self, bell: Bell, ahead_max: int) -> None:
        self._bell = bell
        self._ahead_max = ahead_max
        self._elements: deque[T] = deque()
        self._room = Bell()
        self._wanted = False
        self.ended = False
        self.problem: BaseException | None = None

    def __len__(self) -> int:
        return len(self._elements)

    @property
    def over(self) -> bool:
        """True when nothing is here and nothing will come."""
        return self.ended and not self._elements

    @property
    def head(self) -> T:
        """The oldest element, which must be there."""
        return self._elements[0]

    @property
    def has_room(self) -> bool:
        """Whether one more may come."""
        return len(self._elements) < self._ahead_max or (self._wanted and not self._elements)

    async def room(self) -> None:
        """For the sender: wait until :attr:`has_room`."""
        while not self.has_room:
            await self._room.wait()

    def put(self, element: T) -> None:
        """For the sender, once there is room."""
        self._elements.append(element)
        self._wanted = False
        self._bell.ring()

    def end(self, problem: BaseException | None = None) -> None:
        """For the sender: nothing more comes, because of ``problem`` if there is one."""
        if not self.ended:
            self.ended, self.problem = True, problem
            self._bell.ring()

    def want(self) -> None:
        """For the receiver: one element is needed now."""
        self._wanted = True
        self._room.ring()

    def take(self) -> T:
        """For the receiver: the oldest element, which must be there."""
        element = self._elements.popleft()
        self._room.ring()
        return element

    async def arrived(self, until: float | None = None) -> bool:
        """For the only receiver of this bell: wait for an element or the end; False if the clock reached ``until`` first."""
        while True:
            if self._bell.passed(until):
                return False
            if self._elements or self.ended:
                return True
            self.want()
            await self._bell.wait(until)

    def give_up(self) -> None:
        """For the receiver: nothing is wanted any more. What is here is dropped, and no sender waits."""
        self._elements.clear()
        self._ahead_max = 1
        self._room.ring()

    def finish(self) -> None:
        """For the receiver, when it is over: raise what ended it, if anything did."""
        if self.problem is not None:
            problem, self.problem = self.problem, None
            raise problem


class Readers:
    """An async context manager: tasks that read sources into inboxes, all of which ring one :attr:`bell`.

    Leaving it cancels the tasks and waits until each has closed its source.
    """

    def __init__(self, clock: Timers = LOOP_CLOCK, guard: Guard | None = None) -> None:
        self.bell = Bell(clock)
        self._guard = guard
        self._reading: dict[Inbox[Any], _Reading] = {}

    def add(self, source: Source[T], ahead_max: int = 1) -> Inbox[T]:
        """Begin to read ``source``."""
        inbox: Inbox[T] = Inbox(self.bell, ahead_max)
        self._reading[inbox] = _Reading(source, inbox, self._guard)
        return inbox

    async def remove(self, *inboxes: Inbox[Any]) -> None:
        """Stop reading, and close; returns when it is closed. Raises what closing raised."""
        await _stop([self._reading.pop(inbox) for inbox in inboxes])

    async def __aenter__(self) -> "Readers":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.remove(*self._reading)
        except Exception as another:
            if not isinstance(problem, Exception):
                raise
            problem.add_note(f"Closing sources failed as well: {another!r}")


class _Reading:
    __slots__ = ("_stopping", "inbox", "source", "task")

    def __init__(self, source: Source[Any], inbox: Inbox[Any], guard: Guard | None) -> None:
        self.source = source
        self._stopping = False
        self.inbox = inbox
        self.task = asyncio.create_task(self._read(guard))

    async def _read(self, guard: Guard | None) -> None:
        try:
            async with opened(self.source, guard) as elements:
                while not self._stopping:  # a source may swallow its cancellation
                    await self.inbox.room()
                    try:
                        element = await anext(elements)
                    except StopAsyncIteration:
                        break
                    self.inbox.put(element)
        except BaseException as problem:
            self.inbox.end(problem)
            if self._stopping or not isinstance(problem, Exception | asyncio.CancelledError):
                raise
        else:
            self.inbox.end()

    def stop(self) -> None:
        self._stopping = True
        self.task.cancel()


async def _stop(readings: Iterable[_Reading]) -> None:
    stopped = list(readings)
    for reading in stopped:
        reading.stop()
    await ended(reading.task for reading in stopped)
    problems: list[Exception] = []
    for reading in stopped:
        problem = None if reading.task.cancelled() else reading.task.exception()
        if isinstance(problem, Exception):
            problems.append(problem)
        try:
            await close_all((reading.source,))  # a task that was cancelled before its first step has closed nothing
        except Exception as problem:
            problems.append(problem)
    raise_all("sources could not be closed", problems)


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Wait until all have ended, also if this is cancelled meanwhile: then with :class:`~asyncio.CancelledError` after it."""
    waiting = set(tasks)
    cancelled: asyncio.CancelledError | None = None
    while waiting:
        try:
            _, waiting = await asyncio.wait(waiting)
        except asyncio.CancelledError as problem:
            cancelled = problem
            waiting = {task for task in waiting if not task.done()}
    if cancelled is not None:
        raise cancelled


async def cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel all, and wait until they have ended, whatever they end with."""
    stopped = list(tasks)
    for task in stopped:
        task.cancel()
    await ended(stopped)
    for task in stopped:
        if not task.cancelled():
            task.exception()  # looked at, so that the loop does not report it


def fair(turn: int, number: int) -> Iterable[int]:
    """The places 0 to ``number - 1``, beginning at ``turn``."""
    return (place % number for place in range(turn, turn + number))
