"""Several sources into one stream, in an order that the sources alone decide: zip, concat, interleave."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal, TypeAlias, TypeVar, overload

from apexstream.plugin.operators.errors import Uneven
from apexstream.plugin.operators.stream import Guard, Source, Stream, close_all, opened

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

Length: TypeAlias = Literal["strict", "shortest", "longest"]

_ENDED: Final[Any] = object()


@overload
def zip(  # noqa: A001 - its name everywhere
    a: Source[A], b: Source[B], /, *, length: Length = ..., fill: Any = ...
) -> Stream[tuple[A, B]]: ...
@overload
def zip(  # noqa: A001
    a: Source[A], b: Source[B], c: Source[C], /, *, length: Length = ..., fill: Any = ...
) -> Stream[tuple[A, B, C]]: ...
@overload
def zip(  # noqa: A001
    *sources: Source[Any], length: Length = ..., fill: Any = ...
) -> Stream[tuple[Any, ...]]: ...
def zip(*sources: Source[Any], length: Length = "strict", fill: Any = None) -> Stream[Any]:  # noqa: A001 - its name everywhere
    """Tuples of the sources' first elements, second elements, and so on, read in turn from left to right.

    When a source ends, ``strict`` fails with :class:`~apexstream.plugin.operators.Uneven` if another goes on, ``shortest``
    ends, and ``longest`` puts ``fill`` in its place. Sources are waited for one by one: give each a ``buffer`` if they are slow.
    """
    if length not in {"strict", "shortest", "longest"}:
        raise ValueError(f"length is {length!r}, and must be strict, shortest or longest")

    async def run(guard: Guard | None) -> AsyncGenerator[tuple[Any, ...], None]:
        async with _opened_all(sources, guard) as iterators:
            while iterators and (row := await _row(iterators, length)) is not None:
                yield tuple(fill if element is _ENDED else element for element in row)

    return Stream(run, *sources)


async def _row(iterators: list[AsyncIterator[Any]], length: Length) -> list[Any] | None:
    row: list[Any] = []
    for iterator in iterators:
        row.append(await anext(iterator, _ENDED))
        if row[-1] is _ENDED and length == "shortest":
            return None
        if length == "strict" and (row[-1] is _ENDED) != (row[0] is _ENDED):
            shorter = 1 if row[0] is _ENDED else len(row)
            raise Uneven(f"source {shorter} of {len(iterators)} ended before another", hint="Or say length=")
    return None if all(element is _ENDED for element in row) else row


def concat(*sources: Source[T]) -> Stream[T]:
    """All elements of the first source, then all of the second, and so on. A source is opened when its turn comes."""

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        try:
            for source in sources:
                async with opened(source, guard) as elements:
                    async for element in elements:
                        yield element
        finally:
            await close_all(sources)

    return Stream(run, *sources)


def interleave(*sources: Source[T]) -> Stream[T]:
    """One element of each source in turn; a source that has ended is left out from there on. The same in every run: what is
    not ready is waited for, unlike in ``merge``.
    """

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        async with _opened_all(sources, guard) as iterators:
            while iterators:
                for iterator in iterators.copy():
                    element = await anext(iterator, _ENDED)
                    if element is _ENDED:
                        iterators.remove(iterator)
                    else:
                        yield element

    return Stream(run, *sources)


@asynccontextmanager
async def _opened_all(sources: tuple[Source[Any], ...], guard: Guard | None) -> AsyncIterator[list[AsyncIterator[Any]]]:
    try:
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(opened(source, guard)) for source in sources]
    finally:
        await close_all(sources)  # also those after one that could not be opened
