"""Reads whole topics as plain Kafka records, and the commits of all groups from Kafka's own topic of them."""

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord, TopicPartition

READ_TIMEOUT_S = 120.0
_COMMITS = "__consumer_offsets"


@dataclass(frozen=True, slots=True)
class Commit:
    """Group ``group`` said at ``at_ms`` (broker's clock) that it needs nothing of the partition before ``offset`` again."""

    group: str
    topic: str
    partition: int
    offset: int
    metadata: str
    at_ms: int


@asynccontextmanager
async def raw_consumer(bootstrap: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group, which commits nothing."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 << 20,
        request_timeout_ms=20_000,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def read_topic(bootstrap: str, topic: str) -> list[ConsumerRecord]:
    """All records that the topic holds now, by partition and offset; empty if there is no such topic."""
    records: list[ConsumerRecord] = []
    async with asyncio.timeout(READ_TIMEOUT_S), raw_consumer(bootstrap) as consumer:
        cluster = await consumer._client.fetch_all_metadata()
        partitions = [TopicPartition(topic, number) for number in cluster.partitions_for_topic(topic) or ()]
        if not partitions:
            return []
        ends = await consumer.end_offsets(partitions)
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        open_ones = {tp for tp in partitions if (await consumer.position(tp)) < ends[tp]}
        while open_ones:
            got = await consumer.getmany(*open_ones, timeout_ms=500)
            for tp, batch in got.items():
                records += [record for record in batch if record.offset < ends[tp]]
            open_ones = {tp for tp in open_ones if (await consumer.position(tp)) < ends[tp]}
    return sorted(records, key=lambda record: (record.partition, record.offset))


async def read_commits(bootstrap: str, prefix: str) -> list[Commit]:
    """Every commit of groups whose names start with ``prefix``, in the order in which the broker took them."""
    found = (_commit(record) for record in await read_topic(bootstrap, _COMMITS))
    return [commit for commit in found if commit is not None and commit.group.startswith(prefix)]


def _commit(record: ConsumerRecord) -> Commit | None:
    """What a record of ``__consumer_offsets`` says; None for group metadata and tombstones."""
    key, value = record.key or b"", record.value
    if value is None or len(key) < 2 or struct.unpack_from(">h", key)[0] not in {0, 1}:
        return None
    group, at = _text(key, 2)
    topic, at = _text(key, at)
    (partition,) = struct.unpack_from(">i", key, at)
    version, offset = struct.unpack_from(">hq", value)
    at = 10 + (4 if version >= 3 else 0)  # a leader epoch since version 3
    metadata, _ = _compact_text(value, at) if version >= 4 else _text(value, at)
    return Commit(group, topic, partition, offset, metadata, record.timestamp)


def _text(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", data, at)
    return data[at + 2 : at + 2 + size].decode(), at + 2 + size


def _compact_text(data: bytes, at: int) -> tuple[str, int]:
    size = shift = 0
    while True:
        byte = data[at]
        at += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return data[at : at + size - 1].decode(), at + size - 1


def by_partition(records: Iterable[ConsumerRecord]) -> dict[int, list[ConsumerRecord]]:
    """Records grouped by partition, each in offset order."""
    grouped: dict[int, list[ConsumerRecord]] = {}
    for record in records:
        grouped.setdefault(record.partition, []).append(record)
    return grouped
