"""A lazy stream, and the one way in which every operator opens and closes what it reads.

A :class:`Stream` describes; nothing runs before its first element is asked for. Whoever opens a source closes it, at its
end, at an early exit, on an error and on cancellation, and so does whoever was given a source and never came to open it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

TURN_ELEMENTS_MAX = 256  # taken from an ordinary iterable before other tasks get a turn

Readable: TypeAlias = AsyncIterable[T] | Iterable[T]
Source: TypeAlias = AsyncIterable[T] | Iterable[T] | Callable[[], Readable[T] | Awaitable[Readable[T]]]
"""What operators read: an async iterable, an iterable, or a function that opens one (also ``async def``).

Only what can be opened again can be read again, by :func:`~apexstream.plugin.operators.retry` for instance.
"""


class Guard(Protocol):
    """What a ``catch`` further on makes of a failed call; see :mod:`apexstream.plugin.operators.catching`."""

    async def ruling(self, problem: Exception, element: Any) -> Any:
        """``SKIP``, ``STOP``, the value that stands for the result; or raises ``problem``."""
        ...


class Stream(Generic[T_co]):
    """A lazy sequence of elements. Iterating it opens its sources; iterating it again opens them again, if they allow it.

    ``async for`` that is left early leaves closing to the garbage collector, as with any async generator; ``async with
    stream.opened() as elements`` closes at once.
    """

    __slots__ = ("_run", "_sources")

    def __init__(self, run: Callable[[Guard | None], AsyncGenerator[T_co, None]], *sources: object) -> None:
        """``run`` makes the elements and closes what it opened; ``sources`` are closed if it is never called.

        Closing may be asked of a source more than once, as it may of any async generator.
        """
        self._run = run
        self._sources = sources

    def __aiter__(self) -> AsyncGenerator[T_co, None]:
        return self._run(None)

    def guarded(self, guard: Guard | None) -> AsyncGenerator[T_co, None]:
        """For operators: the elements, with failures of functions put before ``guard``."""
        return self._run(guard)

    def opened(self) -> "opened[T_co]":
        """An async context manager: the elements, closed at its end."""
        return opened(self)

    async def aclose(self) -> None:
        """Close sources that were not opened. A stream that is being read is closed through its iterator instead."""
        await close_all(self._sources)


class opened(Generic[T]):  # noqa: N801 - used as a function
    """``async with opened(source) as elements``: an async iterator over any source, closed at the end for sure."""

    __slots__ = ("_elements", "_guard", "_source")

    def __init__(self, source: Source[T], guard: Guard | None = None) -> None:
        self._source = source
        self._guard = guard
        self._elements: AsyncIterator[T] | None = None

    async def __aenter__(self) -> AsyncIterator[T]:
        self._elements = await _iterator(self._source, self._guard)
        return self._elements

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await close_all((self._elements, self._source))
        except Exception as another:
            if not isinstance(problem, Exception):
                raise
            problem.add_note(f"Closing the source failed as well: {another!r}")


async def _iterator(source: Source[T], guard: Guard | None) -> AsyncIterator[T]:
    if isinstance(source, Stream):
        return source.guarded(guard)
    if isinstance(source, AsyncIterable):
        return aiter(source)
    if isinstance(source, str | bytes):
        raise TypeError(f"a {type(source).__name__} is one value, not a source; put it in a list")
    if isinstance(source, Iterable):
        return _steps(source)
    made = source()
    return await _iterator(await made if isinstance(made, Awaitable) else made, guard)


def elements_of(source: Source[T], guard: Guard | None) -> AsyncGenerator[T, None]:
    """The elements as an async generator, through no other one where the source gives one itself."""
    if isinstance(source, Stream):
        return source.guarded(guard)
    if isinstance(source, AsyncGenerator):
        return source
    if isinstance(source, Iterable) and not isinstance(source, AsyncIterable | str | bytes):
        return _steps(source)
    return _passed_on(source, guard)


async def _passed_on(source: Source[T], guard: Guard | None) -> AsyncGenerator[T, None]:
    async with opened(source, guard) as elements:
        async for element in elements:
            yield element


async def _steps(source: Iterable[T]) -> AsyncGenerator[T, None]:
    elements = iter(source)
    try:
        while True:
            for element in islice(elements, TURN_ELEMENTS_MAX):
                yield element
            await asyncio.sleep(
                0
            )  # an iterable never waits: without this nobody else would run, nor a cancellation arrive
            try:
                element = next(elements)
            except StopIteration:
                return
            yield element
    finally:
        close_iterator(elements)


async def close_all(sources: Iterable[object]) -> None:
    """Close each that can be closed, whatever happens to the others. Raises the error, or a group of them."""
    problems: list[Exception] = []
    for source in sources:
        try:
            await _close(source)
        except Exception as problem:
            problems.append(problem)
    raise_all("sources could not be closed", problems)


async def _close(source: object) -> None:
    if isinstance(source, Stream):
        await source.aclose()
    elif hasattr(source, "__anext__"):
        aclose = getattr(source, "aclose", None)
        if aclose is not None:
            await aclose()
    elif isinstance(source, Iterator):
        close_iterator(source)


def close_iterator(elements: object) -> None:
    """Close what is iterated without ``async``, if it can be: a generator, an open file."""
    close = getattr(elements, "close", None)
    if close is not None:
        close()


def raise_all(what: str, problems: list[Exception]) -> None:
    """Raise the only problem as it is, several as a group, none not at all."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ExceptionGroup(what, problems)
