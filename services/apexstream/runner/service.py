"""The runner's loop: takes assignments, commits what is finished, answers control, says what it can do."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec
import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.errors import ChunkDecodeError, Unavailable
from apexstream.core.events import ActionInfo, Assignment, ControlCommand, ControlVerb, RunnerState
from apexstream.core.reign import claim_of
from apexstream.core.scheduling import RunnerResources, scheduling_or_nothing
from apexstream.core.throttle import Behind
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.group import GroupReader
from apexstream.log.ledger import OffsetLedger
from apexstream.runner.work import Work
from apexstream.runtime import meters, tracing
from apexstream.runtime.clock import Clock

HEARTBEAT_S = 3.0
COMMIT_DELAY_S = (
    0.2  # what finishes within it is committed together; a crash before costs a look at streams that have ended
)
REMEMBERED_CANCELS_MAX = 10_000

_log = structlog.get_logger(__name__)

Publish = Callable[[str, bytes | None], Awaitable[object]]
"""Appends an encoded message under a key and returns once it is acknowledged."""


class Runner:
    """Everything a runner does between joining the group and leaving it."""

    def __init__(
        self,
        runner_id: str,
        *,
        capacity: int,
        resources: RunnerResources,
        offers: Callable[[], tuple[Sequence[ActionInfo], Mapping[str, str]]],
        codec: Codec,
        clock: Clock,
        make_work: Callable[[Assignment], Work],
        publish_state: Publish,
        log_reader: LogReader,
        drain_timeout_s: float,
    ) -> None:
        self.runner_id = runner_id
        self._capacity = capacity
        self._resources = resources
        self._offers = offers
        self._codec = codec
        self._clock = clock
        self._make_work = make_work
        self._publish_state = publish_state
        self._log_reader = log_reader
        self._drain_timeout_s = drain_timeout_s
        self._group: GroupReader
        self._ledgers: dict[Partition, OffsetLedger] = {}
        self._leaving: set[asyncio.Task[None]] = set()  # of those that run, those that were let go of
        self._fresh_from: dict[Partition, int] = {}
        self._works: dict[str, Work] = {}
        self._assigned: dict[str, Assignment] = {}
        self._running: dict[asyncio.Task[None], tuple[Partition, Work]] = {}
        self._aside: set[asyncio.Future[None]] = set()
        self._cancelled: dict[str, str] = {}
        self._full = False  # nothing is read
        self._dirty = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self, group: GroupReader) -> None:
        """Work until cancelled; then let go of all tasks at their next yield and commit what is finished."""
        self._group = group
        forget = meters.RUNNER_RUNNING.read(lambda: len(self._running))
        meters.RUNNER_CAPACITY.of().value = self._capacity
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take(), name="take assignments")
                tasks.create_task(self._commit(), name="commit")
                tasks.create_task(self._announce(), name="announce")
        finally:
            await asyncio.shield(self._leave())
            forget()

    async def on_assigned(self, partitions: Mapping[Partition, str]) -> None:
        """The partitions that this runner owns from now on. Those that it had before keep their tasks; tasks of those that
        moved away are parked, and their new owner goes on with them."""
        self._let_go(lambda partition: partition not in partitions)
        # What lies before the present end may have been given to another runner in between.
        self._fresh_from = await self._log_reader.ends(partitions)
        self._ledgers = {
            partition: self._ledgers.get(partition) or OffsetLedger(metadata)
            for partition, metadata in partitions.items()
        }
        self._changed.set()

    def on_missed(self) -> None:
        """Others may have gone on with the tasks that run here: they are parked, and whoever owns them now claims them anew."""
        self._let_go(lambda _: True)
        self._ledgers = {}

    async def on_revoked(self, _: frozenset[Partition]) -> None:
        """A rebalance begins, in which this runner mostly gets back what it had: commit what is finished."""
        await self._commit_finished()

    def busy(self) -> set[Partition]:
        """The partitions whose tasks are running."""
        return {partition for partition, _ in self._running.values()}

    def on_control(self, _: Partition, records: Iterable[Record]) -> None:
        """Requests about tasks, broadcast to all runners. A cancellation of a task that is not here yet is remembered."""
        for record in records:
            try:
                command = self._codec.decode(record.value, ControlCommand)
            except ChunkDecodeError as problem:
                _log.error("skipped a command that cannot be read", offset=record.offset, error=str(problem))
                continue
            work = self._works.get(command.task_id)
            if command.verb is ControlVerb.CANCEL:
                self._cancel(command.task_id, work, command.reason or "cancelled by request")
            elif work is not None and command.verb in {ControlVerb.PAUSE, ControlVerb.RESUME}:
                self._background(work.pause(command.verb is ControlVerb.PAUSE))
            elif work is not None and command.verb is ControlVerb.PARK and self._is_meant(command):
                work.give_back(command.reason)
            elif work is not None and command.verb is ControlVerb.THROTTLE:
                _press(work, command)

    def _is_meant(self, command: ControlCommand) -> bool:
        """Whether a request to park is about the assignment that is here, and not about an earlier one of the same task."""
        try:
            meant = msgspec.json.decode(command.detail, type=dict[str, int]).get("attempt", 0)
        except msgspec.DecodeError as problem:
            _log.error("a request to park cannot be read", task=command.task_id, error=str(problem))
            return False
        return meant == self._assigned[command.task_id].attempt

    def _cancel(self, task_id: str, work: Work | None, reason: str) -> None:
        if work is not None:
            work.cancel(reason)
        self._cancelled[task_id] = reason
        if len(self._cancelled) > REMEMBERED_CANCELS_MAX:
            del self._cancelled[next(iter(self._cancelled))]

    async def _take(self) -> None:
        while True:
            for partition, records in await self._group.poll(1.0):
                for record in records:
                    if partition in self._ledgers:
                        self._received(partition, self._ledgers[partition], record)
                self._dirty.set()
            if len(self._running) >= self._capacity:
                self._full = True
                self._group.pause(self._group.owned)

    def _received(self, partition: Partition, ledger: OffsetLedger, record: Record) -> None:
        claim = claim_of(record.key) if record.value is None else None
        if claim is not None:
            ledger.claim(record.offset, claim[0])
        if not ledger.take(record.offset):
            return
        if claim is not None:
            ledger.finish(record.offset)
        else:
            self._start(partition, record)

    def _start(self, partition: Partition, record: Record) -> None:
        try:
            assignment = self._codec.decode(record.value, Assignment)
        except ChunkDecodeError as problem:
            _log.error("skipped an assignment that cannot be read", at=(*partition, record.offset), error=str(problem))
            self._finish(partition, record.offset)
            return
        assignment = msgspec.structs.replace(
            assignment, assigned_us=record.timestamp * 1000
        )  # the broker's time, as of all
        task_id = assignment.task.task_id
        if assignment.epoch < self._ledgers[partition].epoch:
            _log.info("an assignment of a dispatcher that was replaced", task=task_id, epoch=assignment.epoch)
            self._finish(partition, record.offset)
            return
        earlier = self._running_of(task_id)
        # One that was let go of ends without being finished: its partition went away and is back, and it has to go on.
        goes_on = earlier is not None and earlier not in self._leaving
        if goes_on and assignment.attempt <= self._assigned[task_id].attempt:
            _log.warning("assigned twice; the first one goes on", task=task_id)
            self._finish(partition, record.offset)
            return
        work = self._works[task_id] = self._make_work(assignment)
        self._assigned[task_id] = assignment
        if task_id in self._cancelled:
            work.cancel(self._cancelled[task_id])
        never_given = record.offset >= self._fresh_from.get(partition, record.offset + 1)
        fresh = never_given and assignment.attempt == 1  # one that was parked has a stream already
        running = asyncio.create_task(
            self._run(work, assignment.attempt, fresh=fresh, at=(partition, record.offset), after=earlier), name=task_id
        )
        self._running[running] = partition, work
        running.add_done_callback(self._forget)

    def _running_of(self, task_id: str) -> asyncio.Task[None] | None:
        work = self._works.get(task_id)
        return next((task for task, (_, running) in self._running.items() if running is work), None) if work else None

    async def _run(
        self, work: Work, attempt: int, *, fresh: bool, at: tuple[Partition, int], after: asyncio.Task[None] | None
    ) -> None:
        finished = False
        try:
            if after is not None:  # the same task, given back or let go of a moment ago: it is about to end
                await asyncio.wait([after])
            with tracing.of_task(work.task.task_id, work.task.traceparent):
                finished = await work.run(attempt, fresh=fresh)
        except Exception:  # one task's trouble, its log unreadable for instance, stops no other task
            _log.exception(
                "a task was given up; it stays uncommitted and its next owner tries again", task=work.task.task_id
            )
        finally:
            if self._works.get(work.task.task_id) is work:
                del self._works[work.task.task_id], self._assigned[work.task.task_id]
        if finished:
            self._finish(*at)
        # Now, and not in the callback: what is resumed here must not be paused again because this one still counts.
        self._forget(asyncio.current_task())
        if self._full and len(self._running) < self._capacity:
            self._full = False
            self._group.resume(self._group.owned)

    def _forget(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            self._running.pop(running, None)

    def _finish(self, partition: Partition, offset: int) -> None:
        ledger = self._ledgers.get(partition)
        if ledger is not None:
            ledger.finish(offset)
            self._dirty.set()

    def _let_go(self, leaves: Callable[[Partition], bool]) -> list[asyncio.Task[None]]:
        going = [running for running, (partition, _) in self._running.items() if leaves(partition)]
        for running in going:
            self._running[running][1].park()
        self._leaving.update(going)
        return going

    async def _leave(self) -> None:
        going = self._let_go(lambda _: True)
        if going:
            _, stuck = await asyncio.wait(going, timeout=self._drain_timeout_s)
            for running in stuck:
                running.cancel()
            await asyncio.gather(*stuck, return_exceptions=True)
        await self._commit_finished()
        try:
            await self._publish_state(self.runner_id, None)
        except Unavailable as problem:
            _log.warning("could not say goodbye", error=str(problem))

    def _background(self, work: Awaitable[None]) -> None:
        """For what a callback starts and nobody waits for; its failure is logged."""
        task = asyncio.ensure_future(work)
        self._aside.add(task)
        task.add_done_callback(self._settle)

    def _settle(self, task: asyncio.Future[None]) -> None:
        self._aside.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            _log.warning("a request about a task could not be followed", error=str(problem))

    async def _commit(self) -> None:
        while True:
            await self._dirty.wait()
            await asyncio.sleep(COMMIT_DELAY_S)
            self._dirty.clear()
            await self._commit_finished()

    async def _commit_finished(self) -> None:
        commits = {p: commit for p, ledger in self._ledgers.items() if (commit := ledger.commit()) is not None}
        if commits and await self._group.commit(commits):
            for partition, commit in commits.items():
                if partition in self._ledgers:
                    self._ledgers[partition].committed(commit)

    async def _announce(self) -> None:
        while True:
            self._changed.clear()
            actions, broken = self._offers()
            state = RunnerState(
                runner_id=self.runner_id,
                at_us=self._clock.now_us(),
                capacity=self._capacity,
                partitions=tuple(sorted(partition for _, partition in self._ledgers)),
                actions=tuple(actions),
                broken_plugins=tuple(f"{name}: {why}" for name, why in broken.items()),
                resources=msgspec.json.encode(msgspec.structs.replace(self._resources, used=self._used())),
            )
            try:
                await self._publish_state(self.runner_id, self._codec.encode(state))
            except Unavailable as problem:
                _log.warning("could not announce this runner", error=str(problem))
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _used(self) -> dict[str, float]:
        """What the tasks in hand stated that they need."""
        used: dict[str, float] = {}
        for assignment in self._assigned.values():
            for name, amount in scheduling_or_nothing(assignment.task.scheduling).needs.items():
                used[name] = used.get(name, 0.0) + amount
        return used


def _press(work: Work, command: ControlCommand) -> None:
    try:
        behind = msgspec.json.decode(command.detail, type=Behind)
    except msgspec.DecodeError as problem:
        _log.error("what a reader says cannot be read", task=command.task_id, error=str(problem))
        return
    work.press(behind.reader, behind.pressure)
