"""One source for several consumers, who come and go: broadcast, split, partition.

The source is read once. What consumers get are ordinary streams, each with a bounded buffer; the slowest sets the pace. One
that may lose elements rather than hold up the others reads through ``buffer(n, when_full="drop_oldest")``.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from apexstream.plugin.operators.calls import Function, above, result_of
from apexstream.plugin.operators.errors import HubClosed, Overflow, Spent
from apexstream.plugin.operators.pacing import BUFFER_COUNT_MAX
from apexstream.plugin.operators.reading import Bell, Inbox, ended
from apexstream.plugin.operators.stream import Guard, Source, Stream, close_all, opened

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

BRANCHES_MAX = 1024


class Outlet(Generic[T]):
    """The elements for one consumer, as an async iterator; closing it is leaving."""

    def __init__(self, ahead_max: int, on_leave: Callable[["Outlet[T]"], None]) -> None:
        self._inbox: Inbox[T] = Inbox(Bell(), ahead_max)
        self._on_leave = on_leave
        self._begun = False
        self._gone = False

    def __aiter__(self) -> "Outlet[T]":
        return self

    async def __anext__(self) -> T:
        await self._inbox.arrived()
        if not self._inbox.over:
            return self._inbox.take()
        self._inbox.finish()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Leave: nothing is kept for this consumer any more, and nobody waits for it."""
        if not self._gone:
            self._gone = True
            self._inbox.give_up()
            self._on_leave(self)

    async def put(self, element: T) -> None:
        """For the hub: hand an element over once there is room, or to nobody if the consumer has left."""
        await self._inbox.room()
        if not self._gone:
            self._inbox.put(element)

    def end(self, problem: BaseException | None) -> None:
        """For the hub: nothing more comes."""
        self._inbox.end(problem)

    def stream(self) -> Stream[T]:
        """What the consumer gets."""
        return Stream(self._read, self)

    async def _read(self, _: Guard | None) -> AsyncGenerator[T, None]:
        if self._begun:
            raise Spent("a consumer's stream can be read once", hint="Ask the hub for another")
        self._begun = True
        async with opened(self) as elements:
            async for element in elements:
                yield element


