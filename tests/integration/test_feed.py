"""Feeds on a real broker: what is read at the reader's own pace, and when."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest_asyncio

from apexstream.log import feed
from apexstream.log.feed import Feed, places_to_begin
from apexstream.log.fetcher import LogReader, Partition
from apexstream.log.writer import Writer

DEADLINE_S = 60


@pytest_asyncio.fixture
async def followed(kafka: str, topic: str) -> AsyncIterator[Feed]:
    """A feed of all partitions from their beginning."""
    async with LogReader(kafka, client_id="test") as reader:
        made = Feed(reader)
        made.follow(dict.fromkeys(await reader.partitions(topic), 0))
        yield made
        await made.close()


async def values(followed: Feed, count: int) -> list[tuple[Partition, bytes | None]]:
    """The next ``count`` values or more, in the order in which they were given."""
    found: list[tuple[Partition, bytes | None]] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            for partition, records in await followed.poll(1.0):
                found += [(partition, record.value) for record in records]
    return found


async def test_a_record_is_not_kept_waiting_by_a_poll_that_began_before_it(
    writer: Writer, followed: Feed, topic: str, monkeypatch
) -> None:
    monkeypatch.setattr(feed, "_WAIT_MS_MAX", DEADLINE_S * 1000)  # a partition left out of a fetch would wait as long
    began = time.monotonic()

    for number in range(40):
        await writer.append(topic, b"k", b"%d" % number, partition=number % 4)
        assert await values(followed, 1) == [((topic, number % 4), b"%d" % number)]

    assert time.monotonic() - began < DEADLINE_S


async def test_a_paused_partition_gives_nothing_until_it_is_resumed_and_then_all(
    writer: Writer, followed: Feed, topic: str
) -> None:
    followed.pause([(topic, 1)])
    await writer.append(topic, b"k", b"held", partition=1)
    await writer.append(topic, b"k", b"free", partition=2)

    before = await values(followed, 1)
    followed.resume([(topic, 1)])

    assert before == [((topic, 2), b"free")]
    assert await values(followed, 1) == [((topic, 1), b"held")]
    assert followed.lag(topic) == 0


async def test_what_was_fetched_of_a_partition_that_was_let_go_is_not_given(
    writer: Writer, followed: Feed, topic: str
) -> None:
    assert await followed.poll(0.01) == []  # a fetch of all partitions is under way
    await writer.append(topic, b"k", b"old", partition=0)
    followed.follow({(topic, 1): 0})
    await writer.append(topic, b"k", b"new", partition=1)

    assert await values(followed, 1) == [((topic, 1), b"new")]


async def test_reading_begins_at_the_start_where_the_committed_offset_is_not_in_the_log(
    kafka: str, writer: Writer, topic: str
) -> None:
    for number in (0, 1, 2):
        await writer.append(topic, b"k", b"v", partition=number)
    wanted = {(topic, 0): -1, (topic, 1): 7, (topic, 2): 1, (topic, 3): 0}

    async with LogReader(kafka, client_id="test") as reader:
        places = await places_to_begin(reader, wanted)

    assert places == {(topic, 0): 0, (topic, 1): 0, (topic, 2): 1, (topic, 3): 0}
