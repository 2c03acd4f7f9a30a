"""Several sources read at the same time, into one stream in the order in which elements arrive: merge, combine_latest, race."""

from collections.abc import AsyncGenerator
from typing import Any, Final, TypeVar, overload

from apexstream.plugin.operators.calls import at_least
from apexstream.plugin.operators.reading import Inbox, Readers, fair
from apexstream.plugin.operators.stream import Guard, Source, Stream, raise_all

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

_NOTHING: Final[Any] = object()


def merge(*sources: Source[T], priority: bool = False, ahead_max: int = 1) -> Stream[T]:
    """All elements of all sources as they arrive, each source's in its order; each is read ``ahead_max`` elements ahead.

    Fair: while a source has an element ready, every other one gives at most one before it. With ``priority`` the first source
    that has one goes first, always: those after it may starve. The first source to fail ends it, after its elements.
    """
    at_least(0, ahead_max=ahead_max)

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        async with Readers(guard=guard) as readers:
            inboxes = [readers.add(source, ahead_max) for source in sources]
            turn = 0
            while inboxes:
                ready = await _next_ready(readers, inboxes, 0 if priority else turn)
                if inboxes[ready]:
                    turn = ready + 1
                    yield inboxes[ready].take()
                else:
                    inboxes.pop(ready).finish()
                    turn = ready

    return Stream(run, *sources)


async def _next_ready(readers: Readers, inboxes: list[Inbox[T]], turn: int) -> int:
    """The place, counted from ``turn``, of the first that has an element or is over; waits for one."""
    while True:
        for place in fair(turn, len(inboxes)):
            if inboxes[place] or inboxes[place].ended:
                return place
        for inbox in inboxes:
            inbox.want()
        await readers.bell.wait()


@overload
def combine_latest(a: Source[A], b: Source[B], /, *, ahead_max: int = ...) -> Stream[tuple[A, B]]: ...
@overload
def combine_latest(a: Source[A], b: Source[B], c: Source[C], /, *, ahead_max: int = ...) -> Stream[tuple[A, B, C]]: ...
@overload
def combine_latest(*sources: Source[Any], ahead_max: int = ...) -> Stream[tuple[Any, ...]]: ...
def combine_latest(*sources: Source[Any], ahead_max: int = 1) -> Stream[Any]:
    """The newest element of every source, as a tuple, whenever one of them gives another; first when each has given one.

    Ends when all have ended, or one ended without an element: there will never be a tuple then.
    """
    at_least(0, ahead_max=ahead_max)

    async def run(guard: Guard | None) -> AsyncGenerator[tuple[Any, ...], None]:
        newest = [_NOTHING] * len(sources)
        async with Readers(guard=guard) as readers:
            inboxes = {readers.add(source, ahead_max): place for place, source in enumerate(sources)}
            turn = 0
            while inboxes:
                waiting = list(inboxes)
                ready = await _next_ready(readers, waiting, turn)
                inbox, turn = waiting[ready], ready + 1
                place = inboxes[inbox]
                if inbox:
                    newest[place] = inbox.take()
                    if _NOTHING not in newest:
                        yield tuple(newest)
                    continue
                inbox.finish()
                del inboxes[inbox]
                if newest[place] is _NOTHING:
                    return

    return Stream(run, *sources)


def race(*sources: Source[T]) -> Stream[T]:
    """The elements of whichever source gives one first; the others are closed then. One that fails or ends before has lost.

    When all have lost, their errors are raised, several as an :class:`ExceptionGroup`.
    """

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        problems: list[Exception] = []
        async with Readers(guard=guard) as readers:
            inboxes = [readers.add(source, ahead_max=0) for source in sources]
            while inboxes:
                ready = await _next_ready(readers, inboxes, 0)
                if inboxes[ready]:
                    winner = inboxes.pop(ready)
                    await readers.remove(*inboxes)
                    while await winner.arrived() and winner:
                        yield winner.take()
                    winner.finish()
                    return
                try:
                    inboxes.pop(ready).finish()
                except Exception as problem:
                    problems.append(problem)
        raise_all("every source of a race failed", problems)

    return Stream(run, *sources)
