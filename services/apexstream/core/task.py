"""The life of a task, folded from its submission and its events."""

from enum import StrEnum

import msgspec

from apexstream.core.events import TaskChange, TaskEvent, TaskSubmitted
from apexstream.core.tiers import Tier


class TaskStatus(StrEnum):
    """Where a task is in its life. The last three are final."""

    WAITING = "waiting"
    ASSIGNED = "assigned"
    RUNNING = "running"
    PAUSED = "paused"
    RETRYING = "retrying"
    PARKED = "parked"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True once nothing more happens to the task."""
        return self in {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}


_STATUS_AFTER = {
    TaskChange.ASSIGNED: TaskStatus.ASSIGNED,
    TaskChange.STARTED: TaskStatus.RUNNING,
    TaskChange.CANCEL_REQUESTED: TaskStatus.CANCELLING,
    TaskChange.COMPLETED: TaskStatus.COMPLETED,
    TaskChange.FAILED: TaskStatus.FAILED,
    TaskChange.CANCELLED: TaskStatus.CANCELLED,
    TaskChange.RETRYING: TaskStatus.RETRYING,
    TaskChange.PARKED: TaskStatus.PARKED,
    TaskChange.PAUSED: TaskStatus.PAUSED,
    TaskChange.RESUMED: TaskStatus.RUNNING,
}


class TaskState(msgspec.Struct, kw_only=True):
    """What is known of one task. ``stream_id`` equals ``task_id``."""

    task_id: str
    status: TaskStatus = TaskStatus.WAITING
    plugin: str = ""
    action: str = ""
    tier: Tier = ""  # until the submission is read
    attempt: int = 0
    submitted_us: int = 0
    changed_us: int = 0
    reason: str = ""
    traceparent: str = ""  # W3C trace context of the submission
    error: msgspec.Raw = msgspec.Raw(b"null")

    def submitted(self, task: TaskSubmitted) -> None:
        """Fold the submission in; it may be read after the first events, which then stand."""
        self.plugin, self.action, self.tier = task.plugin, task.action, task.tier
        self.submitted_us = task.submitted_us
        self.traceparent = task.traceparent
        self.changed_us = max(self.changed_us, task.submitted_us)

    def apply(self, event: TaskEvent) -> None:
        """Fold one event in. A final status stands; an older attempt changes nothing; a request to cancel is not undone
        by the news that the task started."""
        status = _STATUS_AFTER.get(event.change)
        if status is None or self.status.final or event.attempt < self.attempt:
            return
        self.attempt, self.changed_us = event.attempt, event.at_us
        if self.status is TaskStatus.CANCELLING and not status.final:
            return
        self.status, self.reason = status, event.reason
        if event.change is TaskChange.FAILED:
            self.error = msgspec.Raw(event.detail or b"null")
