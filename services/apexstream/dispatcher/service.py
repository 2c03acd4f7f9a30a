"""The dispatcher's loop: submissions, runner states, task events and control in; assignments and events out."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

import msgspec
import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import GENESIS, Chunk, Kind
from apexstream.core.claims import ClaimWords
from apexstream.core.errors import ChunkDecodeError
from apexstream.core.events import (
    Assignment,
    ControlCommand,
    ControlVerb,
    Event,
    RunnerState,
    TaskChange,
    TaskEvent,
    TaskSubmitted,
)
from apexstream.core.tiers import Tier
from apexstream.dispatcher.fifo import FifoScheduler, Placement
from apexstream.log.chunks import ChunkLog
from apexstream.log.fetcher import Partition, Record
from apexstream.log.group import GroupReader
from apexstream.log.ledger import OffsetLedger
from apexstream.runtime.clock import Clock

WAITING_MAX = 10_000  # tasks in memory a tier; past this its backlog waits in Kafka
TICK_S = 1.0  # how often silent runners are noticed

_log = structlog.get_logger(__name__)

E = TypeVar("E", bound=Event)
Append = Callable[[str, bytes], Awaitable[object]]


class Dispatcher:
    """Everything between reading a submission and giving it to a runner."""

    def __init__(
        self,
        name: str,
        *,
        codec: Codec,
        clock: Clock,
        tier_topics: Mapping[str, Tier],
        assign: Callable[[int, bytes, bytes], Awaitable[object]],
        publish_event: Append,
        chunks: ChunkLog,
    ) -> None:
        self._name = name
        self._codec = codec
        self._clock = clock
        self._tier_topics = tier_topics
        self._assign = assign
        self._publish_event = publish_event
        self._chunks = chunks
        self._scheduler = FifoScheduler()
        self._group: GroupReader
        self._ledgers: dict[Partition, OffsetLedger] = {}
        self._source: dict[str, tuple[Partition, int]] = {}  # waiting task → where its submission lies
        self._known: set[str] = set()  # assigned or over: never assigned again
        self._attempts: dict[str, int] = {}  # newest attempt of tasks that had more than one
        self._withdrawn: dict[str, str] = {}  # asked to cancel before it was read here → reason
        self._wake = asyncio.Event()

    # What other services say; read from the beginning at start, so that a new dispatcher knows what the last one did.

    def on_assignments(self, partition: Partition, records: Iterable[Record]) -> None:
        """Assignments made by this dispatcher's predecessors (and by itself)."""
        for record in records:
            assignment = self._read(record, Assignment)
            if assignment is not None and assignment.task.task_id not in self._known:
                self._known.add(assignment.task.task_id)
                self._scheduler.started(assignment.task.task_id, partition[1])

    def on_task_events(self, _: Partition, records: Iterable[Record]) -> None:
        """Ends of tasks free their slots."""
        for record in records:
            event = self._read(record, TaskEvent)
            if event is None or event.attempt < self._attempts.get(event.task_id, 0):
                continue  # reported by an attempt that had lost the task
            if event.change.ends:
                self._known.add(event.task_id)
                self._attempts.pop(event.task_id, None)
                self._scheduler.ended(event.task_id)
            elif event.change is TaskChange.STARTED and event.attempt > 1:
                self._attempts[event.task_id] = event.attempt
        self._wake.set()

    def on_runners(self, _: Partition, records: Iterable[Record]) -> None:
        """What runners can take."""
        for record in records:
            runner_id = (record.key or b"").decode()
            self._scheduler.runner(runner_id, self._read(record, RunnerState) if record.value is not None else None)
        self._wake.set()

    def on_control(self, _: Partition, records: Iterable[Record]) -> None:
        """Tasks to cancel. One that waits here is taken out; one that runs is its runner's to stop."""
        for record in records:
            command = self._read(record, ControlCommand)
            if command is not None and command.verb is ControlVerb.CANCEL and command.task_id not in self._known:
                self._withdrawn[command.task_id] = command.reason or "cancelled by request"
        self._wake.set()

    # The group of the tier topics.

    async def on_assigned(self, partitions: Mapping[Partition, str]) -> None:
        """This process is the active dispatcher for these partitions."""
        self._ledgers = {
            partition: self._ledgers.get(partition) or OffsetLedger(metadata)
            for partition, metadata in partitions.items()
        }

    async def on_revoked(self, partitions: frozenset[Partition]) -> None:
        """Another dispatcher takes over: what still waits is its to place."""
        await self._commit()
        for task_id, (partition, _) in list(self._source.items()):
            if partition in partitions:
                self._scheduler.withdraw(task_id)
                del self._source[task_id]
        for partition in partitions:
            self._ledgers.pop(partition, None)

    async def run(self, group: GroupReader) -> None:
        """Work until cancelled."""
        self._group = group
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_submissions(), name="read submissions")
            tasks.create_task(self._place(), name="place")

    async def _read_submissions(self) -> None:
        while True:
            for partition, records in await self._group.poll(1.0):
                for record in records:
                    self._take(partition, record)
            for topic, tier in self._tier_topics.items():
                full = self._scheduler.waiting(tier) >= WAITING_MAX
                partitions = [p for p in self._group.owned if p[0] == topic]
                (self._group.pause if full else self._group.resume)(partitions)
            self._wake.set()

    def _take(self, partition: Partition, record: Record) -> None:
        ledger = self._ledgers.get(partition)
        if ledger is None or not ledger.take(record.offset):
            return
        task = self._read(record, TaskSubmitted)
        if task is None or task.task_id in self._known or task.task_id in self._source:
            ledger.finish(record.offset)
            return
        self._source[task.task_id] = partition, record.offset
        self._scheduler.submit(task)

    async def _place(self) -> None:
        while True:
            try:
                async with asyncio.timeout(TICK_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._withdraw_all()
            placements = []
            while (placement := self._scheduler.place(self._clock.now_us())) is not None:
                self._known.add(placement.task.task_id)
                placements.append(placement)
            await asyncio.gather(*(self._give(placement) for placement in placements))
            await self._commit()

    async def _give(self, placement: Placement) -> None:
        task = placement.task
        assignment = Assignment(task=task, attempt=1, assigned_us=self._clock.now_us())
        await self._assign(placement.partition, task.task_id.encode(), self._codec.encode(assignment))
        await self._event(task.task_id, TaskChange.ASSIGNED, f"next in {task.tier}; {placement.runner_id} has room")
        self._settle(task.task_id)

    async def _withdraw_all(self) -> None:
        for task_id in [task_id for task_id in self._withdrawn if task_id in self._source]:
            task = self._scheduler.withdraw(task_id)
            if task is not None:
                await self._end_unstarted(task, self._withdrawn.pop(task_id))

    async def _end_unstarted(self, task: TaskSubmitted, reason: str) -> None:
        """Cancel a task that never ran: its stream ends, so that whoever waits for it is told."""
        encoder = self._chunks.encoder(task.task_id, 1)
        now = self._clock.now_us()
        claim, _ = encoder.encode(0, (Chunk(Kind.CLAIM, ClaimWords(tenant=task.tenant).encode(), now),), None, GENESIS)
        receipt = msgspec.json.encode({"reason": reason, "stopped_at_seq": 0, "after_ms": 0})
        end, _ = encoder.encode(0, (Chunk(Kind.CANCELLED, receipt, now),), None, GENESIS)
        await asyncio.gather(self._chunks.append(task.task_id, claim), self._chunks.append(task.task_id, end))
        self._known.add(task.task_id)
        await self._event(task.task_id, TaskChange.CANCELLED, reason)
        self._settle(task.task_id)

    def _settle(self, task_id: str) -> None:
        source = self._source.pop(task_id, None)
        if source is not None and source[0] in self._ledgers:
            self._ledgers[source[0]].finish(source[1])

    async def _commit(self) -> None:
        commits = {p: commit for p, ledger in self._ledgers.items() if (commit := ledger.commit()) is not None}
        if commits and await self._group.commit(commits):
            for partition, commit in commits.items():
                if partition in self._ledgers:
                    self._ledgers[partition].committed(commit)

    async def _event(self, task_id: str, change: TaskChange, reason: str) -> None:
        event = TaskEvent(
            task_id=task_id, change=change, at_us=self._clock.now_us(), attempt=0, by=self._name, reason=reason
        )
        await self._publish_event(task_id, self._codec.encode(event))

    def _read(self, record: Record, kind: type[E]) -> E | None:
        try:
            return self._codec.decode(record.value or b"", kind)
        except ChunkDecodeError as problem:
            _log.error("skipped a record that cannot be read", offset=record.offset, error=str(problem))
            return None
