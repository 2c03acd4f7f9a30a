"""Reads partitions directly, without a consumer group: scans of a range, and tails of many partitions at once.

Much leaner than a consumer (no record objects of its own, no queue, one fetch in flight a broker), yet it checks every
batch's CRC and reads all compressions. A scan and a tail never share a connection: a broker answers the requests of one
connection in order, so a scan would wait behind the tail's long poll.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import structlog
from aiokafka import errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition

from apexstream.core.errors import DataCorruption, Unavailable
from apexstream.log.connection import Cluster, Connection
from apexstream.log.epoch import DescribeTopicIdRequest, topic_id
from apexstream.log.sessions import FetchSession, SessionFetch
from apexstream.log.writer import unreachable
from apexstream.runtime import meters

_START, _END = -2, -1  # ListOffsets: the log's first offset, the offset after its last record
_RETRY_DELAY_S = 0.1
PACED_BYTES_MAX = 64 * 1024
_RETRIES_MAX = 100  # of one fetch or lookup: 10 s, longer than a leader election takes
_log = structlog.get_logger(__name__)

Partition = tuple[str, int]


class Record(Protocol):
    """A record as it lies in the log. ``timestamp`` is milliseconds since the epoch, set by the broker."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def timestamp(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one partition gave in one fetch, not decoded yet."""

    partition: Partition
    offset: int  # that was asked for
    next_offset: int  # to ask for next
    batches: Sequence[Any] = ()
    size_bytes: int = 0

    def records(self) -> list[Record]:
        """Decode, check and cut to what was asked for; transaction markers are left out."""
        records: list[Record] = []
        for batch in self.batches:
            if not batch.validate_crc():
                raise DataCorruption(
                    f"a batch at or after offset {self.offset} has a wrong checksum",
                    where=f"{self.partition[0]}/{self.partition[1]}",
                    hint="The broker's disk or the network damaged it; compare the replicas",
                )
            if not batch.is_control_batch:
                records.extend(batch)
        if records and records[0].offset < self.offset:  # a fetch from the middle of a batch returns the whole batch
            records = [record for record in records if record.offset >= self.offset]
        return records


