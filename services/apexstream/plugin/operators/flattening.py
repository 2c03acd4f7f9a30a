"""Streams of streams: flat_map and switch."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar, overload

from apexstream.plugin.operators.calls import SKIP, STOP, Replaced, above, at_least, marked, ruling
from apexstream.plugin.operators.reading import Inbox, Readers, fair
from apexstream.plugin.operators.stream import Guard, Source, Stream, opened

T = TypeVar("T")
U = TypeVar("U")


@overload
def flat_map(
    source: Source[T],
    function: Callable[[T], Awaitable[Source[U]]],
    *,
    concurrency: int = ...,
    ordered: bool = ...,
    ahead_max: int = ...,
) -> Stream[U]: ...
@overload
def flat_map(
    source: Source[T],
    function: Callable[[T], Source[U]],
    *,
    concurrency: int = ...,
    ordered: bool = ...,
    ahead_max: int = ...,
) -> Stream[U]: ...
def flat_map(
    source: Source[T],
    function: Callable[[T], Any],
    *,
    concurrency: int = 1,
    ordered: bool = True,
    ahead_max: int = 1,
) -> Stream[Any]:
    """All elements of the streams that ``function`` makes of the elements, one stream after the other.

    With ``concurrency`` above 1 so many of them are read at once, each ``ahead_max`` elements ahead; ``ordered``: they are
    still given one after the other, else as their elements come.
    """
    above(0, concurrency=concurrency)
    at_least(0, ahead_max=ahead_max)

    async def one_by_one(guard: Guard | None) -> AsyncGenerator[Any, None]:
        call = _opener(guard, function)
        async with opened(source, guard) as elements:
            async for element in elements:
                verdict = inner = await call(element)
                if inner is not SKIP and inner is not STOP:
                    verdict = SKIP
                    try:
                        async with opened(inner, guard) as results:
                            async for result in results:
                                yield result
                    except Exception as problem:
                        verdict = await ruling(guard, problem, element)
                if verdict is STOP:
                    return
                if verdict is not SKIP:
                    yield verdict

    async def overlapped(guard: Guard | None) -> AsyncGenerator[Any, None]:
        async with Readers(guard=guard) as readers:
            flat = _Flat(readers, source, function, guard, concurrency=concurrency, ahead_max=ahead_max)
            while await flat.advanced():
                inbox = flat.next_ready(ordered=ordered)
                if inbox is None:
                    await flat.wait()
                elif inbox:
                    yield inbox.take()
                else:
                    verdict = await flat.closed(inbox)
                    if verdict is STOP:
                        return
                    if verdict is not SKIP:
                        yield verdict

    return Stream(one_by_one if concurrency == 1 else overlapped, source)


def _opener(guard: Guard | None, function: Callable[[T], Any]) -> Callable[[T], Coroutine[Any, Any, Any]]:
    """``function``, with a value that stands for its failed call as the only element of a stream."""
    call = marked(guard, function)

    async def inner(element: T) -> Any:
        result = await call(element)
        return [result.value] if type(result) is Replaced else result

    return inner


class _Flat:
    """The inner streams that are being read, at most ``concurrency``, in order of their elements."""

    def __init__(
        self,
        readers: Readers,
        source: Source[Any],
        function: Callable[[Any], Any],
        guard: Guard | None,
        *,
        concurrency: int,
        ahead_max: int,
    ) -> None:
        self._readers = readers
        self._outer = readers.add(source, ahead_max=0)
        self._call = _opener(guard, function)
        self._guard = guard
        self._concurrency = concurrency
        self._ahead_max = ahead_max
        self._inner: dict[Inbox[Any], Any] = {}
        self._turn = 0
        self._stopped = False

    @property
    def _has_room(self) -> bool:
        return len(self._inner) < self._concurrency and not self._stopped

    async def advanced(self) -> bool:
        """Open as many inner streams as may be; False when there are no more and all were read."""
        while self._outer and self._has_room:
            element = self._outer.take()
            inner = await self._call(element)
            if inner is STOP:
                self._stopped = True
            elif inner is not SKIP:
                self._inner[self._readers.add(inner, self._ahead_max)] = element
        if self._inner:
            return True
        if self._outer.over:
            self._outer.finish()
        return not (self._outer.over or self._stopped)

    def next_ready(self, *, ordered: bool) -> Inbox[Any] | None:
        """An inner stream with an element, or at its end."""
        inboxes = list(self._inner)
        if ordered:
            inboxes[1:] = []
        for place in fair(self._turn, len(inboxes)):
            if inboxes[place] or inboxes[place].over:
                self._turn = place + 1
                return inboxes[place]
        return None

    async def wait(self) -> None:
        if self._has_room:
            self._outer.want()
        for inbox in self._inner:
            inbox.want()
        await self._readers.bell.wait()

    async def closed(self, inbox: Inbox[Any]) -> Any:
        """Forget a stream that is over: ``SKIP``, or the ruling on what ended it."""
        element = self._inner.pop(inbox)
        await self._readers.remove(inbox)
        try:
            inbox.finish()
        except Exception as problem:
            return await ruling(self._guard, problem, element)
        return SKIP


def switch(source: Source[Source[T]], *, ahead_max: int = 1) -> Stream[T]:
    """The elements of the newest stream that ``source`` gave: when another comes, the one before is closed.

    Ends when ``source`` and its newest stream have ended.
    """
    at_least(0, ahead_max=ahead_max)

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        async with Readers(guard=guard) as readers:
            outer = readers.add(source, ahead_max=1)
            inner: Inbox[T] | None = None
            while not (outer.over and (inner is None or inner.over)):
                if outer:
                    if inner is not None:
                        await readers.remove(inner)
                    inner = readers.add(outer.take(), ahead_max)
                elif inner:
                    yield inner.take()
                elif outer.problem is not None:
                    outer.finish()
                elif inner is not None and inner.problem is not None:
                    inner.finish()
                else:
                    if inner is not None:
                        inner.want()
                    await readers.bell.wait()
            for inbox in (outer, inner):
                if inbox is not None:
                    inbox.finish()

    return Stream(run, source)
