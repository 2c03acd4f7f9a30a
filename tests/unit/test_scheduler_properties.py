"""The scheduler against a model that knows the rules only: random histories, checked after every step.

Each invariant has a mutation: a scheduler broken on purpose, which the same histories must catch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from apexstream.core.events import ActionInfo, RunnerState
from apexstream.core.scheduling import ConcurrencyKey, Reschedule, RunnerResources, Scheduling
from apexstream.core.tiers import Tiers
from apexstream.dispatcher import fleet, gates
from apexstream.dispatcher.decisions import End, Hold, Job, Park, Start
from apexstream.dispatcher.policy import Policy, Rate
from apexstream.dispatcher.scheduler import Scheduler


def policy(*shares: int) -> Policy:
    """Tiers called ``t0``, ``t1``, … of which all but the first one have these shares."""
    tiers = Tiers(tuple(f"t{place}" for place in range(len(shares) + 1)), "t0")
    return Policy(
        tiers=tiers,
        reserved=dict(zip(tiers.lower, shares, strict=True)),
        oldest_every=2,
        passes_max=3,
        starting_max=1,
        preempt=True,
        tenant_weights={"big": 3.0, "small": 0.01},
        rates={"p.rated": Rate(per_s=1.0, burst=2)},
    )


POLICIES = {1: policy(), 2: policy(2), 3: policy(3, 4), 5: policy(4, 4, 5, 6)}
SECOND = 1_000_000
TENANTS = ("", "a", "b", "big")
FACTS = st.builds(
    Scheduling,
    tenant=st.sampled_from(TENANTS),
    when=st.sampled_from(("succeeded", "ended")),
    otherwise=st.sampled_from(("cancel", "fail")),
    needs=st.sampled_from(({}, {}, {"cpu": 1.0}, {"cpu": 3.0}, {"gpu": 1.0})),
    runs_on=st.sampled_from(((), (), ("ssd",))),
    avoids=st.sampled_from(((), (), ("old",))),
    concurrency=st.sampled_from(
        ((), (), (ConcurrencyKey("k", 1),), (ConcurrencyKey("g", 2, "read"),), (ConcurrencyKey("g", 1, "write"),))
    ),
    sticky=st.sampled_from(("", "warm")),
    not_before_us=st.sampled_from((0, 0, 0, 5 * SECOND)),
    preemptible=st.booleans(),
)
PLACES = st.integers(0, 29)  # a tier's, whatever number of them there is
ACTIONS = tuple(
    ActionInfo(plugin="p", action=name, summary="", streams=True, params_schema=b"{}") for name in ("a", "rated")
)


@dataclass
class Task:
    """What the model knows of a task."""

    job: Job
    state: str = "waiting"
    partition: int = -1
    ahead: int = 0
    since_start: int = 0
    plain: bool = True


class Histories(RuleBasedStateMachine):
    """Any order of submissions, starts, ends, parks, cancels, changes, runners that come and go, and time."""

    make: Callable[[Policy], Scheduler] = Scheduler
    policy: Policy

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = type(self).make(self.policy)
        self.highest = self.policy.tiers.highest
        self.tasks: dict[str, Task] = {}
        self.outcomes: dict[str, str] = {}
        self.runners: dict[str, RunnerState] = {}
        self.starts = 0
        self.now = SECOND
        self.rated: list[int] = []
        self.amid = False  # a decision broke a rule: the end of this history proves nothing more
        self.announce("x", 3, 4.0, 1)

    # Histories.

    @rule(place=PLACES, facts=FACTS, rated=st.integers(0, 5), back=st.lists(st.integers(1, 6), max_size=3))
    def submit(self, place: int, facts: Scheduling, rated: int, back: list[int]) -> None:
        names = list(self.tasks)
        after = tuple({names[-n] for n in back if n <= len(names)})
        self._submit(self.tier(place), msgspec.structs.replace(facts, after=after), "p.a" if rated else "p.rated")

    @rule(place=PLACES, tenant=st.sampled_from(TENANTS), count=st.integers(1, 12))
    def submit_many(self, place: int, tenant: str, count: int) -> None:
        self.submit_plain(self.tier(place), tenant, count)

    def tier(self, place: int) -> str:
        names = self.policy.tiers.names
        return names[place % len(names)]

    def submit_plain(self, tier: str, tenant: str, count: int) -> None:
        for _ in range(count):
            self._submit(tier, Scheduling(tenant=tenant), "p.a")

    @rule(
        place=PLACES,
        length=st.integers(2, 4),
        outcome=st.sampled_from(("succeeded", "failed", "cancelled")),
        facts=FACTS,
    )
    def chain(self, place: int, length: int, outcome: str, facts: Scheduling) -> None:
        """Tasks that come after each other; the first one ends in ``outcome`` if it can run now."""
        first = f"t{len(self.tasks)}"
        self._submit(self.highest, Scheduling(), "p.a")
        for _ in range(length):
            upstream = (f"t{len(self.tasks) - 1}",)
            bare = Scheduling(after=upstream, when=facts.when, otherwise=facts.otherwise)
            self._submit(self.tier(place), bare, "p.a")
        self._place_all()
        if self.tasks[first].state == "active":
            self._end(first, outcome)

    @rule(place=PLACES, count=st.integers(2, 5))
    def submit_rated(self, place: int, count: int) -> None:
        for _ in range(count):
            self._submit(self.tier(place), Scheduling(), "p.rated")

    @rule(place=PLACES, count=st.integers(2, 4), cpu=st.sampled_from((1.0, 2.0, 3.0)))
    def submit_needy(self, place: int, count: int, cpu: float) -> None:
        for _ in range(count):
            self._submit(self.tier(place), Scheduling(needs={"cpu": cpu}), "p.a")

    @rule(place=PLACES, slots=st.integers(10, 40))
    def flood(self, place: int, slots: int) -> None:
        """A task that waits while more urgent ones keep coming, and all other tiers have tasks too."""
        for tier in self.policy.tiers.lower:
            self.submit_plain(tier, "", slots // 4)
        self._submit(self.tier(place), Scheduling(), "p.a")
        self.submit_plain(self.highest, "", 4)
        for _ in range(slots):
            self.submit_plain(self.highest, "", 1)
            self.work(1, "succeeded")
            self.nobody_waits_longer_than_the_bound()

    @rule(place=PLACES, slots=st.integers(10, 40))
    def crowd(self, place: int, slots: int) -> None:
        """A tenant with next to no share has tasks in a tier where others' keep coming."""
        tier = self.tier(place)
        self.submit_plain(tier, "small", 3)
        for _ in range(slots):
            for tenant in ("a", "b"):
                self.submit_plain(tier, tenant, 1)
            self.work(1, "succeeded")
            self.nobody_waits_longer_than_the_bound()

    @rule(which=st.integers(0, 1000))
    def submit_again(self, which: int) -> None:
        if self.tasks:
            job = self._nth(which).job
            assert self.scheduler.submit(job, self.now) == [], f"{job.task_id} was taken twice"

    @rule(
        name=st.sampled_from("xyz"),
        capacity=st.integers(1, 4),
        cpu=st.sampled_from((0.0, 2.0, 4.0)),
        more=st.integers(0, 7),
    )
    def announced(self, name: str, capacity: int, cpu: float, more: int) -> None:
        self.announce(name, capacity, cpu, more)

    def announce(self, name: str, capacity: int, cpu: float, more: int) -> None:
        labels = tuple(label for bit, label in ((1, "ssd"), (2, "old")) if more & bit)
        resources = RunnerResources(amounts={"cpu": cpu, "gpu": float(more >> 2)}, labels=labels)
        first = "xyz".index(name) * 2
        known = self.runners.get(name)
        if known is not None and any(
            task.state == "active" and task.partition // 2 * 2 == first for task in self.tasks.values()
        ):
            self.runners[name] = msgspec.structs.replace(
                known, at_us=self.now
            )  # its size changes only while it is idle
        else:
            self.runners[name] = RunnerState(
                runner_id=name,
                at_us=self.now,
                capacity=capacity,
                partitions=(first, first + 1),
                actions=ACTIONS,
                resources=msgspec.json.encode(resources),
            )
        self.scheduler.runner(name, self.runners[name])

    @rule(name=st.sampled_from("xyz"))
    def leave(self, name: str) -> None:
        busy = any(t.state == "active" and t.partition // 2 == "xyz".index(name) for t in self.tasks.values())
        if not busy:
            self.runners.pop(name, None)
            self.scheduler.runner(name, None)

    @rule(seconds=st.integers(1, 3))
    def time_goes_by(self, seconds: int) -> None:
        self.wait(seconds)

    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND
        for name, state in list(self.runners.items()):
            self.runners[name] = msgspec.structs.replace(state, at_us=self.now)
            self.scheduler.runner(name, self.runners[name])

    @rule(count=st.integers(1, 20), outcome=st.sampled_from(("succeeded", "succeeded", "failed", "cancelled")))
    def work_on(self, count: int, outcome: str) -> None:
        self.work(count, outcome)

    def work(self, count: int, outcome: str) -> None:
        """Start what can start and end the oldest of what runs, over and over."""
        for _ in range(count):
            self._place_all()
            active = [name for name, task in self.tasks.items() if task.state == "active"]
            if active:
                self._end(active[0], outcome)

    @rule()
    def place(self) -> None:
        self._place_all()

    @rule(which=st.integers(0, 1000))
    def cancel(self, which: int) -> None:
        if self.tasks:
            task = self._nth(which)
            decisions = self.scheduler.cancel(task.job.task_id, "asked")
            assert bool(decisions) == (task.state == "waiting")
            self._apply(decisions)

    @rule(which=st.integers(0, 1000), place=PLACES, later=st.integers(0, 2))
    def reschedule(self, which: int, place: int, later: int) -> None:
        if self.tasks and (task := self._nth(which)).state == "waiting":
            change = Reschedule(tier=self.tier(place), not_before_us=self.now + later * SECOND if later else None)
            self._apply(self.scheduler.reschedule(task.job.task_id, change, self.now))
            new_tier, facts = change.over(task.job.tier, task.job.scheduling)
            task.job = Job(task_id=task.job.task_id, action=task.job.action, tier=new_tier, scheduling=facts)
            self._made_ready(task)

    # Checks.

    @invariant()
    def what_waits_in_the_model_waits_in_the_scheduler(self) -> None:
        for name, task in self.tasks.items():
            assert (self.scheduler.job(name) is not None) == (task.state != "ended"), f"{name} is lost"
            assert self.scheduler.why(name, self.now)

    @invariant()
    def nobody_waits_longer_than_the_bound(self) -> None:
        for task in self.tasks.values():
            if task.state == "waiting" and task.plain:
                self._check_wait(task, self.starts - task.since_start)

    def teardown(self) -> None:
        """With room for everything, everything ends: nothing was lost."""
        if self.amid:
            return
        for task in self.tasks.values():  # what starts now was held up by runners that were too small
            task.plain = False
        self.now += 10 * SECOND
        amounts = RunnerResources(amounts={"cpu": 100.0, "gpu": 100.0})
        for name, labels in (("x", ("ssd",)), ("y", ()), ("z", ("old", "ssd"))):
            resources = msgspec.json.encode(msgspec.structs.replace(amounts, labels=labels))
            first = "xyz".index(name) * 2
            self.runners[name] = RunnerState(
                runner_id=name,
                at_us=self.now,
                capacity=5,
                partitions=(first, first + 1),
                actions=ACTIONS,
                resources=resources,
            )
            self.scheduler.runner(name, self.runners[name])
        for _ in range(4 * len(self.tasks) + 50):
            if all(task.state == "ended" for task in self.tasks.values()):
                break
            self.wait(1)
            self._place_all()
            for name in [name for name, task in self.tasks.items() if task.state == "active"]:
                self._end(name, "succeeded")
        left = {name for name, task in self.tasks.items() if task.state != "ended"}
        assert not left, f"never started: { {name: self.scheduler.why(name, self.now) for name in left} }"
        assert (self.scheduler.waiting, self.scheduler.active) == (0, 0)

    # Inside.

    def _nth(self, which: int) -> Task:
        return list(self.tasks.values())[which % len(self.tasks)]

    def _submit(self, tier: str, facts: Scheduling, action: str) -> None:
        job = Job(task_id=f"t{len(self.tasks)}", action=action, tier=tier, scheduling=facts)
        task = self.tasks[job.task_id] = Task(job)
        self._made_ready(task)
        self._apply(self.scheduler.submit(job, self.now))

    def _made_ready(self, task: Task) -> None:
        facts = task.job.scheduling
        task.since_start = self.starts
        task.ahead = sum(
            other.state == "waiting" and other.job.tier == task.job.tier and other is not task
            for other in self.tasks.values()
        )
        bare = Scheduling(
            tenant=facts.tenant, when=facts.when, otherwise=facts.otherwise, preemptible=facts.preemptible
        )
        task.plain = facts == bare and task.job.action == "p.a"

    def _place_all(self) -> None:
        while (decision := self.scheduler.place(self.now)) is not None:
            self._apply([decision])

    def _apply(self, decisions: list[Any]) -> None:
        self.amid = True
        self._follow(decisions)
        self.amid = False

    def _follow(self, decisions: list[Any]) -> None:
        for decision in decisions:
            assert isinstance(decision, Hold) or decision.reason
            if isinstance(decision, End):
                task = self.tasks[decision.task_id]
                assert task.state == "waiting"
                task.state, self.outcomes[decision.task_id] = "ended", decision.outcome
            elif isinstance(decision, Park):
                self._park(decision)
            elif isinstance(decision, Start):
                self._started(decision)

    def _park(self, decision: Park) -> None:
        task = self.tasks[decision.task_id]
        assert task.state == "active"
        assert task.job.scheduling.preemptible, "parked a task that may not be parked"
        assert task.job.tier != self.highest
        task.state = "waiting"
        task.job = Job(
            task_id=task.job.task_id,
            action=task.job.action,
            tier=task.job.tier,
            scheduling=task.job.scheduling,
            attempt=task.job.attempt + 1,
        )
        self._made_ready(task)
        self._apply(self.scheduler.resume(task.job, self.now))

    def _started(self, start: Start) -> None:
        name = start.job.task_id
        task = self.tasks[name]
        facts = task.job.scheduling
        assert task.state == "waiting", f"{name} started twice"
        for upstream in facts.after:
            assert upstream in self.outcomes, f"{name} started before {upstream} ended"
            assert facts.when == "ended" or self.outcomes[upstream] == "succeeded", f"{name} started after a failure"
        assert facts.not_before_us <= self.now, f"{name} started early"
        self.starts += 1
        if task.plain:
            self._check_wait(task, self.starts - task.since_start)
        task.state, task.partition = "active", start.partition
        self._check_runner(start)
        self._check_keys()
        self.scheduler.begun(name)
        if start.job.action == "p.rated":
            self.rated.append(self.now)
            since = [at for at in self.rated if at > self.now - 10 * SECOND]
            assert len(since) <= 12, "over the rate"
            assert len([at for at in self.rated if at == self.now]) <= 2, "over the burst"

    def _check_wait(self, task: Task, slots: int) -> None:
        bound = self.policy.worst_wait_slots(task.job.tier, task.ahead)
        assert slots <= bound, f"{task.job.task_id} waited {slots} slots, the bound is {bound}"

    def _check_runner(self, start: Start) -> None:
        runner = self.runners[start.runner_id]
        has = msgspec.json.decode(runner.resources, type=RunnerResources)
        facts = self.tasks[start.job.task_id].job.scheduling
        assert start.partition in runner.partitions
        assert set(facts.runs_on) <= set(has.labels), "a label is missing"
        assert not set(facts.avoids) & set(has.labels), "a label is to be avoided"
        here = [t for t in self.tasks.values() if t.state == "active" and t.partition in runner.partitions]
        assert len(here) <= runner.capacity, f"{start.runner_id} has too many tasks"
        for need in ("cpu", "gpu"):
            used = sum(t.job.scheduling.needs.get(need, 0.0) for t in here)
            assert used <= has.amounts.get(need, 0.0), f"{start.runner_id} has too little {need}"

    def _check_keys(self) -> None:
        held: dict[str, list[ConcurrencyKey]] = {}
        for task in self.tasks.values():
            if task.state == "active":
                for key in task.job.scheduling.concurrency:
                    held.setdefault(key.key, []).append(key)
        for keys in held.values():
            assert len({key.group for key in keys}) == 1, "incompatible tasks run together"
            assert len(keys) <= min(key.limit for key in keys), "over a key's limit"

    def _end(self, name: str, outcome: str) -> None:
        self.tasks[name].state, self.outcomes[name] = "ended", outcome
        self._apply(self.scheduler.ended(name, outcome))


def run(
    make: Callable[[Policy], Scheduler],
    *,
    examples: int,
    steps: int,
    tiers: int = 3,
    shrink: bool = True,
    repeat: bool = True,
) -> None:
    machine = type("Machine", (Histories,), {"make": staticmethod(make), "policy": POLICIES[tiers]})
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            phases=phases,
            derandomize=repeat,
            database=None,
            print_blob=not repeat,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("tiers", POLICIES)
def test_every_history_keeps_every_invariant_with_any_number_of_tiers(pytestconfig: pytest.Config, tiers: int) -> None:
    """``pytest --scheduler-steps 5000000`` for the long form, whose histories are other ones each time."""
    asked = pytestconfig.getoption("--scheduler-steps")
    run(Scheduler, examples=max(1, asked // 50 // len(POLICIES)), steps=50, tiers=tiers, repeat=asked <= 3_000)


class Loses(Scheduler):
    def _free(self, entry: Any) -> None:
        """The last upstream ended, and nobody looks at the task again."""


class StartsTwice(Scheduler):
    def knows(self, task_id: str) -> bool:
        return task_id in self._waiting


class IgnoresUpstreams(Scheduler):
    def submit(self, job: Job, now_us: int) -> list[Any]:
        facts = msgspec.structs.replace(job.scheduling, after=())
        return super().submit(Job(task_id=job.task_id, action=job.action, tier=job.tier, scheduling=facts), now_us)


class LetsDependentsOfFailuresRun(Scheduler):
    def ended(self, task_id: str, outcome: Any) -> list[Any]:
        return super().ended(task_id, "succeeded")


class StartsEarly(Scheduler):
    def _wake(self, now_us: int) -> None:
        super()._wake(now_us + 60 * SECOND)


class ForgetsTheReservedShare(Scheduler):
    def _in_turn(self, tier: str, lane: Any, *, oldest: bool) -> None:
        self._queues[tier].served(lane.tenant, oldest=oldest)


class NeverFrees(Scheduler):
    def _release(self, active: Any) -> None:
        self._gates.release(active.job.scheduling.concurrency)


class NeverTakesTheOldest(Scheduler):
    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        for queue in self._queues.values():
            queue._oldest_every = 1 << 30


class ParksAnything(Scheduler):
    def _gives_way(self, active: Any, lane: Any, able: set[str]) -> bool:
        return not active.parking and active.job.tier != self.policy.tiers.highest


BROKEN_SCHEDULERS = [
    (Loses, "never started|is lost"),
    (StartsTwice, "started twice|taken twice"),
    (IgnoresUpstreams, "before .* ended"),
    (LetsDependentsOfFailuresRun, "started after a failure"),
    (NeverTakesTheOldest, "the bound is"),
    (ParksAnything, "may not be parked"),
    (StartsEarly, "early"),
    (ForgetsTheReservedShare, "the bound is"),
    (NeverFrees, "never started"),
]


@pytest.mark.parametrize(("broken", "told"), BROKEN_SCHEDULERS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_scheduler_that_breaks_an_invariant_is_caught(broken: type[Scheduler], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        run(broken, examples=60, steps=50, shrink=False)


def no_gate(self: Any, action: str, keys: Any, now_us: int) -> str:
    return ""


def rate_always(self: Any, action: str, now_us: int) -> int:
    return now_us


def fits_always(self: Any, shape: Any) -> bool:
    return True


def fits_by_slots(self: Any, shape: Any) -> bool:
    return bool(self.load.tasks < self.state.capacity)


def could_always(self: Any, shape: Any) -> str:
    return ""


BROKEN_PARTS = [
    (gates.Gates, "obstacle", no_gate, "key's limit|incompatible|over the"),
    (gates.Gates, "ready_at_us", rate_always, "over the"),
    (fleet._Runner, "fits", fits_always, "too many tasks|too little"),
    (fleet._Runner, "fits", fits_by_slots, "too little"),
    (fleet._Runner, "could", could_always, "a label is|cpu|gpu"),
]


@pytest.mark.parametrize(
    ("owner", "name", "broken", "told"), BROKEN_PARTS, ids=["gates", "rate", "slots", "needs", "labels"]
)
def test_a_part_that_breaks_an_invariant_is_caught(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, broken: Any, told: str
) -> None:
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises((AssertionError, KeyError), match=told):
        run(Scheduler, examples=150, steps=60, shrink=False)
