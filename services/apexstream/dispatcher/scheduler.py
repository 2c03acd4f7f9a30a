"""The scheduler: facts about tasks and runners in, decisions out. Pure: time comes in as a parameter.

A task is waiting (held back by upstreams or time, or ready), active, or ended. :mod:`queue` orders the ready ones of a
tier, :mod:`fleet` knows where there is room, :mod:`gates` what may run together, :mod:`policy` how tiers and tenants share.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from apexstream.core.events import RunnerState
from apexstream.core.scheduling import Reschedule
from apexstream.core.tiers import Tier
from apexstream.dispatcher.decisions import Decision, End, Hold, Job, Outcome, Park, Start
from apexstream.dispatcher.fleet import Fleet, Shape
from apexstream.dispatcher.gates import Gates
from apexstream.dispatcher.policy import Policy
from apexstream.dispatcher.queue import CanStart, Entry, Lane, LaneKey, TierQueue

Where = tuple[str, int]  # runner, partition
NAMED_MAX = 3  # upstreams named in a reason


@dataclass(slots=True, eq=False)
class _Active:
    job: Job
    shape: Shape
    partition: int
    started_at: int  # slot count
    begun: bool  # its runner has said so
    parking: bool = False
    cancelled: str = ""  # why its runner is to end it


@dataclass(slots=True)
class _Passed:
    """The task that was passed over last for want of room, how often, and the runner that is kept for it then."""

    task_id: str = ""
    count: int = 0
    runner_id: str = ""


class Scheduler:
    """The order of work. Every method that may decide returns its decisions; carrying them out is the caller's."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.starts = 0
        self._fleet = Fleet(policy.runner_silent_us_max, policy.starting_max)
        self._gates = Gates(policy.rates)
        self._queues: dict[Tier, TierQueue[Where]] = {
            tier: TierQueue(policy.weight, policy.oldest_every) for tier in policy.tiers.names
        }
        self._waiting: dict[str, Entry] = {}
        self._active: dict[str, _Active] = {}
        self._ended: dict[str, Outcome] = {}
        self._dependents: dict[str, dict[str, None]] = {}  # upstream that has not ended → who waits for it
        self._delayed: list[tuple[int, str]] = []
        self._cancelled: dict[str, str] = {}  # before the task was read
        self._changed: dict[str, Reschedule] = {}
        self._begun: dict[str, None] = {}  # before the assignment was read
        self._line = 0  # places given out
        self._passed = _Passed()
        self._full: set[Shape] = set()  # shapes without room since the last change of room
        self._live: tuple[str, ...] = ()

    # What happens.

    def submit(self, job: Job, now_us: int) -> list[Decision]:
        """A task wants to run. One that is known already changes nothing."""
        if self.knows(job.task_id):
            return []
        change = self._changed.pop(job.task_id, None)
        if change is not None:
            job = _changed(job, change)
        entry = self._waiting[job.task_id] = Entry(job, now_us)
        reason = self._cancelled.pop(job.task_id, None)
        if reason is not None:
            return self._end(job.task_id, "cancelled", reason)
        facts = job.scheduling
        for upstream in dict.fromkeys(facts.after):
            outcome = self._ended.get(upstream)
            if outcome is None:
                self._dependents.setdefault(upstream, {})[job.task_id] = None
                entry.pending += 1
            elif outcome != "succeeded" and facts.when == "succeeded":
                return self._end_with(entry, upstream, outcome)
        return self._hold_back(entry, now_us)

    def resume(self, job: Job, now_us: int) -> list[Decision]:
        """An active task was parked for another one; it waits again, with the attempt number that it would have next."""
        active = self._active.get(job.task_id)
        if active is None or job.task_id in self._ended:
            return []
        self._release(active)
        del self._active[job.task_id]
        entry = self._waiting[job.task_id] = Entry(job, now_us)
        if active.cancelled:  # after it had been asked to park: its runner may have seen that first
            return self._end(job.task_id, "cancelled", active.cancelled)
        return self._hold_back(entry, now_us)

    def assigned(self, job: Job, partition: int) -> None:
        """An assignment is in the log: one of an earlier dispatcher, or the own one again."""
        if job.task_id in self._ended or job.task_id in self._active:
            return
        entry = self._waiting.get(job.task_id)
        if entry is not None:
            self._take_out(entry)
        self._activate(job, partition)
        self._gates.hold(job.scheduling.concurrency)

    def begun(self, task_id: str) -> None:
        """Its runner has begun with the task: it does not wait there for its turn any more."""
        active = self._active.get(task_id)
        if active is None:
            if task_id not in self._ended:
                _remember(self._begun, task_id, None, self.policy.remembered_requests_max)
        elif not active.begun:
            active.begun = True
            self._fleet.starting(active.partition, -1)
            self._full.clear()

    def ended(self, task_id: str, outcome: Outcome) -> list[Decision]:
        """A task is over, however it was: its slot is free, and those that come after it may go on or end with it."""
        if task_id in self._ended:
            return []
        self._cancelled.pop(task_id, None)
        self._changed.pop(task_id, None)
        self._begun.pop(task_id, None)
        entry = self._waiting.get(task_id)
        if entry is not None:
            self._take_out(entry)
        active = self._active.pop(task_id, None)
        if active is not None:
            self._release(active)
        return self._cascade(task_id, outcome)

    def cancel(self, task_id: str, reason: str) -> list[Decision]:
        """End a waiting task. One that is active is its runner's to stop; one that is not known yet ends when it comes."""
        if task_id in self._waiting:
            return self._end(task_id, "cancelled", reason)
        if task_id in self._active:
            self._active[task_id].cancelled = reason
        if not self.knows(task_id):
            _remember(self._cancelled, task_id, reason, self.policy.remembered_requests_max)
        return []

    def reschedule(self, task_id: str, change: Reschedule, now_us: int) -> list[Decision]:
        """Change what a waiting task asks for, or one that is not known yet; it goes to the end of its (new) tier."""
        entry = self._waiting.get(task_id)
        if entry is None:
            if not self.knows(task_id):
                _remember(self._changed, task_id, change, self.policy.remembered_requests_max)
            return []
        if entry.ready_at:
            self._queue(entry).remove(entry, self._lane_key(entry.job))
        entry.gone = True
        self._stop_keeping(task_id)
        moved = self._waiting[task_id] = Entry(_changed(entry.job, change), entry.since_us, pending=entry.pending)
        return self._hold_back(moved, now_us)

    def forget(self, task_id: str) -> None:
        """The task is another dispatcher's from now on: it waits here no longer, and its start here does not count."""
        entry = self._waiting.get(task_id)
        if entry is not None:
            self._take_out(entry)
        active = self._active.pop(task_id, None)
        if active is not None:
            self._release(active)

    def runner(self, runner_id: str, state: RunnerState | None) -> None:
        """A runner announced itself, or left (None)."""
        if self._fleet.announce(runner_id, state):
            self._full.clear()

    # What to do next.

    def place(self, now_us: int) -> Start | Park | None:
        """The next task to start and where, counted as started; or a task to park for one that waits; or None."""
        self._wake(now_us)
        live = self._fleet.live(now_us)
        if live != self._live:
            self._live = live
            self._full.clear()
        if not self._fleet.has_room(live):
            return self._make_room(now_us)
        kept = self._start_kept(now_us)
        if kept is not None:
            return kept
        can_start = self._can_start(now_us)
        for tier, why in self._turns():
            picked = self._queues[tier].pick(can_start)
            if picked is not None:
                entry = picked.lane.head()
                assert entry is not None  # noqa: S101 - a lane that was picked has one
                self._in_turn(tier, picked.lane, oldest=picked.oldest)
                return self._start(entry, picked.place, now_us, f"next in {why}")
        return self._make_room(now_us)

    def wake_us(self, now_us: int) -> int | None:
        """When time alone may change what can start: a not-before time or a rate; None if it cannot."""
        times = [self._delayed[0][0]] if self._delayed else []
        if self.policy.rates:
            actions = {lane.shape.action for queue in self._queues.values() for lane in queue.lanes()}
            times += [at for a in actions if (at := self._gates.ready_at_us(a, now_us)) > now_us]
        return min(times, default=None)

    # Questions.

    def knows(self, task_id: str) -> bool:
        """Whether the task waits, is active, or is remembered as ended."""
        return task_id in self._waiting or task_id in self._active or task_id in self._ended

    def job(self, task_id: str) -> Job | None:
        """What is known of a task that waits or is active."""
        held = self._waiting.get(task_id) or self._active.get(task_id)
        return held.job if held is not None else None

    def ready(self, tier: Tier) -> int:
        """How many tasks of ``tier`` wait only for their turn and for room."""
        return self._queues[tier].ready

    def oldest_us(self, tier: Tier) -> int | None:
        """When the ready task of ``tier`` that has waited longest was read; None if none is ready."""
        heads = (lane.head() for lane in self._queues[tier].lanes())
        return min((head.since_us for head in heads if head is not None), default=None)

    @property
    def waiting(self) -> int:
        """How many tasks wait, held back or ready."""
        return len(self._waiting)

    @property
    def active(self) -> int:
        """How many tasks are assigned or running."""
        return len(self._active)

    def runners(self, now_us: int) -> list[dict[str, object]]:
        """What live runners have and what of it is in use."""
        return self._fleet.report(self._fleet.live(now_us))

    def stuck(self, tier: Tier, now_us: int, limit: int) -> list[tuple[Lane, str]]:
        """Lanes of ``tier`` that cannot start now, each with the reason; at most ``limit``."""
        live = self._fleet.live(now_us)
        found: list[tuple[Lane, str]] = []
        for lane in self._queues[tier].lanes():
            reason = self._gates.obstacle(lane.shape.action, lane.keys, now_us) or self._fleet.obstacle(
                lane.shape, live
            )
            if reason:
                found.append((lane, reason))
                if len(found) >= limit:
                    break
        return found

    def why(self, task_id: str, now_us: int) -> str:
        """Where a task stands, in words."""
        entry = self._waiting.get(task_id)
        if entry is not None:
            return self._why_waiting(entry, now_us)
        active = self._active.get(task_id)
        if active is not None:
            owner = self._fleet.owner(active.partition) or "whoever takes its partition"
            return f"{'being parked by' if active.parking else 'given to'} {owner}"
        outcome = self._ended.get(task_id)
        return f"it has {outcome}" if outcome else "not known"

    # Inside: becoming ready.

    def _hold_back(self, entry: Entry, now_us: int) -> list[Decision]:
        facts = entry.job.scheduling
        if entry.pending:
            return [Hold(task_id=entry.job.task_id, reason=self._why_pending(entry))]
        if facts.not_before_us > now_us:
            heapq.heappush(self._delayed, (facts.not_before_us, entry.job.task_id))
            return [Hold(task_id=entry.job.task_id, reason="its start time has not come")]
        self._make_ready(entry)
        return []

    def _make_ready(self, entry: Entry) -> None:
        self._line += 1
        entry.ready_at, entry.ready_start = self._line, self.starts
        self._queue(entry).add(entry, self._lane_key(entry.job))

    def _wake(self, now_us: int) -> None:
        while self._delayed and self._delayed[0][0] <= now_us:
            due_us, task_id = heapq.heappop(self._delayed)
            entry = self._waiting.get(task_id)
            if entry is None or entry.ready_at or entry.pending:
                continue
            if entry.job.scheduling.not_before_us == due_us:
                self._make_ready(entry)

    def _why_pending(self, entry: Entry) -> str:
        left = [up for up in dict.fromkeys(entry.job.scheduling.after) if up not in self._ended]
        more = f" and {len(left) - NAMED_MAX} more" if len(left) > NAMED_MAX else ""
        return f"comes after {', '.join(left[:NAMED_MAX])}{more}"

    def _why_waiting(self, entry: Entry, now_us: int) -> str:
        if entry.pending:
            return self._why_pending(entry)
        if not entry.ready_at:
            return "its start time has not come"
        job = entry.job
        live = self._fleet.live(now_us)
        obstacle = self._gates.obstacle(job.action, job.scheduling.concurrency, now_us) or self._fleet.obstacle(
            self._shape(job), live
        )
        return obstacle or f"its turn in {job.tier} has not come; {self._queue(entry).ready - 1} others wait there"

    # Inside: ending.

    def _end(self, task_id: str, outcome: Outcome, reason: str) -> list[Decision]:
        entry = self._waiting[task_id]
        self._take_out(entry)
        end = End(task_id=task_id, outcome=outcome, reason=reason, attempt=entry.job.attempt)
        return [end, *self._cascade(task_id, outcome)]

    def _end_with(self, entry: Entry, upstream: str, outcome: Outcome) -> list[Decision]:
        rule: Outcome = "failed" if entry.job.scheduling.otherwise == "fail" else "cancelled"
        return self._end(entry.job.task_id, rule, f"comes after {upstream}, which has {_said(outcome)}")

    def _cascade(self, task_id: str, outcome: Outcome) -> list[Decision]:
        decisions: list[Decision] = []
        over: list[tuple[str, Outcome]] = [(task_id, outcome)]
        while over:
            upstream, ended = over.pop()
            _remember(self._ended, upstream, ended, self.policy.outcomes_max)
            for dependent in self._dependents.pop(upstream, ()):
                entry = self._waiting[dependent]
                if ended != "succeeded" and entry.job.scheduling.when == "succeeded":
                    rule: Outcome = "failed" if entry.job.scheduling.otherwise == "fail" else "cancelled"
                    self._take_out(entry)
                    reason = f"comes after {upstream}, which has {_said(ended)}"
                    attempt = entry.job.attempt
                    decisions.append(End(task_id=dependent, outcome=rule, reason=reason, attempt=attempt))
                    over.append((dependent, rule))
                    continue
                entry.pending -= 1
                if entry.pending == 0:
                    self._free(entry)
        return decisions

    def _free(self, entry: Entry) -> None:
        """Its upstreams have ended. Whether its time has come is seen at the next :meth:`place`, which knows the time."""
        heapq.heappush(self._delayed, (entry.job.scheduling.not_before_us, entry.job.task_id))

    def _take_out(self, entry: Entry) -> None:
        task_id = entry.job.task_id
        del self._waiting[task_id]
        if entry.ready_at:
            self._queue(entry).remove(entry, self._lane_key(entry.job))
        if entry.pending:
            for upstream in dict.fromkeys(entry.job.scheduling.after):
                waiting = self._dependents.get(upstream)
                if waiting is not None:
                    waiting.pop(task_id, None)
                    if not waiting:
                        del self._dependents[upstream]
        self._stop_keeping(task_id)

    # Inside: starting.

    def _turns(self) -> Iterable[tuple[Tier, str]]:
        """Tiers in the order in which they may have the next slot: those whose reserved turn has come, the latest first."""
        late = []
        for tier, every in self.policy.reserved.items():
            queue = self._queues[tier]
            if queue.ready and queue.passed_over >= every - 1:
                late.append((every - 1 - queue.passed_over, tier))
        for _, tier in sorted(late, key=lambda turn: turn[0]):
            yield tier, f"{tier}, whose reserved turn it is"
        for tier, queue in self._queues.items():
            if queue.ready:
                yield tier, tier

    def _can_start(self, now_us: int) -> CanStart[Where]:
        live = self._without_kept()

        def can_start(lane: Lane) -> Where | None:
            if lane.shape in self._full or self._gates.obstacle(lane.shape.action, lane.keys, now_us):
                return None
            where = self._fleet.place(lane.shape, live)
            if where is None:
                self._full.add(lane.shape)
                self._pass_over(lane)
            return where

        return can_start

    def _start(self, entry: Entry, where: Where, now_us: int, reason: str) -> Start:
        job, (runner_id, partition) = entry.job, where
        self.starts += 1
        waited = self.starts - entry.ready_start
        self._take_out(entry)
        self._activate(job, partition)
        self._gates.start(job.action, job.scheduling.concurrency, now_us)
        self._count_pass()
        return Start(
            job=job,
            partition=partition,
            runner_id=runner_id,
            waited_slots=waited,
            ahead=entry.ahead,
            reason=f"{reason}; {runner_id} has room",
        )

    def _in_turn(self, tier: Tier, lane: Lane, *, oldest: bool) -> None:
        """Account for a start that was the tier's turn."""
        self._queues[tier].served(lane.tenant, oldest=oldest)
        for other in self.policy.reserved:
            if other != tier and self._queues[other].ready:
                self._queues[other].passed_over += 1

    def _activate(self, job: Job, partition: int) -> None:
        shape = self._shape(job)
        begun = job.task_id in self._begun
        self._begun.pop(job.task_id, None)
        self._active[job.task_id] = _Active(job, shape, partition, self.starts, begun)
        self._fleet.take(partition, shape)
        if not begun:
            self._fleet.starting(partition, 1)

    def _release(self, active: _Active) -> None:
        self._fleet.give_back(active.partition, active.shape)
        if not active.begun:
            self._fleet.starting(active.partition, -1)
        self._gates.release(active.job.scheduling.concurrency)
        self._full.clear()

    # Inside: room for what is too large for the room there is.

    def _pass_over(self, lane: Lane) -> None:
        head = lane.head()
        if not self._passed.task_id and head is not None and self._fleet.candidates(lane.shape, self._live):
            self._passed = _Passed(head.job.task_id)

    def _count_pass(self) -> None:
        passed = self._passed
        if not passed.task_id or passed.runner_id:
            return
        passed.count += 1
        if passed.count >= self.policy.passes_max:
            able = self._fleet.candidates(self._shape(self._waiting[passed.task_id].job), self._live)
            passed.runner_id = able[0] if able else ""
            if not able:
                self._passed = _Passed()
            self._full.clear()

    def _start_kept(self, now_us: int) -> Start | None:
        """Start the task that a runner is kept for, once it has room."""
        passed = self._passed
        if not passed.runner_id:
            return None
        entry = self._waiting[passed.task_id]
        job, shape = entry.job, self._shape(entry.job)
        if passed.runner_id not in self._fleet.candidates(shape, self._live):
            self._passed = _Passed()
            return None
        where = self._fleet.place(shape, [passed.runner_id])
        if where is None or self._gates.obstacle(job.action, job.scheduling.concurrency, now_us):
            return None
        return self._start(entry, where, now_us, f"was passed over {passed.count} times, {where[0]} was kept for it")

    def _without_kept(self) -> list[str]:
        return [name for name in self._live if name != self._passed.runner_id]

    def _stop_keeping(self, task_id: str) -> None:
        if self._passed.task_id == task_id:
            self._passed = _Passed()
            self._full.clear()

    def _make_room(self, now_us: int) -> Park | None:
        """Park a task for one of the highest tier that finds no room, if the policy says so."""
        top = self.policy.tiers.highest
        queue = self._queues[top]
        if not self.policy.preempt or sum(active.parking for active in self._active.values()) >= queue.ready:
            return None
        for lane in queue.lanes():
            head, able = lane.head(), set(self._fleet.candidates(lane.shape, self._without_kept()))
            if self._gates.obstacle(lane.shape.action, lane.keys, now_us) or self._fleet.has_space(lane.shape, able):
                continue  # room is not what it waits for
            victims = [a for a in self._active.values() if self._gives_way(a, lane, able)] if head is not None else []
            if head is not None and victims:
                victim = max(victims, key=lambda a: (self.policy.tiers.rank(a.job.tier), a.started_at))
                victim.parking = True
                reason = f"makes room for {head.job.task_id} of tier {top}"
                return Park(task_id=victim.job.task_id, attempt=victim.job.attempt, reason=reason)
        return None

    def _gives_way(self, active: _Active, lane: Lane, able: set[str]) -> bool:
        if active.parking or not active.job.scheduling.preemptible or active.job.tier == self.policy.tiers.highest:
            return False
        had = dict(active.shape.needs)
        enough = all(had.get(name, 0.0) >= amount for name, amount in lane.shape.needs)
        return enough and self._fleet.owner(active.partition) in able

    # Inside: names for things.

    def _queue(self, entry: Entry) -> TierQueue[Where]:
        return self._queues[entry.job.tier]

    def _lane_key(self, job: Job) -> LaneKey:
        return job.scheduling.tenant, self._shape(job), job.scheduling.concurrency

    def _shape(self, job: Job) -> Shape:
        return Shape.of(job.action, job.scheduling)


def _changed(job: Job, change: Reschedule) -> Job:
    tier, scheduling = change.over(job.tier, job.scheduling)
    return replace(job, tier=tier, scheduling=scheduling)


def _said(outcome: Outcome) -> str:
    return "been cancelled" if outcome == "cancelled" else outcome


V = TypeVar("V")


def _remember(memory: dict[str, V], task_id: str, value: V, count_max: int) -> None:
    """Keep the newest ``count_max``."""
    memory.pop(task_id, None)
    memory[task_id] = value
    if len(memory) > count_max:
        del memory[next(iter(memory))]
