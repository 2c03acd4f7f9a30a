"""Statistics on a real broker: processors count what is in the log, whatever happens to them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.support.groups import members
from tests.support.jobs import Log, processing
from tests.support.streams import CODEC, Author

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.claims import ClaimWords
from apexstream.core.events import Scope, TaskChange, TaskEvent, WindowStats
from apexstream.core.widths import TOTALS
from apexstream.runtime.clock import SystemClock

CLAIM = ClaimWords(action="shop.orders").encode()
EVENTS_S_MAX = 60.0


def now(count: int, last: Kind = Kind.DATA) -> list[Chunk]:
    """Chunks that are yielded now: old ones have no windows of a second any more."""
    at_us = SystemClock().now_us()
    return [Chunk(kind, b"{}", at_us) for kind in [*[Kind.DATA] * (count - 1), last]]


@pytest.fixture
async def log(kafka: str) -> AsyncIterator[Log]:
    async with Log.open(kafka) as opened:
        opened.settings = opened.settings.model_copy(update={"stats": "on", "session_timeout_s": 6.0})
        await opened.writer.prepare(opened.settings.topic("task-events"))
        yield opened


async def table(log: Log) -> dict[bytes, WindowStats]:
    """What ``apex.stats`` holds."""
    topic, rows = log.settings.topic("stats"), dict[bytes, WindowStats]()
    ends = await log.reader.ends(await log.reader.partitions(topic))
    for partition, end in ends.items():
        async for records, _ in log.reader.scan(partition, 0, end):
            for record in records:
                rows.pop(record.key or b"", None)
                if record.value is not None:
                    rows[record.key or b""] = CODEC.decode(record.value, WindowStats)
    return rows


async def until(log: Log, *, chunks: int) -> dict[bytes, WindowStats]:
    """The table once the action has so many chunks."""
    async with asyncio.timeout(EVENTS_S_MAX):
        while True:
            rows = await table(log)
            if counted(rows, 3600) >= chunks:
                return rows
            await asyncio.sleep(0.2)


def counted(rows: dict[bytes, WindowStats], width_s: int) -> int:
    return sum(row.chunks for row in rows.values() if row.scope is Scope.ACTION and row.width_s == width_s)


async def test_what_streams_and_tasks_did_is_in_windows(log: Log) -> None:
    authors = [Author(f"s{number}") for number in range(20)]
    for author in authors:
        await log.append(author.stream_id, author.claim(0, CLAIM), author.run(now(50)))
    started = TaskEvent(
        task_id="s1",
        change=TaskChange.STARTED,
        at_us=SystemClock().now_us(),
        attempt=1,
        by="r",
        action="shop.orders",
    )
    await log.writer.append(log.settings.topic("task-events"), b"s1", CODEC.encode(started))
    async with processing(log.settings):
        rows = await until(log, chunks=1000)
    assert counted(rows, 60) == counted(rows, 3600) == 1000
    assert {row.chunks for row in rows.values() if row.width_s == TOTALS} == {50}
    assert sum(row.started for row in rows.values() if row.width_s == 60) == 1


async def test_a_second_life_counts_on_where_the_first_one_stopped(log: Log) -> None:
    authors = [Author(f"s{number}") for number in range(6)]
    for author in authors:
        await log.append(author.stream_id, author.claim(0, CLAIM), author.run(now(10)))
    async with processing(log.settings):
        await until(log, chunks=60)
    for author in authors:
        await log.append(author.stream_id, author.run(now(5, Kind.COMPLETE)))
    async with processing(log.settings):
        rows = await until(log, chunks=84)
    totals = [row for row in rows.values() if row.width_s == TOTALS]
    assert [(row.chunks, row.completed, row.action) for row in totals] == [(14, 1, "shop.orders")] * 6
    assert counted(rows, 60) == 84


async def shared_by(log: Log, count: int) -> None:
    """Return once so many processes have partitions."""
    async with asyncio.timeout(EVENTS_S_MAX):
        while True:
            found = await members(log.settings.bootstrap_servers, f"{log.settings.topic_prefix}processors-stats")
            if len(found) == count and all(found.values()):
                return
            await asyncio.sleep(0.1)


async def test_two_processes_share_the_partitions_and_count_nothing_twice(log: Log) -> None:
    authors = [Author(f"s{number}") for number in range(12)]

    async def write() -> None:
        for author in authors:
            await log.append(author.stream_id, author.run(now(5)))

    for author in authors:
        await log.append(author.stream_id, author.claim(0, CLAIM))
    async with processing(log.settings):
        await write()
        await until(log, chunks=60)
        async with processing(log.settings.model_copy(update={"instance": "second"})):
            await shared_by(log, 2)
            await write()
            await until(log, chunks=120)
            await write()
        await until(log, chunks=180)
        async with processing(log.settings.model_copy(update={"instance": "third"})):
            await write()  # and it ends while it starts: it must not stay in the group
        await shared_by(log, 1)
        await write()
        rows = await until(log, chunks=300)
    assert counted(rows, 60) == counted(rows, 3600) == 300
