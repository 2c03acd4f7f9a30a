"""Reads as a member of a consumer group: partitions come and go, and committed offsets say where to go on."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial

import structlog
from aiokafka import ConsumerRebalanceListener, OffsetAndMetadata
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition

from apexstream.core.errors import Unavailable
from apexstream.log.assignor import BusyAssignor
from apexstream.log.connection import Cluster, Connection
from apexstream.log.consumer import committed_offsets, group_consumer
from apexstream.log.feed import Feed, places_to_begin
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.writer import unreachable
from apexstream.runtime import meters
from apexstream.runtime.health import HEALTH

_log = structlog.get_logger(__name__)

OnAssigned = Callable[[Mapping[Partition, str]], Awaitable[None]]
"""Takes the partitions that this member now owns, each with the metadata of its last commit (empty: none)."""
OnRevoked = Callable[[frozenset[Partition]], Awaitable[None]]
"""Takes the partitions that this member is about to lose; commits made before it returns still count."""
OnMissed = Callable[[], None]
"""Called before :data:`OnAssigned` where the group has assigned in between without this member: every partition may have had
another owner meanwhile, those that come back too."""


HEARTBEATS_PER_SESSION = 10
STOP_S_MAX = 5.0
REBALANCE_S_MAX = 30.0  # without an assignment for longer, a member is not well …
POLL_S_MAX = 30.0  # … and neither is one that has not asked for records for longer
_TICK_S = 0.5


class GroupReader(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped
    """One member of consumer group ``group`` on ``topics``. A partition without a commit is read from its start, and one
    whose owner is silent for ``session_timeout_s`` gets another. ``busy`` gives those that this member is working on: where it
    has to give some away, it keeps them."""

    def __init__(
        self,
        to: Cluster,
        topics: Iterable[str],
        *,
        group: str,
        client_id: str,
        session_timeout_s: float,
        on_assigned: OnAssigned,
        on_revoked: OnRevoked,
        on_missed: OnMissed = lambda: None,
        busy: Callable[[], Iterable[Partition]] = tuple,
    ) -> None:
        self._to = Connection.to(to)
        self._topics = list(topics)
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._on_missed = on_missed
        self._generation = 0  # of the last assignment
        self._owned: frozenset[Partition] = frozenset()
        self._stall_s_max = session_timeout_s / 2
        self._stalled_s = 0.0
        self._last_tick = 0.0
        self._ticker: asyncio.TimerHandle | None = None
        self._group = group
        self._unassigned_since: float | None = time.monotonic()  # None: there is an assignment
        self._polled_at = time.monotonic()
        self._took = meters.LOG_REQUEST.of("commit")
        self._rebalances = meters.GROUP_REBALANCES.of(group)
        self._forget: list[Callable[[], None]] = []
        self._reader = LogReader(self._to, client_id=f"{client_id}-feed")
        self._feed = Feed(self._reader)
        self._read_to: dict[Partition, int] = {}  # when the rebalance began
        self._failed: Exception | None = None  # aiokafka only logs what a rebalance's callback raises
        self._consumer = group_consumer(  # the member of the group; it reads nothing
            **self._to.options,
            client_id=client_id,
            group_id=group,
            enable_auto_commit=False,
            session_timeout_ms=int(session_timeout_s * 1000),
            heartbeat_interval_ms=int(session_timeout_s * 1000 / HEARTBEATS_PER_SESSION),
            max_poll_interval_ms=60_000,
            partition_assignment_strategy=(BusyAssignor(busy),),
        )

    async def __aenter__(self) -> "GroupReader":
        self._consumer.subscribe(self._topics, listener=self)
        try:
            await self._reader.__aenter__()
            for topic in self._topics:
                await self._reader.partitions(topic)
            await self._consumer.start()
        except BaseException as problem:
            await self._reader.__aexit__()
            await self._consumer.stop()
            if isinstance(problem, KafkaError | OSError):
                raise unreachable(self._to, problem) from problem
            raise
        self._last_tick = self._polled_at = time.monotonic()
        self._tick()
        self._forget = [
            HEALTH.check("assignment", self.trouble),
            meters.GROUP_PARTITIONS.read(lambda: len(self._owned), self._group),
            *(meters.GROUP_LAG.read(partial(self._feed.lag, topic), self._group, topic) for topic in self._topics),
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for call in self._forget:
            call()
        if self._ticker is not None:
            self._ticker.cancel()
        await self._feed.close()
        await self._reader.__aexit__()
        # Bounded, and its trouble kept from whoever leaves: with its broker away a consumer may wait for ever, or be cancelled.
        stopping = asyncio.ensure_future(self._consumer.stop())
        await asyncio.wait([stopping], timeout=STOP_S_MAX)
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)

    def trouble(self) -> str:
        """Why this member does no work; empty while it does, or has nothing to do. Safe from any thread."""
        now = time.monotonic()
        without_s = 0.0 if self._unassigned_since is None else now - self._unassigned_since
        if without_s > REBALANCE_S_MAX:
            return f"a member of {self._group} without an assignment for {without_s:.0f} s"
        if now - self._polled_at > POLL_S_MAX:
            return f"nothing asked for records of {self._group} for {now - self._polled_at:.0f} s"
        return ""

    @property
    def owned(self) -> frozenset[Partition]:
        """The partitions that this member owns now."""
        return self._owned

    async def poll(self, timeout_s: float) -> list[tuple[Partition, list[Record]]]:
        """New records by partition, or nothing after ``timeout_s``.

        Raises :class:`Unavailable` if this process did not run for so long (stopped, or its machine asleep) that others may
        own its partitions by now. Kafka would still give it their records, and it would begin work that the new owner
        believes to be fresh; a process that may be such a zombie must start over.
        """
        self._polled_at = time.monotonic()
        if self._failed is not None:
            raise Unavailable(
                f"could not begin with new partitions: {self._failed!r}", where=self._group
            ) from self._failed
        await self._consumer.getmany(
            timeout_ms=0
        )  # a member that is never asked has to leave; and it tells the group's errors
        got = await self._feed.poll(timeout_s)
        stalled_s = max(self._stalled_s, time.monotonic() - self._last_tick)
        if stalled_s > self._stall_s_max:
            raise Unavailable(
                f"this process did not run for {stalled_s:.1f} s and may have lost its partitions",
                where="consumer group",
                hint="It starts over; if this repeats, its machine is overloaded or suspended",
            )
        return got

    def _tick(self) -> None:
        now = time.monotonic()
        self._stalled_s = max(self._stalled_s, now - self._last_tick)
        self._last_tick = now
        self._ticker = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    async def commit(self, offsets: Mapping[Partition, tuple[int, str]]) -> bool:
        """Commit (next offset, metadata) by partition. Partitions that are no longer owned are left out: Kafka would
        still take a late commit from a member that lost them. False if the group has moved on and nothing was committed."""
        mine = {TopicPartition(*p): OffsetAndMetadata(*at) for p, at in offsets.items() if p in self._owned}
        if not mine:
            return False
        asked_at = time.monotonic()
        try:
            await self._consumer.commit(mine)
            self._took.observe(time.monotonic() - asked_at)
        except (CommitFailedError, IllegalStateError) as problem:
            _log.info("commit came too late; the partitions have a new owner", error=str(problem))
            return False
        return True

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Fetch nothing more of ``partitions`` until :meth:`resume`; those not owned are left out."""
        self._feed.pause(p for p in partitions if p in self._owned)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Fetch ``partitions`` again."""
        self._feed.resume(p for p in partitions if p in self._owned)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Called by aiokafka before a rebalance."""
        if self._unassigned_since is None:
            self._unassigned_since = time.monotonic()
        self._read_to.update(self._feed.positions)
        self._feed.follow({})
        lost = frozenset((tp.topic, tp.partition) for tp in revoked)
        if lost:
            await self._on_revoked(lost)
        self._owned -= lost

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Called by aiokafka after a rebalance. No record of the new assignment is given before this is done."""
        tps = list(assigned)
        self._consumer.pause(*tps)
        self._owned = frozenset((tp.topic, tp.partition) for tp in tps)
        try:
            await self._begin()
        except Exception as problem:
            self._failed = problem
            raise
        self._unassigned_since = None
        self._rebalances.value += 1

    async def _begin(self) -> None:
        committed = await committed_offsets(self._consumer, self._owned)
        read_to, self._read_to = self._read_to, {}
        last, self._generation = self._generation, self._consumer._coordinator.generation  # noqa: SLF001 - nothing public tells
        if last and self._generation != last + 1:
            read_to = {}
            self._on_missed()
        # Where it stayed with this member, what was given before the rebalance need not be given again.
        wanted = {place: max(offset, read_to.get(place, -1)) for place, (offset, _) in committed.items()}
        places = await places_to_begin(self._reader, wanted)
        await self._on_assigned({place: metadata for place, (_, metadata) in committed.items()})
        self._feed.follow(places)