class _Pump(Generic[T]):
    """The task that reads the source and hands its elements out, for as long as it is entered."""

    def __init__(
        self,
        source: Source[T],
        deliver: Callable[[T], Awaitable[None]],
        end: Callable[[BaseException | None], bool],
        ready: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``end`` is told how it ended, and says whether anyone will see; ``ready`` is awaited before every element."""
        self._source = source
        self._deliver = deliver
        self._end = end
        self._ready = ready
        self._task: asyncio.Task[None] | None = None
        self._unseen: Exception | None = None

    def start(self, guard: Guard | None = None) -> None:
        self._task = asyncio.create_task(self._run(guard))

    async def _run(self, guard: Guard | None) -> None:
        try:
            async with opened(self._source, guard) as elements:
                if self._ready is None:
                    async for element in elements:
                        await self._deliver(element)
                else:
                    await self._ready()
                    async for element in elements:
                        await self._deliver(element)
                        await self._ready()
        except Exception as problem:
            if not self._end(problem):
                self._unseen = problem
        except BaseException:
            self._end(HubClosed("the source is not read any more: its hub was closed"))
            raise
        else:
            self._end(None)

    async def stop(self) -> None:
        """Cancel, and wait until the source is closed. Raises an error that no consumer has seen."""
        if self._task is not None:
            self._task.cancel()
            await ended([self._task])
        self._end(HubClosed("the source is not read any more: its hub was closed"))  # if it never ran
        await close_all((self._source,))
        if self._unseen is not None:
            raise self._unseen


class Hub(Generic[T]):
    """A source that is broadcast while this is entered: ``async with broadcast(source) as hub: a = hub.subscribe()``."""

    def __init__(self, source: Source[T], *, ahead_max: int, consumers_min: int) -> None:
        above(0, ahead_max=ahead_max, consumers_min=consumers_min)
        self._ahead_max = ahead_max
        self._missing = consumers_min
        self._outlets: list[Outlet[T]] = []
        self._came = Bell()
        self._over = False
        self._problem: BaseException | None = None
        self._pump = _Pump(source, self._deliver, self._end, self._ready)

    @property
    def consumers(self) -> int:
        """How many there are now."""
        return len(self._outlets)

    def subscribe(self) -> Stream[T]:
        """A stream of every element that is read from now on. Read it, or close it: otherwise it holds up all others."""
        outlet = Outlet[T](self._ahead_max, self._outlets.remove)
        self._outlets.append(outlet)
        self._missing -= 1
        self._came.ring()
        if self._over:
            outlet.end(self._problem)
        return outlet.stream()

    async def _ready(self) -> None:
        while not self._outlets or self._missing > 0:
            await self._came.wait()

    async def _deliver(self, element: T) -> None:
        for outlet in self._outlets.copy():
            await outlet.put(element)

    def _end(self, problem: BaseException | None) -> bool:
        if not self._over:
            self._over, self._problem = True, problem
            for outlet in self._outlets:
                outlet.end(problem)
        return bool(self._outlets)

    async def __aenter__(self) -> "Hub[T]":
        self._pump.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pump.stop()


def broadcast(source: Source[T], *, ahead_max: int = BUFFER_COUNT_MAX, consumers_min: int = 1) -> Hub[T]:
    """A :class:`Hub`, of which every consumer gets every element that is read while it is there.

    The source is read while the hub is entered and there is a consumer, for the first time when ``consumers_min`` have come;
    ``ahead_max`` elements ahead of the slowest. Leaving the hub closes the source; consumers that still read then get
    :class:`~apexstream.plugin.operators.HubClosed` after what is in their buffer. A source's error reaches every consumer, or
    whoever leaves the hub if there are none.
    """
    return Hub(source, ahead_max=ahead_max, consumers_min=consumers_min)


class Split(Generic[T]):
    """A source divided among fixed branches while this is entered; see :func:`split`."""

    def __init__(self, source: Source[T], predicates: Iterable[Function[T, object]], *, ahead_max: int) -> None:
        above(0, ahead_max=ahead_max)
        self._predicates = tuple(predicates)
        self._left: set[Outlet[T]] = set()
        self._outlets = [Outlet[T](ahead_max, self._left.add) for _ in range(len(self._predicates) + 1)]
        self._pump = _Pump(source, self._deliver, self._end)

    async def _deliver(self, element: T) -> None:
        for predicate, outlet in zip(self._predicates, self._outlets, strict=False):
            if await result_of(predicate, element):
                return await outlet.put(element)
        return await self._outlets[-1].put(element)

    def _end(self, problem: BaseException | None) -> bool:
        for outlet in self._outlets:
            outlet.end(problem)
        return len(self._left) < len(self._outlets)

    async def __aenter__(self) -> tuple[Stream[T], ...]:
        self._pump.start()
        return tuple(outlet.stream() for outlet in self._outlets)

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pump.stop()


def split(source: Source[T], *predicates: Function[T, object], ahead_max: int = BUFFER_COUNT_MAX) -> Split[T]:
    """``async with split(source, p, q) as (a, b, rest)``: every element to the branch of the first predicate that is true.

    The branches are read at the same time: one whose buffer of ``ahead_max`` is full holds up the others. What belongs to a
    branch that was closed is dropped, since nobody wants it. Leaving and errors are as with :func:`broadcast`.
    """
    return Split(source, predicates, ahead_max=ahead_max)


class _Partition(Generic[T, K]):
    """The branches that are open, by key, and those that were not yet told of."""

    def __init__(self, source: Source[T], key_of: Function[T, K], ahead_max: int, branches_max: int) -> None:
        self._key_of = key_of
        self._ahead_max = ahead_max
        self._branches_max = branches_max
        self._open: dict[K, Outlet[T]] = {}
        self.told: Inbox[tuple[K, Stream[T]]] = Inbox(Bell(), ahead_max=1)
        self.pump = _Pump(source, self._deliver, self._end)

    async def _deliver(self, element: T) -> None:
        key = await result_of(self._key_of, element)
        if key in self._open:
            return await self._open[key].put(element)
        if len(self._open) >= self._branches_max:
            raise Overflow(f"{self._branches_max} branches are open, and another key came", hint="Raise branches_max")
        outlet = self._open[key] = Outlet[T](self._ahead_max, lambda _: self._forget(key))
        await outlet.put(element)
        await self.told.room()
        return self.told.put((key, outlet.stream()))

    def _forget(self, key: K) -> None:
        del self._open[key]

    def _end(self, problem: BaseException | None) -> bool:
        for outlet in self._open.values():
            outlet.end(problem)
        self.told.end(problem)
        return True


@overload
def partition(
    source: Source[T],
    key_of: Callable[[T], Awaitable[K]],
    *,
    ahead_max: int = ...,
    branches_max: int = ...,
) -> Stream[tuple[K, Stream[T]]]: ...
@overload
def partition(
    source: Source[T],
    key_of: Callable[[T], K],
    *,
    ahead_max: int = ...,
    branches_max: int = ...,
) -> Stream[tuple[K, Stream[T]]]: ...
def partition(
    source: Source[T],
    key_of: Callable[[T], Any],
    *,
    ahead_max: int = BUFFER_COUNT_MAX,
    branches_max: int = BRANCHES_MAX,
) -> Stream[tuple[Any, Stream[T]]]:
    """A stream of (key, branch): a branch for each key as it first appears, with all elements of that key.

    The branches are read at the same time, by ``flat_map(…, concurrency=n, ordered=False)`` for instance: one whose buffer of
    ``ahead_max`` is full holds up the others. A key whose branch was closed gets a new one with its next element. More than
    ``branches_max`` open at once are :class:`~apexstream.plugin.operators.Overflow`. Closing the stream of branches closes
    the source; whoever still reads a branch then gets :class:`~apexstream.plugin.operators.HubClosed`.
    """
    above(0, ahead_max=ahead_max, branches_max=branches_max)

    async def run(guard: Guard | None) -> AsyncGenerator[tuple[Any, Stream[T]], None]:
        parts: _Partition[T, Any] = _Partition(source, key_of, ahead_max, branches_max)
        parts.pump.start(guard)
        try:
            while await parts.told.arrived() and not parts.told.over:
                yield parts.told.take()
            parts.told.finish()
        finally:
            await parts.pump.stop()

    return Stream(run, source)