class LogReader:
    """A connection for fetches and offset lookups. Use as an async context manager; every call is bounded in time."""

    def __init__(self, to: Cluster, *, client_id: str) -> None:
        self._to = Connection.to(to)
        self._client = AIOKafkaClient(**self._to.options, client_id=client_id, request_timeout_ms=15_000)
        self._ends: dict[Partition, int] = {}
        self._fetched_bytes = meters.LOG_FETCHED_BYTES.of()
        self._fetch_took = meters.LOG_REQUEST.of("fetch")
        self._offsets_took = meters.LOG_REQUEST.of("offsets")

    async def __aenter__(self) -> "LogReader":
        try:
            await self._client.bootstrap()
        except (errors.KafkaError, OSError) as problem:
            await self._client.close()
            raise unreachable(self._to, problem) from problem
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def partitions(self, topic: str) -> list[Partition]:
        """All partitions of ``topic``; :class:`Unavailable` if there is no such topic."""
        await self._client.add_topic(topic)
        for _ in range(_RETRIES_MAX):
            known = self._client.cluster.partitions_for_topic(topic)
            if known:
                return [(topic, partition) for partition in sorted(known)]
            await self._refresh()
        raise Unavailable(f"there is no topic {topic}", where=str(self._to), hint="Run `apexstream topics apply`")

    async def topics(self, start: str) -> list[str]:
        """All topics whose name begins with ``start`` and that this client may see."""
        try:
            known = await self._client.fetch_all_metadata()
        except errors.KafkaError as problem:
            raise unreachable(self._to, problem) from problem
        return sorted(topic for topic in known.topics() if topic.startswith(start))

    async def topic_id(self, topic: str) -> str:
        """Kafka's id of ``topic``, which another topic of that name does not have. The topic must exist."""
        problem: BaseException = errors.LeaderNotAvailableError()
        for _ in range(_RETRIES_MAX):
            for broker in self._client.cluster.brokers():
                try:
                    found = topic_id(await self._client.send(broker.nodeId, DescribeTopicIdRequest(topic)))
                except errors.KafkaError as failure:
                    problem = failure
                    continue
                if found:
                    return found
            await self._refresh()
        raise unreachable(self._to, problem)

    async def starts(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The first offset that each partition still holds."""
        return await self._offsets(dict.fromkeys(partitions, _START))

    async def ends(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The offset after the last record of each partition."""
        return await self._offsets(dict.fromkeys(partitions, _END))

    async def offset_at(self, partition: Partition, timestamp_ms: int) -> int:
        """The offset of the first record appended at or after ``timestamp_ms``; the partition's end if there is none."""
        # The end comes first: what is appended between the two questions must not be skipped.
        end = (await self.ends([partition]))[partition]
        found = (await self._offsets({partition: max(timestamp_ms, 0)}))[partition]
        return found if found >= 0 else end

    async def scan(self, partition: Partition, start: int, end: int) -> AsyncIterator[tuple[list[Record], int]]:
        """Yield (records, next offset) for the records with ``start <= offset < end``. The next fetch is under way while
        records are decoded. Stops early where the log ends. Raises :class:`DataCorruption` if ``start`` is gone."""
        pending = asyncio.ensure_future(self._fetch_one(partition, start)) if start < end else None
        try:
            while pending is not None:
                fetched = await pending
                at = fetched.next_offset
                more = fetched.batches and at < end
                pending = asyncio.ensure_future(self._fetch_one(partition, at)) if more else None
                records = fetched.records()
                if at > end:
                    records = [record for record in records if record.offset < end]
                yield records, min(at, end)
        finally:
            if pending is not None:
                pending.cancel()

    async def fetch(
        self,
        node: int,
        offsets: Mapping[Partition, int],
        *,
        max_wait_ms: int,
        partition_bytes: int = 1 << 20,
        channel: Hashable = ConnectionGroup.DEFAULT,
    ) -> list[Fetched]:
        """One fetch from one broker. Partitions that it no longer leads come back empty, after a metadata refresh.

        Requests with the same ``channel`` share a connection, on which the broker answers them one after the other.
        """
        topics = defaultdict(list)
        for (topic, partition), offset in offsets.items():
            topics[topic].append((partition, offset, partition_bytes))
        request = FetchRequest(max_wait_ms, 1, 50 << 20, 0, list(topics.items()), rack_id="")
        asked_at = time.monotonic()
        response = await self._client.send(node, request, group=channel)
        if max_wait_ms == 0:  # any other one waits for news, which says nothing of the broker
            self._fetch_took.observe(time.monotonic() - asked_at)
        return self._all_fetched(response, offsets)

    async def fetch_news(
        self, node: int, offsets: Mapping[Partition, int], session: FetchSession, *, max_wait_ms: int
    ) -> list[Fetched]:
        """The same in a session: gives only the partitions that have records, or an error."""
        request = SessionFetch(session, offsets, wait_ms=max_wait_ms, partition_bytes=1 << 20)
        try:
            response = await self._client.send(node, request)
        except BaseException:  # cancelled too: the broker may have had it
            session.forget()
            raise
        if response.API_VERSION >= 7:
            session.answered(response.session_id, response.error_code)
        return self._all_fetched(response, offsets)

    def lag(self, positions: Mapping[Partition, int]) -> int:
        """Records between ``positions`` and the ends that the last fetches told. Safe from any thread."""
        return sum(max(0, self._ends.get(partition, at) - at) for partition, at in list(positions.items()))

    def _all_fetched(self, response: Any, offsets: Mapping[Partition, int]) -> list[Fetched]:
        fetched = []
        for topic, answers in response.topics:
            for number, code, end, *rest in answers:
                place = topic, number
                if code == 0:
                    self._ends[place] = end
                fetched.append(self._fetched(place, offsets[place], code, rest[-1]))
        return fetched

    def leaders(self, partitions: Iterable[Partition]) -> dict[int, list[Partition]]:
        """Partitions by the broker that leads them; those without a known leader are left out."""
        by_node: dict[int, list[Partition]] = defaultdict(list)
        for partition in partitions:
            node = self._client.cluster.leader_for_partition(TopicPartition(*partition))
            if node is not None and node != -1:
                by_node[node].append(partition)
        return by_node

    async def retry_after(self, problem: BaseException) -> None:
        """Wait a moment and learn the cluster's current layout."""
        _log.debug("fetch failed, retrying", error=repr(problem))
        await self._refresh()

    def _fetched(self, partition: Partition, offset: int, code: int, data: bytes | None) -> Fetched:
        kind = errors.for_code(code)
        if kind is errors.OffsetOutOfRangeError:
            raise DataCorruption(
                f"offset {offset} is not in the log",
                where=f"{partition[0]}/{partition[1]}",
                hint="It expired, or the log is new",
            )
        if kind is not errors.NoError:
            self._client.force_metadata_update()
            return Fetched(partition, offset, offset)
        self._fetched_bytes.value += len(data or b"")
        batches, memory = [], MemoryRecords(data or b"")
        next_offset = offset
        while memory.has_next():
            batch = memory.next_batch()
            batches.append(batch)
            next_offset = batch.next_offset
        return Fetched(partition, offset, max(offset, next_offset), batches, len(data or b""))

    async def _fetch_one(self, partition: Partition, offset: int) -> Fetched:
        problem: BaseException | None = None
        for _ in range(_RETRIES_MAX):
            for node in self.leaders([partition]):
                try:
                    return (await self.fetch(node, {partition: offset}, max_wait_ms=0))[0]
                except errors.KafkaError as failure:
                    problem = failure
            await self._refresh()
        raise unreachable(self._to, problem or errors.LeaderNotAvailableError())

    async def _offsets(self, wanted: Mapping[Partition, int]) -> dict[Partition, int]:
        found: dict[Partition, int] = {}
        problem: BaseException = errors.LeaderNotAvailableError()
        for _ in range(_RETRIES_MAX):
            missing = [partition for partition in wanted if partition not in found]
            for node, partitions in self.leaders(missing).items():
                try:
                    found.update(await self._offsets_from(node, {p: wanted[p] for p in partitions}))
                except errors.KafkaError as failure:
                    problem = failure
            if len(found) == len(wanted):
                return found
            await self._refresh()
        raise unreachable(self._to, problem)

    async def _offsets_from(self, node: int, wanted: Mapping[Partition, int]) -> dict[Partition, int]:
        topics = defaultdict(list)
        for (topic, partition), timestamp in wanted.items():
            topics[topic].append((partition, timestamp))
        asked_at = time.monotonic()
        response = await self._client.send(node, OffsetRequest(-1, 0, list(topics.items())))
        self._offsets_took.observe(time.monotonic() - asked_at)
        return {
            (topic, partition): offset
            for topic, partitions in response.topics
            for partition, code, _, offset, *_ in partitions
            if code == 0
        }

    async def _refresh(self) -> None:
        await asyncio.sleep(_RETRY_DELAY_S)
        await self._client.force_metadata_update()


OnRecords = Callable[[Partition, list[Record]], None]


class Tail:
    """Follows partitions from given positions and hands new records, in order, to a callback.

    ``positions`` is the offset after the last record that was handed over; it never runs ahead of the callback. A fetch that
    brought little is followed by the next one no sooner than ``pace_s`` later: what comes in quick succession is fetched
    together, and only what follows upon something else waits for that.
    """

    def __init__(
        self, reader: LogReader, positions: Mapping[Partition, int], on_records: OnRecords, *, pace_s: float = 0.0
    ) -> None:
        self.positions = dict(positions)
        self._fetching = dict(positions)
        self._reader = reader
        self._on_records = on_records
        self._pace_s = pace_s
        self._sessions: dict[int, FetchSession] = defaultdict(FetchSession)

    async def run(self) -> None:
        """Follow until cancelled. Broker failures are retried for ever; a gap in the log or a failing callback raises."""
        flights: dict[int, asyncio.Task[list[Fetched]]] = {}
        forget = [
            meters.LOG_LAG.read(partial(self._lag, topic), topic) for topic in {topic for topic, _ in self.positions}
        ]
        try:
            while True:
                self._launch(flights, 0.0)
                if not flights:
                    await self._reader.retry_after(errors.LeaderNotAvailableError())
                    continue
                done, _ = await asyncio.wait(flights.values(), return_when=asyncio.FIRST_COMPLETED)
                for node in [node for node, flight in flights.items() if flight in done]:
                    await self._land(flights, node)
        finally:
            for call in forget:
                call()
            for flight in flights.values():
                flight.cancel()
            await asyncio.gather(*flights.values(), return_exceptions=True)

    def _lag(self, topic: str) -> int:
        return self._reader.lag(
            {partition: at for partition, at in list(self.positions.items()) if partition[0] == topic}
        )

    def _launch(self, flights: dict[int, asyncio.Task[list[Fetched]]], delay_s: float) -> None:
        for node, partitions in self._reader.leaders(self._fetching).items():
            if node not in flights:
                wanted = {partition: self._fetching[partition] for partition in partitions}
                flights[node] = asyncio.create_task(self._fetch(node, wanted, delay_s), name="tail fetch")

    async def _fetch(self, node: int, wanted: dict[Partition, int], delay_s: float) -> list[Fetched]:
        if delay_s:
            await asyncio.sleep(delay_s)
        return await self._reader.fetch_news(node, wanted, self._sessions[node], max_wait_ms=500)

    async def _land(self, flights: dict[int, asyncio.Task[list[Fetched]]], node: int) -> None:
        flight = flights.pop(node)
        try:
            landed = [fetched for fetched in flight.result() if fetched.batches]
        except errors.KafkaError as problem:
            await self._reader.retry_after(problem)
            return
        for fetched in landed:
            self._fetching[fetched.partition] = fetched.next_offset
        little = sum(fetched.size_bytes for fetched in landed) < PACED_BYTES_MAX
        # The broker prepares the next answer while this one is decoded.
        self._launch(flights, self._pace_s if landed and little else 0.0)
        for fetched in landed:
            records = fetched.records()
            self.positions[fetched.partition] = fetched.next_offset
            if records:
                self._on_records(fetched.partition, records)
