"""Operators that call a function for every element: map, filter, tap; and custom ones."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from types import CoroutineType
from typing import Any, TypeVar, overload

from apexstream.plugin.operators.calls import PLAIN, SKIP, STOP, Function, Replaced, above, guarded, marked, ruling
from apexstream.plugin.operators.concurrency import overlapping
from apexstream.plugin.operators.stream import Guard, Readable, Source, Stream, opened

T = TypeVar("T")
U = TypeVar("U")


@overload
def map(  # noqa: A001 - its name everywhere
    source: Source[T], function: Callable[[T], Awaitable[U]], *, concurrency: int = ..., ordered: bool = ...
) -> Stream[U]: ...
@overload
def map(  # noqa: A001
    source: Source[T], function: Callable[[T], U], *, concurrency: int = ..., ordered: bool = ...
) -> Stream[U]: ...
def map(  # noqa: A001
    source: Source[T], function: Callable[[T], Any], *, concurrency: int = 1, ordered: bool = True
) -> Stream[Any]:
    """Each element's result. With ``concurrency`` above 1 so many calls of an async function overlap; ``ordered``: results
    keep the elements' order, else they come as they are ready. At most ``concurrency`` elements are in hand.
    """
    above(0, concurrency=concurrency)

    async def one_by_one(guard: Guard | None) -> AsyncGenerator[Any, None]:
        async with opened(source, guard) as elements:
            async for element in elements:
                try:
                    result: Any = function(element)
                    if (kind := type(result)) is CoroutineType or (kind not in PLAIN and isinstance(result, Awaitable)):
                        result = await result
                except Exception as problem:
                    result = await ruling(guard, problem, element)
                    if result is SKIP:
                        continue
                    if result is STOP:
                        return
                yield result

    async def overlapped(guard: Guard | None) -> AsyncGenerator[Any, None]:
        call = partial(guarded, guard, function)
        calls = overlapping(source, call, guard, concurrency=concurrency, ordered=ordered)
        async with aclosing(calls) as results:
            async for _, result in results:
                if result is not SKIP:
                    yield result

    return Stream(one_by_one if concurrency == 1 else overlapped, source)


def filter(  # noqa: A001 - its name everywhere
    source: Source[T], predicate: Function[T, object], *, concurrency: int = 1, ordered: bool = True
) -> Stream[T]:
    """The elements for which ``predicate`` is true; concurrency as in :func:`map`."""
    above(0, concurrency=concurrency)

    async def one_by_one(guard: Guard | None) -> AsyncGenerator[T, None]:
        async with opened(source, guard) as elements:
            async for element in elements:
                try:
                    keep: Any = predicate(element)
                    if (kind := type(keep)) is CoroutineType or (kind not in PLAIN and isinstance(keep, Awaitable)):
                        keep = await keep
                    kept = element
                except Exception as problem:
                    keep = kept = await ruling(guard, problem, element)
                    if keep is STOP:
                        return
                    keep = keep is not SKIP
                if keep:
                    yield kept

    async def overlapped(guard: Guard | None) -> AsyncGenerator[T, None]:
        calls = overlapping(source, marked(guard, predicate), guard, concurrency=concurrency, ordered=ordered)
        async with aclosing(calls) as results:
            async for element, keep in results:
                if type(keep) is Replaced:
                    yield keep.value
                elif keep is not SKIP and keep:
                    yield element

    return Stream(one_by_one if concurrency == 1 else overlapped, source)


def tap(source: Source[T], function: Function[T, object]) -> Stream[T]:
    """The elements unchanged, after ``function`` was called with each."""

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        call = marked(guard, function)
        async with opened(source, guard) as elements:
            async for element in elements:
                done = await call(element)
                if done is STOP:
                    return
                if type(done) is Replaced:
                    yield done.value
                elif done is not SKIP:
                    yield element

    return Stream(run, source)


def custom(source: Source[T], build: Callable[[AsyncIterator[T]], Readable[U]]) -> Stream[U]:
    """An operator of one's own: ``build`` takes the opened elements and gives a stream, as an async generator function does.
    Both are closed for it.
    """

    async def run(guard: Guard | None) -> AsyncGenerator[U, None]:
        async with opened(source, guard) as elements, opened(build(elements)) as results:
            async for result in results:
                yield result

    return Stream(run, source)
