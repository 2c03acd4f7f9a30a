"""Operators that carry a value from element to element: scan and reduce."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeVar, overload

from apexstream.plugin.operators.calls import SKIP, STOP, Replaced, marked
from apexstream.plugin.operators.stream import Guard, Source, Stream, opened

T = TypeVar("T")
A = TypeVar("A")

NOTHING: Final[Any] = object()


@overload
def scan(source: Source[T], function: Callable[[T, T], Awaitable[T] | T]) -> Stream[T]: ...
@overload
def scan(source: Source[T], function: Callable[[A, T], Awaitable[A] | A], initial: A) -> Stream[A]: ...
def scan(source: Source[Any], function: Callable[[Any, Any], Any], initial: Any = NOTHING) -> Stream[Any]:
    """Every intermediate result of folding with ``function(so_far, element)``, ``initial`` first if it is given; without it
    the first element is the first result. As :func:`itertools.accumulate`. A failed call leaves the result so far.
    """

    async def run(guard: Guard | None) -> AsyncGenerator[Any, None]:
        so_far = initial
        if so_far is not NOTHING:
            yield so_far

        def step(element: Any) -> Any:
            return element if so_far is NOTHING else function(so_far, element)

        call = marked(guard, step)
        async with opened(source, guard) as elements:
            async for element in elements:
                result = await call(element)
                if result is STOP:
                    return
                if type(result) is Replaced:
                    yield result.value
                elif result is not SKIP:
                    so_far = result
                    yield so_far

    return Stream(run, source)


@overload
def reduce(source: Source[T], function: Callable[[T, T], Awaitable[T] | T]) -> Stream[T]: ...
@overload
def reduce(source: Source[T], function: Callable[[A, T], Awaitable[A] | A], initial: A) -> Stream[A]: ...
def reduce(source: Source[Any], function: Callable[[Any, Any], Any], initial: Any = NOTHING) -> Stream[Any]:
    """One element: the last result of :func:`scan`. None at all for an empty source without ``initial``."""
    results: Stream[Any] = scan(source, function) if initial is NOTHING else scan(source, function, initial)

    async def run(guard: Guard | None) -> AsyncGenerator[Any, None]:
        last = NOTHING
        async with aclosing(results.guarded(guard)) as all_results:
            async for result in all_results:
                last = result
        if last is not NOTHING:
            yield last

    return Stream(run, results)
