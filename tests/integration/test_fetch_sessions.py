"""Views over fetch sessions on a real broker."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiokafka import errors

from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.sessions import FetchSession
from apexstream.log.view import View
from apexstream.log.writer import Writer

DEADLINE_S = 20


@pytest_asyncio.fixture
async def reader(kafka: str) -> AsyncIterator[LogReader]:
    async with LogReader(kafka, client_id="test") as reader:
        yield reader


async def test_a_fetch_in_a_session_gives_only_partitions_with_news(
    writer: Writer, reader: LogReader, topic: str
) -> None:
    partitions = await reader.partitions(topic)
    (node,) = reader.leaders(partitions)
    session, at = FetchSession(), dict.fromkeys(partitions, 0)
    first = await reader.fetch_news(node, at, session, max_wait_ms=0)
    await writer.append(topic, b"k", b"v", partition=2)

    news = await reader.fetch_news(node, at, session, max_wait_ms=500)

    assert len(first) == len(partitions)
    assert [(fetched.partition, fetched.next_offset) for fetched in news] == [((topic, 2), 1)]
    assert [record.value for record in news[0].records()] == [b"v"]


async def test_a_session_that_the_broker_does_not_know_is_begun_again(
    writer: Writer, reader: LogReader, topic: str
) -> None:
    partitions = await reader.partitions(topic)
    (node,) = reader.leaders(partitions)
    session, at = FetchSession(), dict.fromkeys(partitions, 0)
    await reader.fetch_news(node, at, session, max_wait_ms=0)
    session.id += 1  # as after a restart of the broker
    with pytest.raises(errors.KafkaError):
        await reader.fetch_news(node, at, session, max_wait_ms=0)
    await writer.append(topic, b"k", b"v", partition=1)

    news = await reader.fetch_news(node, at, session, max_wait_ms=0)

    assert [record.value for fetched in news for record in fetched.records()] == [b"v"]


async def test_a_view_gives_every_record_once_in_order_of_its_partition(
    writer: Writer, reader: LogReader, topic: str
) -> None:
    seen: dict[Partition, list[int]] = {}
    complete = asyncio.Event()

    def on_records(partition: Partition, records: list[Record]) -> None:
        seen.setdefault(partition, []).extend(record.offset for record in records)
        if sum(map(len, seen.values())) == 400:
            complete.set()

    view = await View.open(reader, {topic: on_records})
    following = asyncio.create_task(view.run())
    for number in range(400):
        await writer.append(topic, b"k", b"v", partition=number % 4)
        if number % 50 == 0:
            await asyncio.sleep(0.01)  # some alone, most in quick succession
    async with asyncio.timeout(DEADLINE_S):
        await complete.wait()
    following.cancel()

    assert seen == {(topic, partition): list(range(100)) for partition in range(4)}
