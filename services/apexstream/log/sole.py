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
from apexstream.log.consumer import committed_offsets, group_consumer
from apexstream.log.feed import Feed, places_to_begin
from apexstream.log.fetcher import LogReader, Partition, Record
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
        self._reader = LogReader(self._to, client_id=f"{client_id}-feed")
        self._feed = Feed(self._reader)
        self._consumer = group_consumer(  # keeps the committed offsets, and reads nothing
            **self._to.options,
            client_id=client_id,
            group_id=group,
            enable_auto_commit=False,
        )

    async def __aenter__(self) -> "SoleReader":
        tps = [TopicPartition(*partition) for partition in self.partitions]
        self._consumer.assign(tps)
        self._consumer.pause(*tps)
        try:
            await self._consumer.start()
            await self._reader.__aenter__()
            await self._begin()
        except BaseException as problem:
            await self._stop()
            if isinstance(problem, KafkaError | OSError):
                raise unreachable(self._to, problem) from problem
            raise
        self._polled_at = time.monotonic()
        topics = {topic for topic, _ in self.partitions}
        self._forget = [
            HEALTH.check("submissions", self.trouble),
            *(meters.GROUP_LAG.read(partial(self._feed.lag, topic), self._group, topic) for topic in topics),
        ]
        return self

    async def _begin(self) -> None:
        for topic in {topic for topic, _ in self.partitions}:
            await self._reader.partitions(topic)
        committed = {partition: offset for partition, (offset, _) in (await self._committed()).items()}
        self._feed.follow(await places_to_begin(self._reader, committed))

    async def _stop(self) -> None:
        await self._feed.close()
        await self._reader.__aexit__()
        await self._consumer.stop()

    def trouble(self) -> str:
        """Why nothing is read; empty while it is. Safe from any thread."""
        silent_s = time.monotonic() - self._polled_at
        return f"nothing asked for records of {self._group} for {silent_s:.0f} s" if silent_s > POLL_S_MAX else ""

    async def __aexit__(self, *_: object) -> None:
        for call in self._forget:
            call()
        await self._stop()

    async def metadata(self) -> dict[Partition, str]:
        """What was committed beside each partition's offset; empty where nothing was."""
        return {partition: metadata for partition, (_, metadata) in (await self._committed()).items()}

    async def _committed(self) -> dict[Partition, tuple[int, str]]:
        return await committed_offsets(self._consumer, self.partitions)

    async def poll(self, timeout_s: float) -> list[tuple[Partition, list[Record]]]:
        """New records by partition, or nothing after ``timeout_s``."""
        self._polled_at = time.monotonic()
        return await self._feed.poll(timeout_s)

    async def commit(self, offsets: Mapping[Partition, tuple[int, str]], *, timeout_s: float) -> None:
        """Commit (next offset, metadata) by partition. Raises :class:`Unavailable` if Kafka does not take it in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._consumer.commit({TopicPartition(*p): OffsetAndMetadata(*at) for p, at in offsets.items()})
        except (KafkaError, TimeoutError) as problem:
            raise Unavailable(f"could not commit: {problem!r}", where=str(self._to)) from problem

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Fetch nothing more of ``partitions`` until :meth:`resume`."""
        self._feed.pause(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Fetch ``partitions`` again."""
        self._feed.resume(partitions)
