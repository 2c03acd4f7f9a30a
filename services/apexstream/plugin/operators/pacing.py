"""When elements go on: throttle, debounce, rate_limit, buffer. Throttle and debounce drop elements, by their nature; the
others drop none unless they are told to.

An element's time is when the operator takes it: a consumer that is slow holds the source back, not the clock.
"""

from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, Literal, TypeAlias, TypeVar

from apexstream.plugin.operators.calls import above, at_least
from apexstream.plugin.operators.clock import LOOP_CLOCK, Timers, sleep_until
from apexstream.plugin.operators.errors import Overflow
from apexstream.plugin.operators.reading import Bell, Readers
from apexstream.plugin.operators.stream import Guard, Source, Stream, opened

T = TypeVar("T")

WhenFull: TypeAlias = Literal["wait", "drop_oldest", "drop_newest", "fail"]
BUFFER_COUNT_MAX = 64

_NOTHING: Final[Any] = object()


def rate_limit(
    source: Source[T], rate: float, *, per_s: float = 1.0, burst: int = 1, clock: Timers = LOOP_CLOCK
) -> Stream[T]:
    """All elements, at most ``rate`` in ``per_s`` seconds over time; after a pause up to ``burst`` at once. Delays, never
    drops: an element is asked for when the one before has gone.
    """
    above(0, rate=rate, per_s=per_s)
    at_least(1, burst=burst)
    interval = per_s / rate

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        due = float("-inf")  # when the next one may go
        async with opened(source, guard) as elements:
            async for element in elements:
                due = max(due, clock.monotonic() - (burst - 1) * interval)
                await sleep_until(clock, due)
                due += interval
                yield element

    return Stream(run, source)


def throttle(
    source: Source[T],
    seconds: float,
    *,
    keep: Literal["first", "last"] = "first",
    clock: Timers = LOOP_CLOCK,
    ahead_max: int = 1,
) -> Stream[T]:
    """At most one element in ``seconds``; the first goes at once. Of those that come too soon, ``keep="first"`` drops all, and
    ``"last"`` gives the newest when the time is over, or at the source's end. Continuous sources keep flowing.
    """
    above(0, seconds=seconds)
    at_least(0, ahead_max=ahead_max)

    async def first(guard: Guard | None) -> AsyncGenerator[T, None]:
        due = float("-inf")
        async with opened(source, guard) as elements:
            async for element in elements:
                now = clock.monotonic()
                if now >= due:
                    due = now + seconds
                    yield element

    async def last(guard: Guard | None) -> AsyncGenerator[T, None]:
        due, newest = float("-inf"), _NOTHING
        async with Readers(clock, guard) as readers:
            inbox = readers.add(source, ahead_max)
            while True:
                in_time = await inbox.arrived(None if newest is _NOTHING else due)
                if in_time and inbox.over:
                    break
                if in_time:
                    newest = inbox.take()
                if clock.monotonic() >= due:
                    due, element, newest = clock.monotonic() + seconds, newest, _NOTHING
                    yield element
            if newest is not _NOTHING:
                yield newest
            inbox.finish()

    return Stream(first if keep == "first" else last, source)


def debounce(
    source: Source[T],
    quiet_s: float,
    *,
    wait_max_s: float | None = None,
    clock: Timers = LOOP_CLOCK,
    ahead_max: int = 1,
) -> Stream[T]:
    """An element once ``quiet_s`` seconds brought no newer one; the last also at the source's end.

    A source that is never quiet gives nothing before its end, unless ``wait_max_s`` bounds how long the newest is held.
    """
    above(0, quiet_s=quiet_s, wait_max_s=wait_max_s)
    at_least(0, ahead_max=ahead_max)

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        due, latest, newest = float("inf"), float("inf"), _NOTHING
        async with Readers(clock, guard) as readers:
            inbox = readers.add(source, ahead_max)
            while True:
                if not await inbox.arrived(None if newest is _NOTHING else due):
                    element, newest = newest, _NOTHING
                    yield element
                elif inbox.over:
                    break
                else:
                    now = clock.monotonic()
                    if newest is _NOTHING:
                        latest = float("inf") if wait_max_s is None else now + wait_max_s
                    newest, due = inbox.take(), min(now + quiet_s, latest)
            if newest is not _NOTHING:
                yield newest
            inbox.finish()

    return Stream(run, source)


def buffer(
    source: Source[T],
    count_max: int = BUFFER_COUNT_MAX,
    *,
    when_full: WhenFull = "wait",
    on_drop: Callable[[T], object] | None = None,
) -> Stream[T]:
    """Read up to ``count_max`` elements ahead of the consumer, so that both work at the same time.

    When it is full, the source waits; or the oldest or the newest element is dropped, after ``on_drop`` was called with it;
    or the stream fails with :class:`~apexstream.plugin.operators.Overflow`, after what is in the buffer.
    """
    above(0, count_max=count_max)
    if when_full not in {"wait", "drop_oldest", "drop_newest", "fail"}:
        raise ValueError(f"when_full is {when_full!r}, and must be wait, drop_oldest, drop_newest or fail")

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        async with Readers(guard=guard) as readers:
            held: deque[T] = deque()
            pouring = _pouring(
                source, held, readers.bell, guard, count_max=count_max, when_full=when_full, on_drop=on_drop
            )
            inbox = readers.add(source if when_full == "wait" else pouring, count_max)
            while held or not inbox.over:
                if held:
                    yield held.popleft()
                elif inbox:
                    yield inbox.take()
                else:
                    await readers.bell.wait()
            inbox.finish()

    return Stream(run, source)


async def _pouring(
    source: Source[T],
    held: deque[T],
    bell: Bell,
    guard: Guard | None,
    *,
    count_max: int,
    when_full: WhenFull,
    on_drop: Callable[[T], object] | None,
) -> AsyncGenerator[T, None]:
    """Gives nothing, and pours the source into ``held``, which never waits for anyone."""
    async with opened(source, guard) as elements:
        async for element in elements:
            dropped = element
            if len(held) < count_max or when_full == "drop_oldest":
                dropped = held.popleft() if len(held) == count_max else _NOTHING
                held.append(element)
            elif when_full == "fail":
                raise Overflow(
                    f"the buffer is full with {count_max} elements", hint="Drop some, or let the source wait"
                )
            if dropped is not _NOTHING and on_drop is not None:
                on_drop(dropped)
            bell.ring()
    empty: tuple[T, ...] = ()
    for nothing in empty:
        yield nothing
