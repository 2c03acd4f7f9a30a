"""One source for several consumers, who come and go."""

import asyncio
from typing import Any

import pytest

from apexstream.plugin import operators as op
from apexstream.plugin.operators import HubClosed, Overflow, Spent, stream


async def settled() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_the_source_is_not_read_before_enough_consumers_have_come() -> None:
    asked: list[int] = []

    async with op.broadcast(stream(range(9)).tap(asked.append), consumers_min=2) as hub:
        first = asyncio.create_task(stream(hub.subscribe()).to_list())
        await settled()
        assert asked == []
        second = stream(hub.subscribe())
        assert await second.to_list() == await first == list(range(9))


async def test_the_slowest_consumer_holds_the_source_back_within_its_buffer() -> None:
    asked: list[int] = []

    async with op.broadcast(stream(range(99)).tap(asked.append), ahead_max=4, consumers_min=2) as hub:
        slow = hub.subscribe()
        fast = asyncio.create_task(stream(hub.subscribe()).to_list())
        await settled()
        assert asked == list(range(5))
        await slow.aclose()
        assert await fast == list(range(99))


async def test_a_consumer_that_comes_late_gets_what_is_read_from_then_on() -> None:
    more = asyncio.Event()

    async def source() -> Any:
        yield 1
        await more.wait()
        yield 2

    async with op.broadcast(source) as hub:
        early = asyncio.create_task(stream(hub.subscribe()).to_list())
        await settled()
        late = hub.subscribe()
        more.set()
        assert await stream(late).to_list() == [2]
        assert await early == [1, 2]


async def test_the_source_waits_while_there_is_no_consumer_and_goes_on_with_the_next() -> None:
    async with op.broadcast(range(100), ahead_max=1) as hub:
        assert await stream(hub.subscribe()).take(3).to_list() == [0, 1, 2]
        assert hub.consumers == 0
        await settled()
        following = await stream(hub.subscribe()).take(2).to_list()

    assert following[0] in {3, 4, 5}  # what was in the first consumer's buffer is gone with it
    assert following[1] == following[0] + 1


async def test_leaving_the_hub_closes_the_source_and_fails_whoever_still_reads() -> None:
    closed = asyncio.Event()

    async def source() -> Any:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with op.broadcast(source) as hub:
        reading = asyncio.create_task(stream(hub.subscribe()).to_list())
        await settled()

    assert closed.is_set()
    with pytest.raises(HubClosed):
        await reading


async def test_an_error_of_the_source_reaches_every_consumer() -> None:
    async def source() -> Any:
        yield 1
        raise ZeroDivisionError

    async with op.broadcast(source, consumers_min=2) as hub:
        both = await asyncio.gather(*(stream(hub.subscribe()).to_list() for _ in range(2)), return_exceptions=True)

    assert [type(problem) for problem in both] == [ZeroDivisionError] * 2


async def test_an_error_that_no_consumer_saw_reaches_whoever_leaves_the_hub() -> None:
    may_fail = asyncio.Event()

    async def source() -> Any:
        yield 1
        await may_fail.wait()
        raise ZeroDivisionError

    async def share() -> None:
        async with op.broadcast(source) as hub:
            first = hub.subscribe()
            reading = asyncio.create_task(stream(first).to_list())
            await settled()
            reading.cancel()
            await settled()
            may_fail.set()
            await settled()

    with pytest.raises(ZeroDivisionError):
        await share()


async def test_a_hub_that_is_never_entered_reads_nothing() -> None:
    hub = op.broadcast([1])

    await hub.subscribe().aclose()

    assert hub.consumers == 0


async def test_a_consumers_stream_is_read_once() -> None:
    async with op.broadcast([1]) as hub:
        only = hub.subscribe()
        assert await stream(only).to_list() == [1]
        with pytest.raises(Spent):
            await stream(only).to_list()


async def test_a_consumer_that_may_lose_elements_does_not_hold_up_the_others() -> None:
    async with op.broadcast(range(1000), ahead_max=1, consumers_min=2) as hub:
        lossy = stream(hub.subscribe()).buffer(2, when_full="drop_oldest")
        fast = stream(hub.subscribe())
        async with lossy.opened() as elements:
            assert await asyncio.gather(anext(elements), fast.to_list()) == [0, list(range(1000))]
            assert await anext(elements) >= 990


async def test_a_branch_that_was_closed_does_not_hold_up_the_others() -> None:
    async with op.split(range(100), lambda x: x % 2, ahead_max=2) as (odd, even):
        await odd.aclose()
        assert await stream(even).to_list() == list(range(0, 100, 2))


async def test_a_key_whose_branch_was_closed_gets_a_new_one() -> None:
    announced: list[Any] = []

    async def first_two(part: tuple[str, Any]) -> list[int]:
        announced.append(part[0])
        return await stream(part[1]).take(2).to_list()

    source = [("a", n) for n in range(3)] + [("b", 0)]
    parts = stream(source).partition(lambda x: x[0], ahead_max=1)
    await parts.map(first_two, concurrency=4, ordered=False).to_list()

    assert announced[0] == "a"
    assert "b" in announced


async def test_open_branches_are_bounded() -> None:
    with pytest.raises(Overflow, match="3 branches"):
        await stream(range(9)).partition(lambda x: x, branches_max=3).for_each(lambda _: None)


async def test_closing_the_stream_of_branches_fails_whoever_still_reads_one() -> None:
    async with stream(range(1000)).partition(lambda x: x % 2, ahead_max=2).opened() as parts:
        _, branch = await anext(parts)
        reading = asyncio.create_task(stream(branch).to_list())
        await settled()

    with pytest.raises(HubClosed):
        await reading


async def test_what_is_in_a_branch_when_the_source_ends_can_still_be_read() -> None:
    branches = await stream([1, 2, 3]).partition(lambda x: x).to_list()

    assert [(key, await stream(branch).to_list()) for key, branch in branches] == [(1, [1]), (2, [2]), (3, [3])]
