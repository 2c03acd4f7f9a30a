"""Operators that wait for time, on a clock that stands still until it is moved."""

import asyncio
import itertools
import random
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.plugin import RateLimited, TransientError
from apexstream.plugin import operators as op
from apexstream.plugin.operators import Backoff, ManualClock, Session, Sliding, StreamTransformer, TimedOut, Tumbling

TIMES = st.lists(st.integers(0, 40), max_size=25).map(sorted)
FEW = settings(max_examples=40, deadline=None)


def at(clock: ManualClock, *times: float) -> StreamTransformer[float]:
    """A source that gives each time when the clock shows it."""

    async def source() -> Any:
        for time in times:
            await clock.sleep(time - clock.monotonic())
            yield time

    return op.stream(source, clock=clock)


async def timed(clock: ManualClock, stream: StreamTransformer[Any]) -> list[tuple[float, Any]]:
    """Every element with the time at which it came."""
    return await clock.run(stream.map(lambda element: (clock.monotonic(), element)).to_list())


async def test_a_batch_is_complete_seconds_after_its_first_element() -> None:
    clock = ManualClock()

    got = await timed(clock, at(clock, 1, 2, 3, 7, 7.5, 20).batch(seconds=3))

    assert got == [(4, [1, 2, 3]), (10, [7, 7.5]), (20, [20])]


async def test_a_batch_by_number_and_time_is_complete_at_whichever_is_first() -> None:
    clock = ManualClock()

    got = await timed(clock, at(clock, 1, 1, 1, 1, 9).batch(3, seconds=2))

    assert got == [(1, [1, 1, 1]), (3, [1]), (9, [9])]


@FEW
@given(TIMES, st.integers(1, 9), st.integers(1, 5))
async def test_batches_by_time_hold_everything_in_order_and_keep_their_bounds(
    times: list[int], seconds: int, count: int
) -> None:
    clock = ManualClock(turns=15)

    got = await timed(clock, at(clock, *times).batch(count, seconds=seconds + 0.5))

    assert [time for _, batch in got for time in batch] == times
    for when, batch in got:
        assert 0 < len(batch) <= count
        assert batch[0] <= batch[-1] <= when <= batch[0] + seconds + 0.5


async def test_throttle_gives_the_first_and_drops_what_comes_too_soon() -> None:
    clock = ManualClock()

    assert await timed(clock, at(clock, 0, 1, 2, 3, 4, 9).throttle(3)) == [(0, 0), (3, 3), (9, 9)]


async def test_throttle_that_keeps_the_last_gives_the_newest_when_the_time_is_over() -> None:
    clock = ManualClock()

    got = await timed(clock, at(clock, 0, 1, 2, 4, 9, 9.5).throttle(3, keep="last"))

    assert got == [(0, 0), (3, 2), (6, 4), (9, 9), (9.5, 9.5)]


@FEW
@given(TIMES, st.integers(1, 9), st.sampled_from(["first", "last"]))
async def test_throttle_never_gives_two_within_the_time_but_at_the_end(
    times: list[int], seconds: int, keep: Any
) -> None:
    clock = ManualClock(turns=100)

    got = await timed(clock, at(clock, *times).throttle(seconds, keep=keep))

    gaps = [later - sooner for (sooner, _), (later, _) in itertools.pairwise(got)]
    assert all(gap >= seconds for gap in (gaps if keep == "first" else gaps[:-1]))
    if times:
        assert got[0][1] == times[0]
        assert keep == "first" or got[-1][1] == times[-1]


async def test_debounce_gives_an_element_once_it_is_quiet() -> None:
    clock = ManualClock()

    assert await timed(clock, at(clock, 0, 1, 2, 8, 20, 20.5).debounce(3)) == [(5, 2), (11, 8), (20.5, 20.5)]


async def test_debounce_of_a_source_that_is_never_quiet_gives_one_in_wait_max() -> None:
    clock = ManualClock()

    got = await timed(clock, at(clock, *range(10)).debounce(3, wait_max_s=4.5))

    assert got == [(4.5, 4), (9, 9)]


@FEW
@given(st.integers(1, 4), st.integers(1, 12), TIMES)
async def test_rate_limit_loses_nothing_and_never_exceeds_the_rate_beyond_the_burst(
    rate: int, burst: int, times: list[int]
) -> None:
    clock = ManualClock(turns=15)

    got = await timed(clock, at(clock, *times).rate_limit(rate, per_s=8, burst=burst))

    assert [time for _, time in got] == times
    for first in range(len(got)):
        for last in range(first, len(got)):
            span = got[last][0] - got[first][0]
            assert last - first + 1 <= burst + span * rate / 8 + 1e-6


async def test_timeout_counts_the_waiting_for_the_source_alone() -> None:
    clock = ManualClock()

    async def slow_consumer(element: float) -> float:
        await clock.sleep(50)
        return element

    assert [x for _, x in await timed(clock, at(clock, 1, 2, 3).timeout(2).map(slow_consumer))] == [1, 2, 3]


