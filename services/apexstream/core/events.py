"""The messages that services exchange on topics, as values; ``schemas/events`` has their Avro form field by field.

Times are microseconds since the epoch and end in ``_us``. Parameters and details are JSON, kept as bytes: the platform
carries them and never looks inside.
"""

from enum import StrEnum

import msgspec

from apexstream.core.tiers import Tier


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages: frozen, keyword-only."""


class TaskSubmitted(Event, frozen=True, kw_only=True):
    """A client asked for one run of an action. On the topic of its tier, keyed by ``task_id``."""

    task_id: str
    plugin: str
    action: str
    params: bytes
    tier: Tier
    submitted_us: int


class TaskChange(StrEnum):
    """What happened to a task. The last three end it."""

    UNKNOWN = "unknown"  # written by a newer version
    ASSIGNED = "assigned"
    STARTED = "started"
    CANCEL_REQUESTED = "cancel_requested"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ends(self) -> bool:
        """True for the changes after which nothing more happens to the task."""
        return self in {TaskChange.COMPLETED, TaskChange.FAILED, TaskChange.CANCELLED}


class TaskEvent(Event, frozen=True, kw_only=True):
    """A change of a task's life and its reason. On ``apex.task-events``, keyed by ``task_id``."""

    task_id: str
    change: TaskChange
    at_us: int
    attempt: int
    by: str  # the service instance that decided or saw it
    reason: str = ""
    detail: bytes = b""  # JSON; for a failure the error as users see it


class Assignment(Event, frozen=True, kw_only=True):
    """The dispatcher gives a task to whichever runner owns this partition of ``apex.assignments``."""

    task: TaskSubmitted
    attempt: int
    assigned_us: int


class ActionInfo(Event, frozen=True, kw_only=True):
    """One action as a runner offers it. ``params_schema`` is JSON Schema (2020-12)."""

    plugin: str
    action: str
    summary: str
    streams: bool
    params_schema: bytes


class RunnerState(Event, frozen=True, kw_only=True):
    """What a runner is and can take now. Compacted by ``runner_id``; silent for long means gone."""

    runner_id: str
    at_us: int
    capacity: int  # tasks at once
    partitions: tuple[int, ...]  # of apex.assignments, owned now
    actions: tuple[ActionInfo, ...]
    broken_plugins: tuple[str, ...] = ()  # "name: why it could not be loaded"


class ControlVerb(StrEnum):
    """What a client may ask of a task that exists."""

    UNKNOWN = "unknown"
    CANCEL = "cancel"


class ControlCommand(Event, frozen=True, kw_only=True):
    """A client's request about a task, broadcast to whoever holds it. On ``apex.control``, keyed by ``task_id``."""

    task_id: str
    verb: ControlVerb
    at_us: int
    reason: str = ""
