"""Which elements go on: take, skip, while and until conditions hold, and those not seen before."""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from typing import Any, TypeVar

from apexstream.plugin.operators.calls import Function, above, at_least, result_of
from apexstream.plugin.operators.reading import Readers
from apexstream.plugin.operators.stream import Guard, Source, Stream, opened

T = TypeVar("T")

REMEMBERED_MAX = 100_000  # keys that distinct remembers


def take(source: Source[T], count: int) -> Stream[T]:
    """The first ``count`` elements; the one after them is never asked for, and with 0 the source is not even opened."""
    at_least(0, count=count)

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        if count == 0:
            return
        left = count
        async with opened(source, guard) as elements:
            async for element in elements:
                yield element
                left -= 1
                if left == 0:
                    return

    return Stream(run, source)


def skip(source: Source[T], count: int) -> Stream[T]:
    """All but the first ``count`` elements."""
    at_least(0, count=count)

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        left = count
        async with opened(source, guard) as elements:
            async for element in elements:
                if left > 0:
                    left -= 1
                else:
                    yield element

    return Stream(run, source)


def take_while(source: Source[T], predicate: Function[T, object]) -> Stream[T]:
    """The elements before the first for which ``predicate`` is false."""

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        async with opened(source, guard) as elements:
            async for element in elements:
                if not await result_of(predicate, element):
                    return
                yield element

    return Stream(run, source)


def skip_while(source: Source[T], predicate: Function[T, object]) -> Stream[T]:
    """The elements from the first on for which ``predicate`` is false."""

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        skipping = True
        async with opened(source, guard) as elements:
            async for element in elements:
                if skipping:
                    skipping = bool(await result_of(predicate, element))
                if not skipping:
                    yield element

    return Stream(run, source)


def until(source: Source[T], predicate: Function[T, object]) -> Stream[T]:
    """The elements up to and with the first for which ``predicate`` is true."""

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        async with opened(source, guard) as elements:
            async for element in elements:
                yield element
                if await result_of(predicate, element):
                    return

    return Stream(run, source)


def until_done(source: Source[T], wait: Callable[[], Awaitable[object]]) -> Stream[T]:
    """The elements that come before ``wait()`` returns, as ``cancellation_token.wait``; the source is cancelled then."""

    async def end() -> AsyncGenerator[None, None]:
        await wait()
        yield None

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        async with Readers(guard=guard) as readers:
            ending = readers.add(end(), ahead_max=1)
            inbox = readers.add(source, ahead_max=0)
            while True:
                if ending or ending.over:
                    ending.finish()
                    return
                if inbox.over:
                    break
                if inbox:
                    yield inbox.take()
                else:
                    inbox.want()
                    await readers.bell.wait()
            inbox.finish()

    return Stream(run, source)


def distinct(
    source: Source[T], key_of: Function[T, Hashable] | None = None, *, remembered_max: int = REMEMBERED_MAX
) -> Stream[T]:
    """The elements whose key (default: the element) is not among the last ``remembered_max`` keys seen.

    Seeing a key again makes it a recent one. A key that was forgotten counts as new: with fewer keys than the bound between
    two of a kind no duplicate ever passes.
    """
    above(0, remembered_max=remembered_max)

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        seen: OrderedDict[Any, None] = OrderedDict()
        async with opened(source, guard) as elements:
            async for element in elements:
                key = element if key_of is None else await result_of(key_of, element)
                if key in seen:
                    seen.move_to_end(key)
                    continue
                seen[key] = None
                if len(seen) > remembered_max:
                    seen.popitem(last=False)
                yield element

    return Stream(run, source)