async def test_timeout_ends_a_silent_source_and_cancels_it() -> None:
    clock = ManualClock()
    cancelled = asyncio.Event()

    async def source() -> Any:
        yield 1
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    got: list[int] = []
    with pytest.raises(TimedOut):
        await clock.run(op.stream(source, clock=clock).timeout(2).for_each(got.append))

    assert got == [1]
    assert cancelled.is_set()
    assert clock.monotonic() == 2


async def test_timeout_of_the_whole_and_of_the_first_are_told_apart() -> None:
    clock = ManualClock()
    first = at(clock, 5, 6).timeout(2, first_s=6)
    assert [x for _, x in await timed(clock, first)] == [5, 6]

    clock = ManualClock()
    with pytest.raises(TimedOut):
        await clock.run(at(clock, *range(100)).timeout(total_s=10.5).to_list())
    assert clock.monotonic() == 10.5


async def test_retry_opens_the_source_again_with_growing_pauses_and_gives_every_element_once() -> None:
    clock = ManualClock()
    opened_at: list[float] = []

    async def source() -> Any:
        opened_at.append(clock.monotonic())
        for number in range(4):
            if number == 2 and len(opened_at) < 4:
                raise TransientError("not yet")
            yield number

    backoff = Backoff(tries=4, first_s=1, max_s=3)
    got = await clock.run(op.stream(source, clock=clock).retry(backoff).to_list())

    assert got == [0, 1, 2, 3]
    assert opened_at == [0, 1, 3, 6]


async def test_retry_gives_up_after_its_tries_and_never_tries_what_is_no_use() -> None:
    clock = ManualClock()
    tried: list[int] = []

    async def source(problem: Exception) -> Any:
        tried.append(1)
        raise problem
        yield

    for problem, times in ((TransientError("x"), 3), (ValueError("x"), 1)):
        tried.clear()
        with pytest.raises(type(problem)):
            await clock.run(op.stream(partial(source, problem), clock=clock).retry(Backoff(tries=3)).to_list())
        assert len(tried) == times


async def test_retrying_calls_a_function_again_and_waits_as_long_as_it_is_asked_to() -> None:
    clock = ManualClock()
    calls: list[float] = []

    async def fetch(x: int) -> int:
        calls.append(clock.monotonic())
        if len(calls) < 3:
            raise RateLimited(7)
        return x

    assert await clock.run(op.stream([5]).map(op.retrying(fetch, clock=clock)).to_list()) == [5]
    assert calls == [0, 7, 14]


def test_backoff_with_jitter_stays_in_the_upper_half() -> None:
    backoff = Backoff(first_s=2, max_s=10, jitter=random.Random(1))

    pauses = [backoff.pause_s(failures, ValueError()) for failures in range(1, 50)]

    assert all(1 <= pause <= 10 for pause in pauses)
    assert len(set(pauses)) == len(pauses)


async def test_windows_in_arrival_time_close_by_the_clock_alone() -> None:
    clock = ManualClock()

    got = await timed(clock, at(clock, 1, 2, 6, 31).window(Tumbling(5)))

    assert [(when, w.start, list(w.elements)) for when, w in got] == [(5, 0, [1, 2]), (10, 5, [6]), (31, 30, [31])]


async def test_sessions_and_sliding_windows_in_arrival_time_close_by_the_clock_alone() -> None:
    clock = ManualClock()
    got = await timed(clock, at(clock, 1, 2, 6, 31).window(Session(3)))
    assert [(when, list(w.elements)) for when, w in got] == [(5, [1, 2]), (9, [6]), (31, [31])]

    clock = ManualClock()
    got = await timed(clock, at(clock, 1, 2, 6).window(Sliding(3)))
    assert [list(w.elements) for _, w in got] == [[1], [1, 2], [6]]
    assert [round(when, 6) for when, _ in got] == [1, 2, 6]


async def test_the_loops_own_clock_is_the_default() -> None:
    async def source() -> Any:
        yield 1
        await asyncio.sleep(0.03)
        yield 2

    assert await op.stream(source).batch(10, seconds=0.01).to_list() == [[1], [2]]


@pytest.mark.parametrize(
    "build",
    [
        lambda: op.batch([]),
        lambda: op.batch([], 0),
        lambda: op.batch([], seconds=0),
        lambda: op.throttle([], float("nan")),
        lambda: op.rate_limit([], 0),
        lambda: op.map([], str, concurrency=0),
        lambda: op.buffer([], 0),
        lambda: op.buffer([], when_full="explode"),  # type: ignore[arg-type]
        lambda: op.take([], -1),
        lambda: op.window([], Tumbling(0)),
        lambda: op.window([], op.Hopping(5, 6)),
        lambda: op.window([], Tumbling(1), lateness=1),
        lambda: op.window([], Tumbling(1), time_of=float, lateness=-1),
        lambda: op.timeout([], 0),
        lambda: op.zip([], [], length="odd"),  # type: ignore[call-overload]
        lambda: Backoff(tries=0),
    ],
)
def test_a_wrong_parameter_is_refused_when_the_stream_is_built(build: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        build()
