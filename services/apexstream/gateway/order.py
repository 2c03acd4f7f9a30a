"""What the gateway knows of the order of work: who belongs together, what a task waited for, what the dispatcher tells."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.errors import ChunkDecodeError, LimitReached, Unavailable, UnknownTask
from apexstream.core.events import QueueState, TaskChange, TaskEvent, TaskSubmitted
from apexstream.core.scheduling import NOTHING_ASKED, Scheduling, scheduling_or_nothing
from apexstream.core.task import TaskState, TaskStatus
from apexstream.core.tiers import Tier, Tiers
from apexstream.gateway.backlog import Backlog
from apexstream.log.fetcher import Partition, Record

RETRY_S_MAX = 60.0
HELD_MAX = 1_000_000  # tasks that wait for upstreams or a time; the dispatcher keeps them in memory
REASONS_MAX = 4  # newest reasons of one task that are kept
SILENT_US_MAX = 15_000_000  # a dispatcher that has told nothing for this long is gone
_TOLD = {TaskChange.HELD, TaskChange.ASSIGNED, TaskChange.STARTED, TaskChange.PARKED}
_log = structlog.get_logger(__name__)


class _Story(msgspec.Struct):
    scheduling: Scheduling | None = None
    reasons: tuple[tuple[int, str, str], ...] = ()  # (microseconds, change, reason)


class OrderOfWork:
    """Graphs, labels and reasons by task, and the newest state of the queue."""

    def __init__(self, codec: Codec, tiers: Tiers, tenant_waiting_max: int) -> None:
        self._codec = codec
        self._tenant_waiting_max = tenant_waiting_max
        self._tiers = tiers
        self._backlog = Backlog()
        self._starts_a_second = 0.0
        self._stories: dict[str, _Story] = {}
        self._groups: dict[tuple[str, str], dict[str, None]] = {}  # (graph or label, its name) → tasks
        self._queue: QueueState | None = None

    def submitted(self, task: TaskSubmitted, *, waiting: bool) -> None:
        """A task exists."""
        facts = scheduling_or_nothing(task.scheduling)
        if waiting:
            tier, tenant = self._tiers.served(task.tier), task.tenant or facts.tenant
            self._backlog.add(task.task_id, tier, tenant, task.submitted_us)
        if facts == NOTHING_ASKED:
            return
        self._story(task.task_id).scheduling = facts
        for group in _groups(facts):
            self._groups.setdefault(group, {})[task.task_id] = None

    def changed(self, event: TaskEvent) -> None:
        """Something happened to a task that tells why it waited, or that it waits no longer."""
        if event.change is TaskChange.ASSIGNED or event.change is TaskChange.STARTED or event.change.ends:
            self._backlog.remove(event.task_id)
        if event.change in _TOLD:
            story = self._story(event.task_id)
            # Most reasons are the same few words.
            told = (event.at_us, str(event.change), sys.intern(event.reason))
            story.reasons = (*story.reasons, told)[-REASONS_MAX:]

    def forget(self, task_id: str) -> None:
        """The task is too old to be kept."""
        self._backlog.remove(task_id)
        story = self._stories.pop(task_id, None)
        for group in _groups(story.scheduling) if story is not None and story.scheduling is not None else ():
            members = self._groups.get(group, {})
            members.pop(task_id, None)
            if not members:
                self._groups.pop(group, None)

    def on_queue_state(self, _: Partition, records: Iterable[Record]) -> None:
        """What the active dispatcher tells of the queue."""
        for record in records:
            try:
                told = self._codec.decode(record.value, QueueState) if record.value is not None else None
                self._note_rate(self._queue, told)
                self._queue = told
            except ChunkDecodeError as problem:
                _log.error("skipped a record that cannot be read", offset=record.offset, error=str(problem))

    def members(self, kind: str, name: str) -> list[str]:
        """The tasks of a ``graph`` or with a ``label``, or :class:`UnknownTask`."""
        members = self._groups.get((kind, name))
        if not members:
            raise UnknownTask(f"there is no task of {kind} {name!r}", where=kind)
        return list(members)

    def moved(self, task_id: str, tier: Tier) -> None:
        """The task is to wait in another tier."""
        self._backlog.move(task_id, tier)

    def queue(self, now_us: int) -> dict[str, Any]:
        """The body of ``GET /queue``; :class:`Unavailable` while no dispatcher has told anything lately."""
        report = self._told(now_us)
        for tier in report["tiers"]:
            since_us = self._backlog.oldest_us(tier["tier"])
            tier["depth"] = self._backlog.depth(tier["tier"])
            tier["age_s"] = 0.0 if since_us is None else max(0.0, (now_us - since_us) / 1e6)
        return report

    def _told(self, now_us: int) -> dict[str, Any]:
        told = self._queue
        if told is None or now_us - told.at_us > SILENT_US_MAX:
            raise Unavailable(
                "no dispatcher is active", where="dispatcher", hint="Start one: `apexstream serve dispatcher`"
            )
        state: dict[str, Any] = msgspec.json.decode(told.state)
        return {"dispatcher": told.dispatcher, "epoch": told.epoch, "at_us": told.at_us, **state}

    def check_room(self, wanted: Sequence[Scheduling], now_us: int, tenant: str = "") -> None:
        """Refuse tasks of a tenant that has too many waiting, or that would be held back while too many are.

        ``tenant`` is who asks, where that is known; else the tasks say it. Raises :class:`LimitReached`.
        """
        added = Counter(tenant or facts.tenant for facts in wanted)
        for name, count in added.items():
            waiting = self._backlog.of_tenant(name)
            if waiting + count > self._tenant_waiting_max:
                whose = f"of tenant {name}" if name else "of no tenant"
                raise LimitReached(
                    f"{waiting} tasks {whose} wait, and at most {self._tenant_waiting_max} may",
                    where="queue",
                    hint="Submit again when some have started",
                    retry_after_s=self._retry_after_s(waiting + count - self._tenant_waiting_max),
                )
        if self._queue is not None and any(facts.after or facts.not_before_us for facts in wanted):
            held = msgspec.json.decode(self._queue.state).get("held", 0)
            if held + len(wanted) > HELD_MAX and now_us - self._queue.at_us <= SILENT_US_MAX:
                raise LimitReached(
                    f"{held} tasks wait for others or for a time, and at most {HELD_MAX} may",
                    where="queue",
                    hint="Submit again later",
                    retry_after_s=RETRY_S_MAX,
                )

    def _retry_after_s(self, tasks: int) -> float:
        """When about so many tasks will have started, at the rate at which they start now."""
        return min(RETRY_S_MAX, max(1.0, tasks / self._starts_a_second)) if self._starts_a_second else RETRY_S_MAX

    def _note_rate(self, before: QueueState | None, now: QueueState | None) -> None:
        if before is None or now is None or before.epoch != now.epoch or now.at_us <= before.at_us:
            return
        starts = (msgspec.json.decode(each.state).get("starts", 0) for each in (now, before))
        self._starts_a_second = max(0.0, (next(starts) - next(starts)) / ((now.at_us - before.at_us) / 1e6))

    def why(self, state: TaskState, now_us: int) -> dict[str, Any]:
        """The body of ``GET /tasks/{id}/why``: in a sentence why the task waits, or why it waited."""
        story = self._stories.get(state.task_id) or _Story()
        history = [{"at_us": at, "change": change, "reason": reason} for at, change, reason in story.reasons]
        return {
            "task_id": state.task_id,
            "status": state.status,
            "why": self._why(state, story, now_us),
            "history": history,
        }

    def _why(self, state: TaskState, story: _Story, now_us: int) -> str:
        if state.status is not TaskStatus.WAITING:
            assigned = [(at, reason) for at, change, reason in story.reasons if change == TaskChange.ASSIGNED]
            if not assigned:
                return state.reason or f"it is {state.status}"
            at, reason = assigned[-1]
            return f"it waited {(at - state.submitted_us) / 1e6:.3f} s, then was started: {reason}"
        facts = story.scheduling or Scheduling()
        if story.reasons and (facts.after or facts.not_before_us > now_us):
            return f"it {story.reasons[-1][2]}" if facts.after else story.reasons[-1][2]
        try:
            told = {tier["tier"]: tier for tier in self._told(now_us)["tiers"]}
        except Unavailable as problem:
            return str(problem)
        served = self._tiers.served(state.tier)
        tier = told.get(served)
        if tier is None:
            return f"the dispatcher has no tier {served}: its APEX_TIERS is not the gateway's"
        for stuck in tier["stuck"]:
            if (stuck["action"], stuck["tenant"]) == (f"{state.plugin}.{state.action}", facts.tenant):
                return str(stuck["reason"])
        return (
            f"its turn has not come: {tier['ready']} tasks of tier {served} are ready; "
            f"one that becomes ready now waits at most {tier['worst_wait_slots']} starts"
        )

    def _story(self, task_id: str) -> _Story:
        return self._stories.setdefault(task_id, _Story())


def _groups(facts: Scheduling) -> list[tuple[str, str]]:
    graph = [("graph", facts.graph)] if facts.graph else []
    return [*graph, *(("label", label) for label in facts.labels)]
