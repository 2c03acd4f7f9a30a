"""Reads all partitions of some topics for the one process whose turn it is, and keeps its progress as committed offsets.

No consumer group decides here who reads: whoever uses this must have settled that by other means (``core.reign``). A group
would add its session's length to every takeover. The offsets are those of a group that never has members.
"""

import asyncio
from collections.abc import Iterable, Mapping

from aiokafka import AIOKafkaConsumer, OffsetAndMetadata
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from apexstream.core.errors import Unavailable
from apexstream.log.connection import Cluster, Connection
from apexstream.log.fetcher import Partition, Record
from apexstream.log.writer import unreachable


class SoleReader:
    """All partitions of ``partitions``, each from the offset that ``group`` has committed, or from its start."""

    def __init__(self, to: Cluster, partitions: Iterable[Partition], *, group: str, client_id: str) -> None:
        self._to = Connection.to(to)
        self.partitions = tuple(partitions)
        self._consumer = AIOKafkaConsumer(
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
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def metadata(self) -> dict[Partition, str]:
        """What was committed beside each partition's offset; empty where nothing was."""
        tps = [TopicPartition(*partition) for partition in self.partitions]
        committed = await self._consumer._coordinator.fetch_committed_offsets(tps)  # noqa: SLF001 - no public way to the metadata
        return {(tp.topic, tp.partition): committed[tp].metadata if tp in committed else "" for tp in tps}

    async def poll(self, timeout_s: float) -> list[tuple[Partition, list[Record]]]:
        """New records by partition, or nothing after ``timeout_s``."""
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
