"""Reads all partitions of some topics for the one process whose turn it is, and keeps its progress as committed offsets.

No consumer group decides here who reads: whoever uses this must have settled that by other means (``core.reign``). A group
would add its session's length to every takeover. The offsets are those of a group that never has members.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from aiokafka import OffsetAndMetadata
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from apexstream.core.errors import Unavailable
from apexstream.log.connection import Cluster, Connection
from apexstream.log.consumer import group_consumer
from apexstream.log.fetcher import Partition, Record
from apexstream.log.lag import assigned_lag
from apexstream.log.writer import unreachable
from apexstream.runtime import meters
from apexstream.runtime.health import HEALTH

POLL_S_MAX = 30.0  # a reader that nobody has asked for records for longer is not well


class SoleReader:
    """All partitions of ``partitions``, each from the offset that ``group`` has committed, or from its start."""

    def __init__(self, to: Cluster, partitions: Iterable[Partition], *, group: str, client_id: str) -> None:
        self._to = Connection.to(to)
        self.partitions = tuple(partitions)
        self._group = group
        self._polled_at = time.monotonic()
        self._forget: list[Callable[[], None]] = []
        self._consumer = group_consumer(
            **self._to.options,
            client_id=client_id,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=500,
        )

    async def __aenter__(self) -> "SoleReader":
        self._consumer.assign([TopicPartition(*partition) for partition in self.partitions])
        try:
            await self._consumer.start()
        except (KafkaError, OSError) as problem:
            await self._consumer.stop()
            raise unreachable(self._to, problem) from problem
        self._polled_at = time.monotonic()
        topics = {topic for topic, _ in self.partitions}
        self._forget = [
            HEALTH.check("submissions", self.trouble),
            *(meters.GROUP_LAG.read(partial(self._lag, topic), self._group, topic) for topic in topics),
        ]
        return self

    def trouble(self) -> str:
        """Why nothing is read; empty while it is. Safe from any thread."""
        silent_s = time.monotonic() - self._polled_at
        return f"nothing asked for records of {self._group} for {silent_s:.0f} s" if silent_s > POLL_S_MAX else ""

    def _lag(self, topic: str) -> int:
        return assigned_lag(self._consumer, [partition for partition in self.partitions if partition[0] == topic])

    async def __aexit__(self, *_: object) -> None:
        for call in self._forget:
            call()
        await self._consumer.stop()

    async def metadata(self) -> dict[Partition, str]:
        """What was committed beside each partition's offset; empty where nothing was."""
        tps = [TopicPartition(*partition) for partition in self.partitions]
        committed = await self._consumer._coordinator.fetch_committed_offsets(tps)  # noqa: SLF001 - no public way to the metadata
        return {(tp.topic, tp.partition): committed[tp].metadata if tp in committed else "" for tp in tps}

    async def poll(self, timeout_s: float) -> list[tuple[Partition, list[Record]]]:
        """New records by partition, or nothing after ``timeout_s``."""
        self._polled_at = time.monotonic()
        got = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000))
        return [((tp.topic, tp.partition), records) for tp, records in got.items()]

    async def commit(self, offsets: Mapping[Partition, tuple[int, str]], *, timeout_s: float) -> None:
        """Commit (next offset, metadata) by partition. Raises :class:`Unavailable` if Kafka does not take it in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._consumer.commit({TopicPartition(*p): OffsetAndMetadata(*at) for p, at in offsets.items()})
        except (KafkaError, TimeoutError) as problem:
            raise Unavailable(f"could not commit: {problem!r}", where=str(self._to)) from problem

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Fetch nothing more of ``partitions`` until :meth:`resume`."""
        self._consumer.pause(*(TopicPartition(*partition) for partition in partitions))

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Fetch ``partitions`` again."""
        self._consumer.resume(*(TopicPartition(*partition) for partition in partitions))
