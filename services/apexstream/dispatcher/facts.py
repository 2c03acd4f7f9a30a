"""Turns records of other services into facts for the scheduler. Read from the beginning of the topics by active and standby
dispatchers alike, so that a new one knows what the last one did."""

from collections.abc import Iterable
from typing import TypeVar

import msgspec
import structlog

from apexstream.contracts.codec import Codec
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
from apexstream.core.reign import Reign, claim_of
from apexstream.core.scheduling import NOTHING_ASKED, Reschedule, scheduling_of
from apexstream.core.tiers import Tiers
from apexstream.dispatcher.decisions import Decision, Job, Outcome
from apexstream.dispatcher.scheduler import Scheduler
from apexstream.log.fetcher import Record

_OUTCOMES: dict[TaskChange, Outcome] = {
    TaskChange.COMPLETED: "succeeded",
    TaskChange.FAILED: "failed",
    TaskChange.CANCELLED: "cancelled",
}
_log = structlog.get_logger(__name__)

E = TypeVar("E", bound=Event)


def job_of(task: TaskSubmitted, tiers: Tiers, attempt: int = 1) -> Job:
    """What the scheduler needs to know of a task. What it asks for and cannot be read counts as nothing asked. A tenant that
    the gateway has verified stands above one that the submission names. A tier that is not configured any more counts as the
    least urgent one."""
    try:
        facts = scheduling_of(task.scheduling)
    except msgspec.DecodeError as problem:
        _log.error("a task's scheduling cannot be read", task=task.task_id, error=str(problem))
        facts = NOTHING_ASKED
    if task.tenant and task.tenant != facts.tenant:
        facts = msgspec.structs.replace(facts, tenant=task.tenant)
    action = f"{task.plugin}.{task.action}"
    tier = tiers.served(task.tier)
    return Job(task_id=task.task_id, action=action, tier=tier, scheduling=facts, attempt=attempt)


class Facts:
    """Applies records to a scheduler. ``payloads`` has what is needed to assign a task (again): those that wait, and
    active ones that may be parked."""

    def __init__(self, codec: Codec, scheduler: Scheduler, reign: Reign) -> None:
        self.payloads: dict[str, TaskSubmitted] = {}
        self._codec = codec
        self._scheduler = scheduler
        self._tiers = scheduler.policy.tiers
        self._reign = reign
        self._attempts: dict[str, int] = {}  # newest attempt of tasks that had more than one
        self._parked: dict[str, int] = {}  # attempt of a park that was read before its assignment

    def read(self, record: Record, kind: type[E]) -> E | None:
        """The message in a record, or None: one that cannot be read is logged and left out."""
        try:
            return self._codec.decode(record.value or b"", kind)
        except ChunkDecodeError as problem:
            _log.error("skipped a record that cannot be read", offset=record.offset, error=str(problem))
            return None

    def assignments(self, partition: int, records: Iterable[Record], now_us: int) -> list[str]:
        """Claims and assignments, in the order of their partition. The ids of the tasks whose assignment counts."""
        assigned: list[str] = []
        for record in records:
            claim = claim_of(record.key) if record.value is None else None
            if claim is not None:
                self._reign.claimed(partition, *claim)
                continue
            assignment = self.read(record, Assignment)
            if assignment is None or not self._reign.counts(partition, assignment.epoch):
                continue
            self._assigned(assignment, partition, now_us)
            assigned.append(assignment.task.task_id)
        return assigned

    def _assigned(self, assignment: Assignment, partition: int, now_us: int) -> None:
        task_id = assignment.task.task_id
        job = job_of(assignment.task, self._tiers, assignment.attempt)
        self._scheduler.assigned(job, partition)
        if job.scheduling.preemptible and self._scheduler.job(task_id) is not None:
            self.payloads[task_id] = assignment.task
            parked = self._parked.pop(task_id, 0)
            if parked >= assignment.attempt:
                self._scheduler.resume(job_of(assignment.task, self._tiers, parked + 1), now_us)
        else:
            self.payloads.pop(task_id, None)

    def task_event(self, event: TaskEvent, now_us: int) -> list[Decision]:
        """What became of a task, unless an attempt says it that had lost the task."""
        task_id = event.task_id
        if event.attempt < self._attempts.get(task_id, 0):
            return []
        if event.change.ends:
            for known in (self._attempts, self._parked, self.payloads):
                known.pop(task_id, None)
            return self._scheduler.ended(task_id, _OUTCOMES[event.change])
        if event.change is TaskChange.STARTED:
            self._scheduler.begun(task_id)
            if event.attempt > 1:
                self._attempts[task_id] = event.attempt
        if event.change is TaskChange.PARKED and event.detail:
            return self._let_go(event, now_us)
        return []

    def _let_go(self, event: TaskEvent, now_us: int) -> list[Decision]:
        """The runner let go of a task because it was asked to (which the detail says), so it waits for a runner again."""
        active = self._scheduler.job(event.task_id)
        task = self.payloads.get(event.task_id)
        if task is None or active is None:
            self._parked[event.task_id] = event.attempt
            return []
        if event.attempt < active.attempt:
            return []  # it was assigned again since
        return self._scheduler.resume(job_of(task, self._tiers, event.attempt + 1), now_us)

    def command(self, command: ControlCommand, now_us: int) -> list[Decision]:
        """What a client asks of a task."""
        if command.verb is ControlVerb.CANCEL:
            return self._scheduler.cancel(command.task_id, command.reason or "cancelled by request")
        if command.verb is ControlVerb.RESCHEDULE:
            try:
                change = msgspec.json.decode(command.detail, type=Reschedule)
            except msgspec.DecodeError as problem:
                _log.error("a change cannot be read", task=command.task_id, error=str(problem))
                return []
            if change.tier is not None:
                change = msgspec.structs.replace(change, tier=self._tiers.served(change.tier))
            return self._scheduler.reschedule(command.task_id, change, now_us)
        return []

    def runner(self, record: Record, now_us: int) -> None:
        """What a runner can take; a tombstone says that it has left. When it was heard is told by the clock that also tells
        when it has been silent for too long: a runner's own may be an hour off."""
        state = self.read(record, RunnerState) if record.value is not None else None
        if state is not None:
            state = msgspec.structs.replace(state, at_us=now_us)
        self._scheduler.runner((record.key or b"").decode(), state)
