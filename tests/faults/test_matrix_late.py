"""The rows of the fault matrix about what arrives late, twice, or from strangers: F8, F9, F10, F13, F14.

They speak of transactions; the fence and the ledger take their place, and must do the same.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import TopicPartition
from tests.faults.brokers import three_brokers
from tests.faults.conftest import TIMEOUT_S, Begin, follow, steady
from tests.faults.harness import SHORT_SESSIONS, Run, started
from tests.faults.rawlog import read_topic

from apexstream.contracts.catalogue import load_catalogue

pytestmark = [pytest.mark.faults, pytest.mark.kafka]


async def test_f8_the_coordinator_of_the_runners_group_dies_while_they_commit(tmp_path: Path):
    async with three_brokers() as cluster, started(cluster, tmp_path, 8, timeout_s=TIMEOUT_S, **SHORT_SESSIONS) as run:
        following = follow(run, [*steady(6, 15.0), *steady(20, 0.5, name="short")])
        await asyncio.sleep(2.0)
        for _ in range(2):
            await cluster.crash("__consumer_offsets", _coordinated_by(run.installation.prefix + "runners"))
            await asyncio.sleep(3.0)
            await cluster.recover()
        await asyncio.gather(*following)
        report = await run.verdict()
    assert report.ok, str(report)


@pytest.mark.parametrize("when", ["during", "after"])
async def test_f9_a_runner_that_slept_with_its_commit_under_way_tears_nothing(begin: Begin, when: str):
    """Nobody knows whether that commit counted: the new owner begins where the log says, not where the sleeper stood."""
    async with begin(hurt={"runner-a": {"FAULT_POINT": f"{when}-commit:2:stop"}}) as run:
        made = run.installation
        late = made.services["runner-a"]
        following = follow(run, [*steady(6, 4.0), *steady(12, 1.0, name="short")])
        await late.stopped()
        await made.moved_away_from(late)
        made.expect_end(late)
        late.thaw()
        await late.ended()
        made.revive(late, FAULT_POINT="")
        await asyncio.gather(*following)
        report = await run.verdict()
    assert report.ok, str(report)


async def test_f10_records_that_arrive_again_and_late_count_once(begin: Begin):
    """All that the chunks topic holds is appended to it again, in order and out of it, while its streams go on."""
    async with begin() as run:
        made = run.installation
        following, planted = follow(run, steady(8, 8.0)), set[tuple[int, int]]()
        for number in range(4):
            await asyncio.sleep(1.5)
            if number == 1:
                made.kill(made.services["runner-a"])
                made.revive(made.services["runner-a"])
            planted |= await _again(run, shuffled=number % 2 == 1)
        await asyncio.gather(*following)
        report = await run.verdict(planted)
    assert report.ok, str(report)
    assert len(planted) > 100


@pytest.mark.parametrize("topics", [("chunks",), ("assignments", "task-events", "tasks.normal", "segments", "streams")])
async def test_f13_f14_a_strangers_open_transaction_delays_nobody(begin: Begin, topics: tuple[str, ...]):
    """Even in the partitions of checkpoints and of commits' work: the platform's readers wait for nobody's transaction."""
    async with begin() as run, _open_transaction(run, topics):
        jobs = steady(8, 4.0)
        following = follow(run, jobs)
        await asyncio.sleep(2.0)
        run.installation.kill(run.installation.services["runner-b"])
        run.installation.revive(run.installation.services["runner-b"])
        async with asyncio.timeout(40):
            await asyncio.gather(*following)  # to the last frame of each, while the transaction is open
    assert all(seen.ended for seen in run.evidence.seen)


def _coordinated_by(group: str, partitions: int = 4) -> int:
    """The partition of commits that a group belongs to, as the broker computes it (Java's hash of a string)."""
    value = 0
    for letter in group:
        value = (31 * value + ord(letter)) & 0xFFFFFFFF
    return (value & 0x7FFFFFFF) % partitions


async def _again(run: Run, *, shuffled: bool) -> set[tuple[int, int]]:
    """Append everything again; where the copies lie, by partition and offset."""
    made = run.installation
    topic = made.prefix + "chunks"
    records = await read_topic(made.brokers.bootstrap_servers, topic)
    if shuffled:
        random.Random(1).shuffle(records)
    producer = AIOKafkaProducer(bootstrap_servers=made.brokers.bootstrap_servers)
    await producer.start()
    try:
        sent = [
            await producer.send(topic, record.value, key=record.key, partition=record.partition) for record in records
        ]
        return {(done.partition, done.offset) for done in await asyncio.gather(*sent)}
    finally:
        await producer.stop()


@asynccontextmanager
async def _open_transaction(run: Run, names: tuple[str, ...]) -> AsyncIterator[None]:
    made = run.installation
    producer = AIOKafkaProducer(
        bootstrap_servers=made.brokers.bootstrap_servers,
        transactional_id=f"{made.prefix}stranger",
        transaction_timeout_ms=120_000,
    )
    partitions = {topic.name: topic.partitions for topic in load_catalogue()}
    await producer.start()
    try:
        await producer.begin_transaction()
        for name in names:
            for number in range(partitions[f"apex.{name}"]):
                place = TopicPartition(made.prefix + name, number)
                await producer.send_and_wait(place.topic, b"a stranger's", key=b"nobody", partition=place.partition)
        yield
        await producer.abort_transaction()
    finally:
        await producer.stop()
