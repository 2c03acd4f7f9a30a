"""What runs at the same time: how much of it, in which order its results come, and how it ends."""

import asyncio
import itertools
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.plugin import operators as op
from apexstream.plugin.base import CancellationToken
from apexstream.plugin.operators import ManualClock, Overflow, stream


class Gate:
    """Calls that end when they are let go; counts those that run."""

    def __init__(self) -> None:
        self.waiting: dict[Any, asyncio.Event] = {}
        self.most = 0
        self.cancelled: list[Any] = []

    async def __call__(self, element: Any) -> Any:
        self.waiting[element] = asyncio.Event()
        self.most = max(self.most, len(self.waiting))
        try:
            await self.waiting[element].wait()
        except asyncio.CancelledError:
            self.cancelled.append(element)
            raise
        finally:
            del self.waiting[element]
        return element


async def settled() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_at_most_so_many_calls_overlap_and_no_more_is_asked_of_the_source() -> None:
    gate, asked = Gate(), list[int]()
    reading = asyncio.create_task(stream(range(20)).tap(asked.append).map(gate, concurrency=3).to_list())

    await settled()
    assert asked == sorted(gate.waiting) == [0, 1, 2]
    while not reading.done():
        for event in gate.waiting.values():
            event.set()
        await settled()

    assert reading.result() == list(range(20))
    assert gate.most == 3


async def test_unordered_results_come_as_they_are_ready_and_ordered_ones_wait() -> None:
    for ordered, expected in ((True, []), (False, [2])):
        gate, got = Gate(), list[int]()
        reading = asyncio.create_task(stream(range(3)).map(gate, concurrency=3, ordered=ordered).for_each(got.append))
        await settled()
        gate.waiting[2].set()
        await settled()
        assert got == expected
        for event in gate.waiting.values():
            event.set()
        await reading


async def test_what_comes_before_a_failed_call_is_given_first_and_the_others_are_cancelled() -> None:
    gate, got = Gate(), list[int]()

    async def call(element: int) -> int:
        if element == 1:
            while len(gate.waiting) < 2:
                await asyncio.sleep(0)
            raise ZeroDivisionError
        return element if element == 0 else await gate(element)

    with pytest.raises(ZeroDivisionError):
        await stream(range(9)).map(call, concurrency=4).for_each(got.append)

    assert got == [0]
    assert sorted(gate.cancelled) == [2, 3]


async def test_cancelling_the_consumer_cancels_every_call_before_it_returns() -> None:
    gate = Gate()
    reading = asyncio.create_task(stream(range(9)).map(gate, concurrency=4).to_list())
    await settled()

    reading.cancel()
    await asyncio.wait([reading])

    assert sorted(gate.cancelled) == [0, 1, 2, 3]


async def test_cancelling_again_while_a_source_closes_does_not_leave_it_open() -> None:
    closing, may_close, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def source() -> Any:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closing.set()
            await may_close.wait()
            closed.set()

    reading = asyncio.create_task(stream(op.merge(source())).to_list())
    await settled()
    reading.cancel()
    await closing.wait()
    reading.cancel()
    await settled()
    assert not reading.done()
    may_close.set()
    await asyncio.wait([reading])

    assert reading.cancelled()
    assert closed.is_set()


async def test_a_source_that_swallows_its_cancellation_is_stopped_all_the_same() -> None:
    async def stubborn() -> Any:
        while True:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                yield "still here"

    reading = asyncio.create_task(stream(op.merge(stubborn())).to_list())
    await settled()
    reading.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(reading, 1)


async def test_a_source_that_is_cancelled_from_within_ends_the_stream_as_a_plain_loop_would() -> None:
    async def source() -> Any:
        yield 1
        raise asyncio.CancelledError

    for compose in (op.merge, op.buffer, op.interleave):
        with pytest.raises(asyncio.CancelledError):
            await stream(compose(source())).to_list()


async def test_threaded_functions_do_not_hold_up_the_loop() -> None:
    barrier = threading.Barrier(3)  # passes only when three calls are in it at once

    assert (
        await stream(range(3)).map(op.threaded(lambda x: barrier.wait(5) >= 0), concurrency=3).to_list() == [True] * 3
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=4))
async def test_a_fair_merge_gives_every_ready_source_its_turn(sizes: list[int]) -> None:
    got = await stream(op.merge(*([place] * size for place, size in enumerate(sizes)), ahead_max=20)).to_list()

    for place, size in enumerate(sizes):
        turns = [at for at, source in enumerate(got) if source == place]
        assert len(turns) == size
        for sooner, later in itertools.pairwise(turns):
            between = got[sooner + 1 : later]
            assert len(between) == len(set(between))


