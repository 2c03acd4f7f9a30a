"""The runner's loop: takes assignments, runs them, commits what is finished, answers control, says what it can do."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import msgspec
import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.errors import ApexError, ChunkDecodeError, Unavailable
from apexstream.core.events import (
    ActionInfo,
    Assignment,
    ControlCommand,
    ControlVerb,
    RunnerState,
    TaskChange,
    TaskEvent,
    TaskSubmitted,
)
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.group import GroupReader
from apexstream.log.ledger import OffsetLedger
from apexstream.plugin import PluginManager
from apexstream.runner.attempt import Attempt, Ended, error_payload
from apexstream.runtime.clock import Clock

HEARTBEAT_S = 3.0
REMEMBERED_CANCELS_MAX = 10_000
RETRY_DELAY_S = 1.0

_log = structlog.get_logger(__name__)

MakeAttempt = Callable[[TaskSubmitted], Attempt]
Publish = Callable[[str, bytes | None], Awaitable[object]]
"""Appends an encoded message under a key and returns once it is acknowledged."""


class Runner:
    """Everything a runner does between joining the group and leaving it."""

    def __init__(
        self,
        runner_id: str,
        *,
        capacity: int,
        plugins: PluginManager,
        codec: Codec,
        clock: Clock,
        make_attempt: MakeAttempt,
        publish_event: Publish,
        publish_state: Publish,
        log_reader: LogReader,
    ) -> None:
        self.runner_id = runner_id
        self._capacity = capacity
        self._plugins = plugins
        self._codec = codec
        self._clock = clock
        self._make_attempt = make_attempt
        self._publish_event = publish_event
        self._publish_state = publish_state
        self._log_reader = log_reader
        self._group: GroupReader
        self._ledgers: dict[Partition, OffsetLedger] = {}
        self._fresh_from: dict[Partition, int] = {}
        self._running: dict[str, Attempt] = {}
        self._tasks: dict[asyncio.Task[None], Partition] = {}
        self._cancelled: dict[str, str] = {}
        self._dirty = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self, group: GroupReader) -> None:
        """Work until cancelled."""
        self._group = group
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take(tasks), name="take assignments")
                tasks.create_task(self._commit(), name="commit")
                tasks.create_task(self._announce(), name="announce")
        finally:
            await asyncio.shield(self._publish_state(self.runner_id, None))

    async def on_assigned(self, partitions: Mapping[Partition, str]) -> None:
        """The partitions that this runner owns from now on. Those that it had before keep their tasks; tasks of those
        that moved away are broken off here, and their new owner goes on with them."""
        lost = [task for task, partition in self._tasks.items() if partition not in partitions]
        for task in lost:
            task.cancel()
        await asyncio.gather(*lost, return_exceptions=True)
        # What lies before the present end may have been given to another runner in between.
        self._fresh_from = await self._log_reader.ends(partitions)
        self._ledgers = {partition: self._ledgers.get(partition) or OffsetLedger() for partition in partitions}
        self._changed.set()

    async def on_revoked(self, _: frozenset[Partition]) -> None:
        """A rebalance begins, in which this runner mostly gets back what it had: commit what is finished."""
        await self._commit_finished()

    def on_control(self, _: Partition, records: Iterable[Record]) -> None:
        """Requests about tasks, broadcast to all runners. One about a task that is not here yet is remembered."""
        for record in records:
            command = self._codec.decode(record.value or b"", ControlCommand)
            if command.verb is not ControlVerb.CANCEL:
                continue
            reason = command.reason or "cancelled by request"
            attempt = self._running.get(command.task_id)
            if attempt is not None:
                attempt.cancel(reason)
            self._cancelled[command.task_id] = reason
            if len(self._cancelled) > REMEMBERED_CANCELS_MAX:
                del self._cancelled[next(iter(self._cancelled))]

    async def _take(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            for partition, records in await self._group.poll(1.0):
                for record in records:
                    if partition in self._ledgers and self._ledgers[partition].take(record.offset):
                        self._start(tasks, partition, record)
            if len(self._tasks) >= self._capacity:
                self._group.pause(self._group.owned)

    def _start(self, tasks: asyncio.TaskGroup, partition: Partition, record: Record) -> None:
        try:
            assignment = self._codec.decode(record.value or b"", Assignment)
        except ChunkDecodeError as problem:
            _log.error("skipped an assignment that cannot be read", at=(*partition, record.offset), error=str(problem))
            self._finish(partition, record.offset)
            return
        fresh = record.offset >= self._fresh_from.get(partition, record.offset + 1)
        work = tasks.create_task(
            self._work(assignment, fresh=fresh, partition=partition, offset=record.offset), name=assignment.task.task_id
        )
        self._tasks[work] = partition
        work.add_done_callback(self._tasks.pop)

    async def _work(self, assignment: Assignment, *, fresh: bool, partition: Partition, offset: int) -> None:
        task = assignment.task
        attempt = self._make_attempt(task)
        if task.task_id in self._running:
            _log.warning("assigned twice; the first one goes on", task=task.task_id)
        else:
            self._running[task.task_id] = attempt
            try:
                if task.task_id in self._cancelled:
                    attempt.cancel(self._cancelled[task.task_id])
                await self._until_ended(attempt, assignment, fresh=fresh)
            except Exception as problem:  # one task's trouble, the log unreadable for instance, stops no other task
                _log.exception("task given up", task=task.task_id)
                failed = Ended(TaskChange.FAILED, assignment.attempt, error_payload(problem, task), str(problem))
                await self._event(task, failed.change, failed.attempt, failed)
            finally:
                del self._running[task.task_id]
        self._finish(partition, offset)

    def _finish(self, partition: Partition, offset: int) -> None:
        ledger = self._ledgers.get(partition)
        if ledger is not None:
            ledger.finish(offset)
        self._dirty.set()
        if len(self._tasks) <= self._capacity:
            self._group.resume(self._group.owned)

    async def _until_ended(self, attempt: Attempt, assignment: Assignment, *, fresh: bool) -> None:
        """Try until the log holds the end of the stream: whatever failed on the way is not the action's doing."""
        task = assignment.task
        started = asyncio.create_task(self._event(task, TaskChange.STARTED, assignment.attempt), name="event")
        while True:
            try:
                if fresh:
                    ended = await attempt.run_first(assignment.attempt)
                else:
                    ended = await attempt.run_again(assignment.attempt)
                await started
                await self._event(task, ended.change, ended.attempt, ended)
            except Unavailable as problem:
                _log.warning("attempt broken off", task=task.task_id, error=str(problem), retry_in_s=RETRY_DELAY_S)
                await asyncio.gather(started, return_exceptions=True)
                started = asyncio.create_task(asyncio.sleep(RETRY_DELAY_S), name="retry delay")
                await started
                fresh, attempt = False, self._renew(attempt)
            else:
                return

    def _renew(self, old: Attempt) -> Attempt:
        attempt = self._running[old.task.task_id] = self._make_attempt(old.task)
        if old.token.is_cancelled:
            attempt.cancel(old.token.reason)
        return attempt

    async def _event(self, task: TaskSubmitted, change: TaskChange, attempt: int, ended: Ended | None = None) -> None:
        event = TaskEvent(
            task_id=task.task_id,
            change=change,
            at_us=self._clock.now_us(),
            attempt=attempt,
            by=self.runner_id,
            reason=ended.reason if ended else "",
            detail=ended.error if ended else b"",
        )
        await self._publish_event(task.task_id, self._codec.encode(event))

    async def _commit(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._commit_finished()

    async def _commit_finished(self) -> None:
        offsets = {p: at for p, ledger in self._ledgers.items() if (at := ledger.commit_offset()) is not None}
        try:
            if offsets and await self._group.commit({partition: (at, "") for partition, at in offsets.items()}):
                for partition, at in offsets.items():
                    self._ledgers[partition].committed(at)
        except ApexError as problem:
            _log.warning("commit failed; the next one includes it", error=str(problem))

    async def _announce(self) -> None:
        actions = tuple(self._actions())
        while True:
            self._changed.clear()
            state = RunnerState(
                runner_id=self.runner_id,
                at_us=self._clock.now_us(),
                capacity=self._capacity,
                partitions=tuple(sorted(partition for _, partition in self._ledgers)),
                actions=actions,
                broken_plugins=tuple(f"{name}: {why}" for name, why in self._plugins.broken.items()),
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

    def _actions(self) -> Iterable[ActionInfo]:
        for plugin, spec in self._plugins.actions():
            yield ActionInfo(
                plugin=plugin,
                action=spec.name,
                summary=spec.summary,
                streams=self._plugins.streams(plugin, spec.name),
                params_schema=msgspec.json.encode(spec.params_schema),
            )
