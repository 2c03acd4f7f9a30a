"""What the gateway tells of tasks and actions, as values."""

from typing import Any

import msgspec

from apexstream.client.problems import Problem
from apexstream.core.task import TaskStatus
from apexstream.core.tiers import Tier


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One requested run of an action, as it stood when it was asked for. Times: microseconds since the epoch."""

    task_id: str
    stream_id: str
    status: TaskStatus
    plugin: str = ""
    action: str = ""
    tier: Tier = Tier.NORMAL
    attempt: int = 0
    submitted_us: int = 0
    changed_us: int = 0
    reason: str = ""
    error: Problem | None = None


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
    """All that can be run now: the actions of every live runner, and the plugins that could not be loaded, with why."""

    actions: tuple[Action, ...] = ()
    broken_plugins: tuple[str, ...] = ()
    runners: int = 0