async def test_a_merge_by_priority_gives_the_first_source_that_is_ready() -> None:
    merged = op.merge(["low"] * 3, ["lower"] * 3, priority=True, ahead_max=3)

    assert await stream(merged).to_list() == ["low"] * 3 + ["lower"] * 3


async def test_merge_waits_for_no_silent_source() -> None:
    async def silent() -> Any:
        await asyncio.Event().wait()
        yield

    assert await stream(op.merge(silent(), [1, 2])).take(2).to_list() == [1, 2]


async def test_a_race_is_won_by_the_first_element_and_lost_by_failing() -> None:
    clock = ManualClock()

    async def runner(name: str, after: float, problem: Exception | None = None) -> Any:
        await clock.sleep(after)
        if problem is not None:
            raise problem
        yield name
        yield name

    failing = runner("failing", 1, OSError())
    assert await clock.run(stream(op.race(runner("slow", 3), runner("fast", 2), failing)).to_list()) == ["fast"] * 2


async def test_a_race_that_all_lose_raises_what_they_raised() -> None:
    def failing(problem: Exception) -> Any:
        def source() -> Any:
            raise problem

        return source

    with pytest.raises(OSError, match="one"):
        await stream(op.race(failing(OSError("one")), [])).to_list()
    with pytest.raises(ExceptionGroup):
        await stream(op.race(failing(OSError()), failing(KeyError()))).to_list()
    assert await stream(op.race([], [])).to_list() == []


async def test_switch_leaves_the_stream_before_and_closes_it() -> None:
    clock, closed = ManualClock(), list[str]()

    async def inner(name: str) -> Any:
        try:
            for number in range(3):
                await clock.sleep(2)
                yield f"{name}{number}"
        finally:
            closed.append(name)

    async def outer() -> Any:
        yield inner("a")
        await clock.sleep(5)
        yield inner("b")

    got: list[str] = []
    await clock.run(
        stream(outer()).switch().tap(lambda x: closed.append("") if x == "b0" else None).for_each(got.append)
    )

    assert got == ["a0", "a1", "b0", "b1", "b2"]
    assert closed == ["a", "", "b"]


async def test_flat_map_opens_at_most_so_many_streams_at_once() -> None:
    open_now = most = 0

    async def inner(x: int) -> Any:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
                yield x
        finally:
            open_now -= 1

    for ordered in (True, False):
        got = await stream(range(9)).flat_map(inner, concurrency=3, ordered=ordered).to_list()
        assert sorted(got) == sorted(list(range(9)) * 3)
    assert (open_now, most) == (0, 3)


@pytest.mark.parametrize(("when_full", "expected"), [("drop_oldest", [7, 8, 9]), ("drop_newest", [0, 1, 2])])
async def test_a_full_buffer_drops_what_it_is_told_to_and_says_so(when_full: Any, expected: list[int]) -> None:
    dropped: list[int] = []
    held = asyncio.Event()

    async def source() -> Any:
        for number in range(10):
            yield number
        held.set()

    buffered = stream(source).buffer(3, when_full=when_full, on_drop=dropped.append)
    async with op.custom(buffered, _starting(held)).opened() as elements:
        got = [element async for element in elements]

    assert got[-3:] == expected or got[:3] == expected
    assert sorted(got + dropped) == list(range(10))


def _starting(held: asyncio.Event) -> Any:
    """Asks for the first element, and for the next when the source is through."""

    async def build(elements: Any) -> Any:
        async for element in elements:
            await held.wait()
            yield element

    return build


async def test_a_full_buffer_may_fail() -> None:
    async def slow(element: int) -> int:
        await asyncio.sleep(0.001)
        return element

    with pytest.raises(Overflow):
        await stream(range(1000)).buffer(3, when_full="fail").map(slow).to_list()


async def test_a_buffer_reads_ahead_exactly_its_bound() -> None:
    asked: list[int] = []
    async with stream(range(100)).tap(asked.append).buffer(5).opened() as elements:
        assert await anext(elements) == 0
        await settled()
        assert asked == list(range(6))


async def test_until_done_ends_when_the_task_is_cancelled() -> None:
    token = CancellationToken()

    async def source() -> Any:
        yield 1
        token.cancel()
        await asyncio.Event().wait()

    assert await stream(source).until_done(token.wait).to_list() == [1]
