"""Elements in lists: by number, by size, by time."""

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Generic, TypeVar

from apexstream.plugin.operators.calls import above, at_least
from apexstream.plugin.operators.clock import LOOP_CLOCK, Timers
from apexstream.plugin.operators.reading import Readers
from apexstream.plugin.operators.stream import Guard, Source, Stream, opened
from apexstream.plugin.values import encode_value

T = TypeVar("T")

BATCH_COUNT_MAX = 10_000  # of a batch for which no count is given


def payload_bytes(element: object) -> int:
    """Bytes of the chunk that the element would be. Raises :class:`~apexstream.plugin.InvalidChunk` if it cannot be one."""
    return len(encode_value(element)[0])


def batch(
    source: Source[T],
    count: int | None = None,
    *,
    seconds: float | None = None,
    bytes_max: int | None = None,
    size_of: Callable[[T], int] = payload_bytes,
    clock: Timers = LOOP_CLOCK,
    ahead_max: int = 1,
) -> Stream[list[T]]:
    """Lists of elements, never empty. A list is complete at ``count`` elements (without it: ``BATCH_COUNT_MAX``), before it
    would exceed ``bytes_max``, ``seconds`` after its first element was taken, or at the source's end, whichever is first.

    An element larger than ``bytes_max`` is a list of its own. Of a source that fails, what came before is given first. With
    ``seconds``, ``ahead_max`` elements are read ahead; otherwise nothing is.
    """
    if count is None and seconds is None and bytes_max is None:
        raise TypeError("batch() takes a count, seconds or bytes_max")
    at_least(1, count=count, bytes_max=bytes_max)
    above(0, seconds=seconds)
    at_least(0, ahead_max=ahead_max)
    pile = partial(_Pile[T], count or BATCH_COUNT_MAX, bytes_max, size_of)

    async def run(guard: Guard | None) -> AsyncGenerator[list[T], None]:
        piled = pile()
        async with opened(source, guard) as elements:
            try:
                async for element in elements:
                    for full in piled.add(element):
                        yield full
            except Exception:
                for rest in piled.rest():
                    yield rest
                raise
        for rest in piled.rest():
            yield rest

    if seconds is not None:
        return Stream(partial(_timed, source, pile, seconds=seconds, clock=clock, ahead_max=ahead_max), source)
    return Stream(run if bytes_max is not None else partial(_counted, source, count or BATCH_COUNT_MAX), source)


async def _counted(source: Source[T], count: int, guard: Guard | None) -> AsyncGenerator[list[T], None]:
    """By number alone: the common case, without what the others need."""
    pile: list[T] = []
    async with opened(source, guard) as elements:
        try:
            async for element in elements:
                pile.append(element)
                if len(pile) == count:
                    full, pile = pile, []
                    yield full
        except Exception:
            if pile:
                yield pile
            raise
    if pile:
        yield pile


async def _timed(
    source: Source[T],
    pile: Callable[[], "_Pile[T]"],
    guard: Guard | None,
    *,
    seconds: float,
    clock: Timers,
    ahead_max: int,
) -> AsyncGenerator[list[T], None]:
    piled = pile()
    due: float | None = None
    async with Readers(clock, guard) as readers:
        inbox = readers.add(source, ahead_max)
        while not inbox.over:
            if not await inbox.arrived(due):
                full = piled.rest()
            elif inbox:
                full = piled.add(inbox.take())
            else:
                break
            if full:
                due = None
            if due is None and piled.elements:
                due = clock.monotonic() + seconds
            for elements in full:
                yield elements
        for rest in piled.rest():
            yield rest
        inbox.finish()


class _Pile(Generic[T]):
    """A list that grows within its bounds."""

    __slots__ = ("_bytes", "_bytes_max", "_count", "_size_of", "elements")

    def __init__(self, count: int, bytes_max: int | None, size_of: Callable[[T], int]) -> None:
        self._count = count
        self._bytes_max = bytes_max
        self._size_of = size_of
        self._bytes = 0
        self.elements: list[T] = []

    def add(self, element: T) -> list[list[T]]:
        """Take an element in; what lists this completes, which are at most two."""
        size = 0 if self._bytes_max is None else self._size_of(element)
        full = self.rest() if self._exceeded_by(size) else []
        self.elements.append(element)
        self._bytes += size
        if len(self.elements) == self._count or self._exceeded_by(1):
            full += self.rest()
        return full

    def _exceeded_by(self, size: int) -> bool:
        return self._bytes_max is not None and self._bytes + size > self._bytes_max

    def rest(self) -> list[list[T]]:
        """The list as it is, if there is anything in it; it starts anew."""
        full = [self.elements] if self.elements else []
        self.elements, self._bytes = [], 0
        return full
