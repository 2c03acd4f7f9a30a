"""Appends records, with batching of its own: one open batch a partition, shipped at once when nothing is in flight there
and filled while the one before it flies. No linger, so a lone record leaves immediately and a flood shares its cost.

After any failed or late append the outcome of everything unacknowledged is unknown (an idempotent producer that lost one
record refuses all later ones). The writer then fails them all alike and starts a new producer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from apexstream.core.errors import InvalidChunk, OutcomeUnknown, Unavailable
from apexstream.log.connection import Cluster, Connection
from apexstream.log.pulse import Pulse
from apexstream.runtime import meters
from apexstream.runtime.health import HEALTH
from apexstream.runtime.tracing import Headers

RECORD_BYTES_MAX = 1_000_000  # key and value; the topics accept batches of 1 MiB
BATCH_BYTES_MAX = 128 * 1024  # aiokafka's default of 16 KB costs 40 % of the throughput
_RENEW_DELAY_MAX_S = 5.0
_NO_HEADERS: list[tuple[str, bytes]] = []  # aiokafka takes nothing but a list
_log = structlog.get_logger(__name__)


class AppendListener(Protocol):
    """Told what became of one record."""

    def appended(self, offset: int) -> None:
        """The record is in the log at ``offset``, acknowledged by all in-sync replicas."""

    def failed(self, error: Unavailable) -> None:
        """The record may or may not be in the log; only reading it tells."""


class _Waiter:
    """Turns the outcome of one append into a future."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        self.future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def appended(self, offset: int) -> None:
        if not self.future.done():
            self.future.set_result(offset)

    def failed(self, error: Unavailable) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Lane:
    """What waits for one partition. At most one batch is in flight, so order is the order of ``put``."""

    __slots__ = (
        "_appended",
        "_bytes",
        "_flight",
        "_flying",
        "_listeners",
        "_open",
        "_ready",
        "_took",
        "_writer",
        "partition",
        "topic",
    )

    def __init__(self, writer: "Writer", topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self._writer = writer
        self._appended = meters.LOG_APPENDED.of(topic)
        self._bytes = meters.LOG_APPENDED_BYTES.of(topic)
        self._took = meters.LOG_APPEND.of(topic)
        self._open: Any = None
        self._listeners: list[AppendListener] = []
        self._ready: deque[tuple[Any, list[AppendListener]]] = deque()
        self._flight: asyncio.Task[None] | None = None
        self._flying: list[AppendListener] = []  # of the batch in flight

    def put(
        self, producer: AIOKafkaProducer, key: bytes, value: bytes | None, listener: AppendListener, headers: Headers
    ) -> None:
        named = list(headers) if headers else _NO_HEADERS
        if self._open is None or self._open.append(timestamp=None, key=key, value=value, headers=named) is None:
            if self._open is not None:
                self._ready.append((self._open, self._listeners))
            self._open = producer.create_batch()
            self._listeners = []
            self._open.append(timestamp=None, key=key, value=value, headers=named)
        self._listeners.append(listener)
        self._bytes.value += len(key) + (0 if value is None else len(value))
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly(producer), name=f"append {self.topic}/{self.partition}")

    async def _fly(self, producer: AIOKafkaProducer) -> None:
        try:
            while self._ready or self._open is not None:
                batch, self._flying = self._take()
                sent_at = time.monotonic()
                async with asyncio.timeout(self._writer.timeout_s):
                    sent = await producer.send_batch(batch, self.topic, partition=self.partition)
                    first = (await sent).offset
                self._took.observe(time.monotonic() - sent_at)
                landed, self._flying = self._flying, []
                self._appended.value += len(landed)
                for index, listener in enumerate(landed):
                    listener.appended(first + index)
            self._flight = None
        except (KafkaError, TimeoutError, OSError) as problem:
            self._writer.broke(producer, problem, f"{self.topic}/{self.partition}")

    def _take(self) -> tuple[Any, list[AppendListener]]:
        if self._ready:
            return self._ready.popleft()
        taken = self._open, self._listeners
        self._open, self._listeners = None, []
        return taken

    def abandon(self, error: Unavailable) -> None:
        """Fail everything that is not acknowledged."""
        if self._flight is not None and self._flight is not asyncio.current_task():
            self._flight.cancel()
        ready = [listener for _, listeners in self._ready for listener in listeners]
        waiting = [*self._flying, *ready, *self._listeners]
        self._ready.clear()
        self._open, self._listeners, self._flight, self._flying = None, [], None, []
        for listener in waiting:
            listener.failed(error)

    @property
    def flight(self) -> asyncio.Task[None] | None:
        return self._flight


