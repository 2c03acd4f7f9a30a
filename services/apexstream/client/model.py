"""What the gateway tells of tasks and actions, as values."""

from typing import Any

import msgspec

from apexstream.client.problems import Problem
from apexstream.core.task import TaskStatus


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One requested run of an action, as it stood when it was asked for. Times: microseconds since the epoch."""

    task_id: str
    stream_id: str
    status: TaskStatus
    plugin: str = ""
    action: str = ""
    tier: str = ""
    attempt: int = 0
    submitted_us: int = 0
    changed_us: int = 0
    reason: str = ""
    error: Problem | None = None


class Stuck(msgspec.Struct, frozen=True, kw_only=True):
    """Ready tasks that cannot start, for one reason."""

    action: str
    tenant: str
    tasks: int
    first: str
    reason: str


class QueueTier(msgspec.Struct, frozen=True, kw_only=True):
    """What waits in a tier: ``depth`` tasks were not given out, the oldest for ``age_s``; ``ready`` of them wait only for
    their turn and for room. ``wait_*_s`` are of the newest starts. ``worst_wait_slots``: how many starts, anywhere, a task that
    becomes ready now waits at most, if it fits; ``one_of_slots``: of so many starts at least one is this tier's."""

    tier: str
    depth: int = 0
    age_s: float = 0.0
    ready: int = 0
    oldest_ready_s: float = 0.0
    wait_p50_s: float = 0.0
    wait_p99_s: float = 0.0
    worst_wait_slots: int = 0
    one_of_slots: int = 1
    stuck: tuple[Stuck, ...] = ()


class QueueRunner(msgspec.Struct, frozen=True, kw_only=True):
    """A runner as the dispatcher sees it: ``tasks`` of ``capacity``, what it has and what its tasks use."""

    runner_id: str
    tasks: int
    capacity: int
    amounts: dict[str, float] = {}
    used: dict[str, float] = {}
    labels: tuple[str, ...] = ()


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """The order of work, as the active dispatcher told it at ``at_us``."""

    dispatcher: str
    epoch: int
    at_us: int
    tiers: tuple[QueueTier, ...] = ()
    runners: tuple[QueueRunner, ...] = ()
    held: int = 0
    active: int = 0
    starts: int = 0


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """A decision about a task, and why."""

    at_us: int
    change: str
    reason: str


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Why a task waits or waited, in a sentence, and the decisions about it."""

    task_id: str
    status: TaskStatus
    why: str
    history: tuple[Reason, ...] = ()


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks that were submitted together."""

    graph_id: str
    tasks: tuple[Task, ...]


class Cancelling(msgspec.Struct, frozen=True, kw_only=True):
    """The tasks whose end was asked for."""

    cancelling: tuple[str, ...]


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A task that failed for good: what it was, why it failed, and why it was not tried again."""

    task_id: str
    plugin: str
    action: str
    params: dict[str, Any]
    attempts: int
    error_class: str
    reason: str
    at_us: int
    error: Problem | None = None


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """An action that some runner offers. ``params_schema`` is JSON Schema (2020-12)."""

    plugin: str
    action: str
    summary: str = ""
    streams: bool = True
    params_schema: dict[str, Any] = {}


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """All that can be run now: the actions of every live runner, and the plugins that could not be loaded, with why; and the
    tiers that a task may ask for, the most urgent first."""

    actions: tuple[Action, ...] = ()
    broken_plugins: tuple[str, ...] = ()
    runners: int = 0
    tiers: tuple[str, ...] = ()
    default_tier: str = ""


class PipelineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline. ``streams`` are the ids of all streams that it writes; ``status`` is ``running``, ``cancelling``, ``complete``,
    ``error`` or ``cancelled``, the last three once its outputs are sealed."""

    pipeline_id: str
    status: str
    submitted_us: int
    streams: tuple[str, ...]
    definition: dict[str, Any]
    reason: str = ""
