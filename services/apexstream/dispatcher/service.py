"""The dispatcher's loop: submissions in, decisions carried out, what is settled committed, what waits told.

:mod:`scheduler` decides, :mod:`facts` tells it what other services said, :mod:`reign` fences out dispatchers that were
replaced. A submission is settled when its assignment has come back through the log as one that counts, not before: an
acknowledgement alone does not tell a replaced dispatcher that its assignments are dead.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

import msgspec
import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.errors import Unavailable
from apexstream.core.events import (
    Assignment,
    ControlCommand,
    ControlVerb,
    QueueState,
    TaskChange,
    TaskEvent,
    TaskSubmitted,
)
from apexstream.core.reign import Reign, claim_key
from apexstream.core.tiers import Tier
from apexstream.dispatcher import measures
from apexstream.dispatcher.decisions import Decision, End, Hold, Park, Start
from apexstream.dispatcher.endings import close_stream, error_of
from apexstream.dispatcher.facts import Facts, job_of
from apexstream.dispatcher.lease import Lease
from apexstream.dispatcher.policy import Policy
from apexstream.dispatcher.ports import Append, Assign, PublishState, SendEvent, SendTo
from apexstream.dispatcher.queue_report import QueueReport
from apexstream.dispatcher.scheduler import Scheduler
from apexstream.dispatcher.starts import Starts
from apexstream.log.chunks import ChunkLog
from apexstream.log.fetcher import Partition, Record
from apexstream.log.ledger import OffsetLedger
from apexstream.log.sole import SoleReader
from apexstream.runtime import meters, tracing
from apexstream.runtime.clock import Clock

READY_MAX = 10_000  # ready tasks in memory a tier; past this its backlog waits in Kafka
DECISIONS_MAX = 1_000  # in flight, of those that start nothing
STARTS_MAX = 1_000  # in flight
COMMIT_DELAY_S = 0.2  # a crash within it costs the next dispatcher a look at work that turns out to be settled
COMMIT_TIMEOUT_S = 10.0
CLAIMS_MAX = 10
CLAIM_AGAIN_S = 0.2  # drawn up to this, so that two who claimed at once do not do so again
TICK_S = 1.0  # how often silent runners are noticed, and the queue's state is told

QUEUE_KEY = "queue"
LIFE = 11  # characters of a dispatcher's name that tell its lives apart, the dot included
_log = structlog.get_logger(__name__)


class Dispatcher:
    """Everything between reading a submission and giving it to a runner. One object serves all terms of its process."""

    def __init__(
        self,
        name: str,
        *,
        codec: Codec,
        clock: Clock,
        policy: Policy,
        tier_topics: Mapping[str, Tier],
        assignment_partitions: Iterable[int],
        assign: Assign,
        send_assignment: SendTo,
        send_event: SendEvent,
        publish_event: Append,
        publish_command: Append,
        publish_state: PublishState,
        chunks: ChunkLog,
        silent_s_max: float,
        sole_of: str = "",
    ) -> None:
        self.deposed = asyncio.Event()
        self._lease = Lease(silent_s_max, clock.monotonic())
        self._left = asyncio.Event()
        self._sole_of = sole_of  # earlier lives of this name are known to have ended
        self._name = name
        self._codec = codec
        self._clock = clock
        self._tier_topics = tier_topics
        self._partitions = tuple(assignment_partitions)
        self._assign = assign
        self._send_assignment = send_assignment
        self._send_event = send_event
        self._publish_event = publish_event
        self._publish_command = publish_command
        self._publish_state = publish_state
        self._chunks = chunks
        self._tiers = policy.tiers
        self._scheduler = Scheduler(policy)
        self._reign = Reign(self._partitions)
        self._facts = Facts(codec, self._scheduler, self._reign)
        self._report = QueueReport(self._scheduler)
        self._epoch = 0
        self._submissions: SoleReader
        self._ledgers: dict[Partition, OffsetLedger] = {}
        self._source: dict[str, tuple[Partition, int]] = {}  # task not settled → where its submission lies
        self._unsettled: Counter[tuple[Partition, int]] = Counter()
        self._todo: list[Decision] = []
        self._wake = asyncio.Event()
        self._claims_read = asyncio.Event()
        self._settled = asyncio.Event()
        self._starts: Starts

    # What other services say.

    def on_assignments(self, partition: Partition, records: Iterable[Record]) -> None:
        """Claims and assignments, those of this dispatcher included."""
        for task_id in self._facts.assignments(partition[1], records, self._clock.now_us()):
            self._settle(task_id)
        self._claims_read.set()
        self._lease.heard(self._reign.newest, self._clock.monotonic())
        if self._epoch and not self._reign.holds(self._epoch, self._name):
            _log.warning("another dispatcher has taken over", epoch=self._epoch)
            self.deposed.set()
        self._wake.set()

    def on_queue(self, _: Partition, records: Iterable[Record]) -> None:
        """The active dispatcher tells what waits, and by that that it lives; a tombstone is its goodbye."""
        now_s = self._clock.monotonic()
        for record in records:
            told = self._facts.read(record, QueueState) if record.value is not None else None
            if told is not None:
                self._lease.heard(told.epoch, now_s)
            former = told is not None and told.dispatcher != self._name and told.dispatcher[:-LIFE] == self._sole_of
            if record.value is None or former:
                self._lease.goodbye(now_s)
                self._left.set()

    def on_task_events(self, _: Partition, records: Iterable[Record]) -> None:
        """Ends of tasks free their slots and those that come after them."""
        now = self._clock.now_us()
        for record in records:
            event = self._facts.read(record, TaskEvent)
            if event is not None:
                self._todo += self._facts.task_event(event, now)
                if event.change.ends:
                    self._settle(event.task_id)
        self._wake.set()

    def on_runners(self, _: Partition, records: Iterable[Record]) -> None:
        """What runners can take."""
        for record in records:
            self._facts.runner(
                record, self._clock.now_us()
            )  # of two that tell of one partition, the later one is right
        self._wake.set()

    def on_control(self, _: Partition, records: Iterable[Record]) -> None:
        """What clients ask of tasks. One that waits is changed here; one that runs is its runner's."""
        now = self._clock.now_us()
        for record in records:
            command = self._facts.read(record, ControlCommand)
            if command is not None:
                self._todo += self._facts.command(command, now)
        self._wake.set()

    # Who is the active dispatcher.

    async def stand_by(self) -> None:
        """Until it is time to try to become the active dispatcher."""
        while (left_s := self._lease.left_s(self._clock.monotonic())) > 0:
            self._left.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._left.wait()

    async def begin(self) -> bool:
        """Claim every partition of assignments, and read up to the claims: nothing that a predecessor does counts after.
        False if another dispatcher holds newer claims."""
        self.deposed.clear()
        for _ in range(CLAIMS_MAX):
            epoch = max(self._reign.newest, self._lease.epoch) + 1
            key = claim_key(epoch, self._name)
            await asyncio.gather(*(self._assign(partition, key, None) for partition in self._partitions))
            while not self._reign.was_read(epoch, self._name):
                self._claims_read.clear()
                await self._claims_read.wait()
            if self._reign.holds(epoch, self._name):
                self._epoch = epoch
                measures.began()
                _log.info("active", epoch=epoch)
                return True
            await asyncio.sleep(random.uniform(0, CLAIM_AGAIN_S))  # noqa: S311 - spreads load, guards nothing
            if self._reign.is_held():
                return False
        return False

    async def end(self) -> None:
        """The term is over: what waits is the next dispatcher's."""
        was_active, self._epoch = self._epoch and not self.deposed.is_set(), 0
        for task_id in self._source:
            self._scheduler.forget(task_id)
            self._facts.payloads.pop(task_id, None)
        measures.ended(self._tiers)
        self._source.clear()
        self._unsettled.clear()
        self._ledgers.clear()
        self._todo.clear()
        if was_active:
            await self._publish_state(QUEUE_KEY, None)  # nobody has to wait until this one's silence is noticed

    async def run(self, submissions: SoleReader) -> None:
        """Work until cancelled."""
        self._submissions = submissions
        self._starts = Starts(STARTS_MAX)
        self._ledgers = {p: OffsetLedger(metadata) for p, metadata in (await submissions.metadata()).items()}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_submissions(), name="read submissions")
            tasks.create_task(self._decide(tasks), name="decide")
            tasks.create_task(self._commit_settled(), name="commit")
            tasks.create_task(self._tell(), name="tell")
            tasks.create_task(self._starts.watch(), name="starts")

    async def _read_submissions(self) -> None:
        while True:
            for partition, records in await self._submissions.poll(1.0):
                for record in records:
                    self._take(partition, record)
            for topic, tier in self._tier_topics.items():
                full = self._scheduler.ready(tier) >= READY_MAX
                partitions = [p for p in self._submissions.partitions if p[0] == topic]
                (self._submissions.pause if full else self._submissions.resume)(partitions)
            self._wake.set()

    def _take(self, partition: Partition, record: Record) -> None:
        ledger = self._ledgers[partition]
        if not ledger.take(record.offset):
            return
        submitted = self._facts.read(record, TaskSubmitted)
        tasks = () if submitted is None else submitted.tasks()
        # From here on the time is the broker's: a reader of the stream may trust it, whatever the gateway's clock says.
        new = [
            msgspec.structs.replace(task, submitted_us=record.timestamp * 1000)
            for task in tasks
            if not self._scheduler.knows(task.task_id)
        ]
        if not new:
            ledger.finish(record.offset)
            self._settled.set()
            return
        self._unsettled[partition, record.offset] = len(new)
        for task in new:
            self._source[task.task_id] = partition, record.offset
            self._facts.payloads[task.task_id] = task
        now = self._clock.now_us()
        for task in new:
            self._todo += self._scheduler.submit(job_of(task, self._tiers), now)

    def _settle(self, task_id: str) -> None:
        source = self._source.pop(task_id, None)
        if source is None:
            return
        self._unsettled[source] -= 1
        if self._unsettled[source] <= 0:
            del self._unsettled[source]
            if source[0] in self._ledgers:
                self._ledgers[source[0]].finish(source[1])
                self._settled.set()

    # Carrying out.

    async def _decide(self, tasks: asyncio.TaskGroup) -> None:
        """Decisions are carried out side by side, in the order in which they were made as far as one partition goes: the
        next one does not wait until Kafka has acknowledged the last."""
        in_flight = asyncio.Semaphore(DECISIONS_MAX)

        async def carry_out(decision: End | Hold | Park) -> None:
            try:
                await self._carry_out(decision)
            finally:
                in_flight.release()

        while True:
            await self._something_to_do()
            for decision in self._decisions():
                if isinstance(decision, Start):
                    await self._starts.room()
                    self._give(decision)
                    continue
                await in_flight.acquire()
                tasks.create_task(carry_out(decision))

    def _decisions(self) -> Iterator[Decision]:
        now = self._clock.now_us()
        while True:
            if self._todo:
                todo, self._todo = self._todo, []
                yield from todo
            decision = self._scheduler.place(now)
            if decision is None:
                return
            yield decision

    async def _something_to_do(self) -> None:
        now = self._clock.now_us()
        at = self._scheduler.wake_us(now)
        delay_s = TICK_S if at is None else min(TICK_S, max(0.001, (at - now) / 1e6))
        try:
            async with asyncio.timeout(delay_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _carry_out(self, decision: End | Hold | Park) -> None:
        match decision:
            case End():
                await self._end(decision)
            case Hold():
                await self._event(decision.task_id, TaskChange.HELD, decision.reason)
            case Park():
                await self._park(decision)

    def _give(self, start: Start) -> None:
        """Both records leave in one request with those of other starts of this turn of the loop."""
        task_id = start.job.task_id
        task = self._facts.payloads[task_id]
        now = self._clock.now_us()
        assignment = Assignment(task=task, attempt=start.job.attempt, assigned_us=now, epoch=self._epoch)
        waited_s = (now - task.submitted_us) / 1e6
        self._report.started(start.job.tier, waited_s)
        meters.DISPATCHER_WAIT.of(start.job.tier).observe(max(0.0, waited_s))
        key, headers = task_id.encode(), tracing.headers_of(task.traceparent)
        event = self._told(task_id, TaskChange.ASSIGNED, start.reason, attempt=start.job.attempt - 1)
        self._send_assignment(start.partition, key, self._codec.encode(assignment), self._starts.one(), headers)
        self._send_event(key, event, self._starts.one())

    async def _end(self, end: End) -> None:
        task = self._facts.payloads.get(end.task_id)
        since_us, tenant = (0, "") if task is None else (task.submitted_us, task.tenant)
        await close_stream(end, self._chunks, self._clock, since_us=since_us, tenant=tenant)
        failed = end.outcome == "failed"
        detail = msgspec.json.encode(error_of(end)) if failed else b""
        change = TaskChange.FAILED if failed else TaskChange.CANCELLED
        await self._event(end.task_id, change, end.reason, detail=detail, attempt=end.attempt if end.attempt > 1 else 0)
        self._facts.payloads.pop(end.task_id, None)
        self._settle(end.task_id)

    async def _park(self, park: Park) -> None:
        command = ControlCommand(
            task_id=park.task_id,
            verb=ControlVerb.PARK,
            at_us=self._clock.now_us(),
            reason=park.reason,
            detail=msgspec.json.encode({"attempt": park.attempt}),
        )
        await self._publish_command(park.task_id, self._codec.encode(command))

    async def _commit_settled(self) -> None:
        while True:
            await self._settled.wait()
            await asyncio.sleep(COMMIT_DELAY_S)
            self._settled.clear()
            await self._commit()

    async def _commit(self) -> None:
        commits = {p: commit for p, ledger in self._ledgers.items() if (commit := ledger.commit()) is not None}
        if commits:
            try:
                await self._submissions.commit(commits, timeout_s=COMMIT_TIMEOUT_S)
            except Unavailable as problem:
                _log.warning("what is settled could not be committed, trying again", error=str(problem))
                self._settled.set()
                return
            for partition, commit in commits.items():
                self._ledgers[partition].committed(commit)

    async def _event(
        self, task_id: str, change: TaskChange, reason: str, *, detail: bytes = b"", attempt: int = 0
    ) -> None:
        await self._publish_event(task_id, self._told(task_id, change, reason, detail=detail, attempt=attempt))

    def _told(self, task_id: str, change: TaskChange, reason: str, *, detail: bytes = b"", attempt: int = 0) -> bytes:
        event = TaskEvent(
            task_id=task_id,
            change=change,
            at_us=self._clock.now_us(),
            attempt=attempt,
            by=self._name,
            reason=reason,
            detail=detail,
        )
        return self._codec.encode(event)

    async def _tell(self) -> None:
        while True:
            now = self._clock.now_us()
            report = self._report.state(now)
            measures.show(report)
            state = msgspec.json.encode(report)
            told = QueueState(dispatcher=self._name, epoch=self._epoch, at_us=now, state=state)
            await self._publish_state(QUEUE_KEY, self._codec.encode(told))
            await asyncio.sleep(TICK_S)
