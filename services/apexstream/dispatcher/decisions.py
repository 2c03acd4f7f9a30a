"""What the scheduler decides, as values that say why; the service carries them out."""

from dataclasses import dataclass
from typing import Literal

from apexstream.core.scheduling import NOTHING_ASKED, Scheduling
from apexstream.core.tiers import Tier

Outcome = Literal["succeeded", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the scheduler knows of a task. ``action`` is ``plugin.action``; ``attempt`` is the number it would start with."""

    task_id: str
    action: str
    tier: Tier
    scheduling: Scheduling = NOTHING_ASKED
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Give the task to whoever owns ``partition`` of the assignments topic, which is ``runner_id`` now. It waited this many
    slots, its own included, since it became ready with ``ahead`` others of its tier ready before it."""

    job: Job
    partition: int
    runner_id: str
    waited_slots: int
    ahead: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """A waiting task ends: it never ran, or (``attempt`` above 1) it was parked and does not go on."""

    task_id: str
    outcome: Outcome
    reason: str
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The task waits for something else than its turn."""

    task_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Park:
    """Ask the runner of this task to let go of it at its next yield; it goes on later."""

    task_id: str
    attempt: int
    reason: str


Decision = Start | End | Hold | Park