class Writer:
    """One idempotent producer (``acks=all``) and the lanes in front of it. Use as an async context manager."""

    def __init__(self, to: Cluster, *, client_id: str, timeout_s: float = 30.0, compression: str = "none") -> None:
        self.timeout_s = timeout_s
        self._compression = None if compression == "none" else compression
        self._to = Connection.to(to)
        self._client_id = client_id
        self._producer: AIOKafkaProducer | None = None
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._partitions: dict[str, int] = {}
        self._renewal: asyncio.Task[None] | None = None
        self._lost = meters.LOG_APPENDS_LOST.of()
        self._pulse = Pulse(lambda: None if self._producer is None else self._producer.client)
        self._pulsing: asyncio.Task[None] | None = None
        self._forget_check: Callable[[], object] = _nothing

    async def __aenter__(self) -> "Writer":
        self._producer = await self._start()
        self._pulsing = asyncio.create_task(self._pulse.run(), name="pulse")
        self._forget_check = HEALTH.check("kafka", self.trouble)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._forget_check()
        if self._pulsing is not None:
            self._pulsing.cancel()
            await asyncio.gather(self._pulsing, return_exceptions=True)
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.gather(self._renewal, return_exceptions=True)
        flights = [lane.flight for lane in self._lanes.values() if lane.flight is not None]
        if flights:
            await asyncio.wait(flights, timeout=self.timeout_s)
        producer, self._producer = self._producer, None
        self._abandon(Unavailable("the writer was stopped", where="append"))
        if producer is not None:
            await _close(producer)

    @property
    def healthy(self) -> bool:
        """Whether appends are accepted now."""
        return self._producer is not None

    def trouble(self) -> str:
        """Why appends would fail now; empty while they would not."""
        return self._pulse.trouble() or ("" if self.healthy else "appends failed; a new producer is being started")

    async def prepare(self, *topics: str) -> None:
        """Learn how many partitions ``topics`` have; needed once, before :meth:`partition_of` and :meth:`put`."""
        for topic in topics:
            if self._producer is None:
                raise Unavailable("Kafka does not answer", where=str(self._to))
            self._partitions[topic] = len(await self._producer.partitions_for(topic))

    def partition_of(self, topic: str, key: bytes) -> int:
        """The partition that every Kafka client with the default partitioner puts ``key`` into."""
        return int((murmur2(key) & 0x7FFFFFFF) % self._partitions[topic])

    def put(
        self,
        topic: str,
        partition: int,
        key: bytes,
        value: bytes | None,
        listener: AppendListener,
        *,
        headers: Headers = (),
    ) -> None:
        """Append a record; ``listener`` is told the outcome. Raises at once for a record that Kafka would refuse.

        Must be called from the event loop. A None ``value`` is a tombstone.
        """
        size = len(key) + len(value or b"") + sum(len(name) + len(said) for name, said in headers)
        if size > RECORD_BYTES_MAX:  # a refused record would poison the producer for everyone
            raise InvalidChunk(f"a record of {size} bytes is over the limit of {RECORD_BYTES_MAX}", where=topic)
        if self._producer is None:
            raise Unavailable("Kafka does not answer; appending is suspended", where=str(self._to))
        lane = self._lanes.get((topic, partition))
        if lane is None:
            lane = self._lanes[topic, partition] = _Lane(self, topic, partition)
        lane.put(self._producer, key, value, listener, headers)

    async def append(
        self, topic: str, key: bytes, value: bytes | None, *, partition: int | None = None, headers: Headers = ()
    ) -> int:
        """Append a record and return its offset once all in-sync replicas have it."""
        waiter = _Waiter()
        place = self.partition_of(topic, key) if partition is None else partition
        self.put(topic, place, key, value, waiter, headers=headers)
        return await waiter.future

    def broke(self, producer: AIOKafkaProducer, problem: BaseException, where: str) -> None:
        """A lane's append failed: fail everything alike and start over with a new producer."""
        if producer is not self._producer:
            return
        _log.error("append failed; starting a new producer", where=where, error=repr(problem))
        self._producer = None
        self._lost.value += 1
        self._abandon(OutcomeUnknown(f"an append was not acknowledged: {problem!r}", where=where))
        self._renewal = asyncio.create_task(self._renew(producer), name="renew producer")

    def _abandon(self, error: Unavailable) -> None:
        for lane in self._lanes.values():
            lane.abandon(error)

    async def _renew(self, broken: AIOKafkaProducer) -> None:
        await _close(broken)
        delay = 0.1
        while self._producer is None:
            try:
                self._producer = await self._start()
            except (Unavailable, KafkaError, OSError) as problem:
                _log.warning("no producer yet", error=str(problem), retry_in_s=delay)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RENEW_DELAY_MAX_S)

    async def _start(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **self._to.options,
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            compression_type=self._compression,
            max_batch_size=BATCH_BYTES_MAX,
            max_request_size=8 * RECORD_BYTES_MAX,
            request_timeout_ms=int(self.timeout_s * 1000),
        )
        try:
            await producer.start()
        except (KafkaError, OSError) as problem:
            await _close(producer)
            raise unreachable(self._to, problem) from problem
        return producer


def _nothing() -> None:
    """What there is to forget before anything began."""


async def _close(producer: AIOKafkaProducer) -> None:
    """Stop a producer, bounded: stopping one whose broker is away waits for an answer that never comes."""
    stopping = asyncio.ensure_future(producer.stop())
    _, late = await asyncio.wait([stopping], timeout=2.0)
    if late:
        stopping.cancel()
        await producer.client.close()
    await asyncio.gather(stopping, return_exceptions=True)


def unreachable(to: Cluster, problem: BaseException) -> Unavailable:
    """The one error for a cluster that cannot be reached."""
    return Unavailable(
        f"no Kafka broker answers ({type(problem).__name__})",
        where=str(to),
        hint="Check KAFKA_BOOTSTRAP_SERVERS and that the broker runs; `apexstream doctor` looks closer",
    )
