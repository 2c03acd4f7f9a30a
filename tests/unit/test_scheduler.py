"""The order of work, case by case; :mod:`test_scheduler_properties` holds the invariants."""

from typing import Any

import msgspec
import pytest

from apexstream.core.errors import InvalidConfiguration, InvalidRequest
from apexstream.core.events import ActionInfo, RunnerState
from apexstream.core.reign import Reign, claim_key, claim_of
from apexstream.core.scheduling import ConcurrencyKey, Reschedule, RunnerResources, Scheduling, check_graph
from apexstream.core.tiers import DEFAULT_TIERS
from apexstream.dispatcher.decisions import Decision, End, Hold, Job, Park, Start
from apexstream.dispatcher.policy import Policy, Rate
from apexstream.dispatcher.queue import TierQueue
from apexstream.dispatcher.scheduler import Scheduler

ACTIONS = (ActionInfo(plugin="p", action="a", summary="", streams=True, params_schema=b"{}"),)


def job(task_id: str, tier: str = "normal", **facts: Any) -> Job:
    return Job(task_id=task_id, action="p.a", tier=tier, scheduling=Scheduling(**facts))


def runner(
    runner_id: str, capacity: int, *partitions: int, at_us: int = 0, labels: tuple[str, ...] = (), **amounts: float
) -> RunnerState:
    return RunnerState(
        runner_id=runner_id,
        at_us=at_us,
        capacity=capacity,
        partitions=partitions,
        actions=ACTIONS,
        resources=msgspec.json.encode(RunnerResources(amounts=amounts, labels=labels)),
    )


def scheduler(*runners: RunnerState, **policy: Any) -> Scheduler:
    made = Scheduler(Policy(**policy))
    for state in runners:
        made.runner(state.runner_id, state)
    return made


def submit(to: Scheduler, *jobs: Job) -> list[Decision]:
    return [decision for each in jobs for decision in to.submit(each, 0)]


def starts(of: Scheduler, now_us: int = 0) -> list[str]:
    names = []
    while isinstance(decision := of.place(now_us), Start):
        names.append(decision.job.task_id)
    return names


def test_first_in_is_first_out_and_urgent_tiers_go_first() -> None:
    order = scheduler(runner("r", 10, 0))
    submit(order, job("l1", "low"), job("n1"), job("n2"), job("h1", "high"))

    assert starts(order) == ["h1", "n1", "n2", "l1"]


def test_lower_tiers_get_their_reserved_share_under_a_flood() -> None:
    order = scheduler(runner("r", 1, 0))
    submit(order, *(job(f"{tier}{n}", tier) for tier in DEFAULT_TIERS.names for n in range(200)))
    served: dict[str, int] = dict.fromkeys(DEFAULT_TIERS.names, 0)
    for _ in range(200):
        (name,) = starts(order)
        served[name.rstrip("0123456789")] += 1
        order.ended(name, "succeeded")

    assert served["normal"] >= 200 // 5
    assert served["low"] >= 200 // 11
    assert served["high"] >= 200 * 0.6


def test_no_runner_gets_more_than_its_capacity_and_the_rest_waits_for_room() -> None:
    order = scheduler(runner("r", 2, 0, 1))
    submit(order, *(job(f"t{n}") for n in range(3)))

    assert starts(order) == ["t0", "t1"]
    assert order.why("t2", 0) == "none of 1 runners that could run it has a free slot"
    order.ended("t0", "succeeded")
    assert starts(order) == ["t2"]


def test_work_goes_to_the_runner_with_the_most_room_and_only_to_partitions_it_owns() -> None:
    order = scheduler(runner("small", 1, 0), runner("large", 3, 1, 2))
    submit(order, *(job(f"t{n}") for n in range(4)))
    placed = [order.place(0) for _ in range(4)]

    assert all(isinstance(start, Start) and (start.partition == 0) == (start.runner_id == "small") for start in placed)
    assert sorted(start.partition for start in placed if isinstance(start, Start))[1:3] == [1, 1]


def test_a_silent_or_departed_runner_gets_nothing() -> None:
    order = scheduler(runner("r", 1, 0))
    submit(order, job("t"))

    assert order.place(Policy().runner_silent_us_max + 1) is None
    order.runner("r", None)
    assert order.place(0) is None
    assert order.why("t", 0) == "no runner is connected"


def test_a_task_that_moved_with_its_partition_counts_for_the_new_owner() -> None:
    order = scheduler(runner("old", 1, 0))
    submit(order, job("a"))
    assert starts(order) == ["a"]
    order.runner("old", None)
    order.runner("new", runner("new", 1, 0))
    submit(order, job("b"))

    assert starts(order) == []
    order.ended("a", "succeeded")
    assert starts(order) == ["b"]


def test_tenants_share_a_tier_by_weight_however_much_each_submits() -> None:
    order = scheduler(runner("r", 1, 0), tenant_weights={"b": 2.0}, oldest_every=1_000)
    submit(order, *(job(f"a{n}", tenant="a") for n in range(300)), *(job(f"b{n}", tenant="b") for n in range(300)))
    served = {"a": 0, "b": 0}
    for _ in range(90):
        (name,) = starts(order)
        served[name[0]] += 1
        order.ended(name, "succeeded")

    assert 58 <= served["b"] <= 62


def second_of_a_tenant_among_newcomers(slots: int) -> bool:
    """Whether a tenant's second task starts within ``slots`` while a new tenant comes with every slot."""
    order = scheduler(runner("r", 1, 0))
    submit(order, job("a0", tenant="a"), job("a1", tenant="a"))
    for slot in range(slots):
        submit(order, job(f"new{slot}", tenant=f"n{slot}"))
        (name,) = starts(order)
        if name == "a1":
            return True
        order.ended(name, "succeeded")
    return False


def test_ageing_bounds_the_wait_among_ever_new_tenants_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = Policy().worst_wait_slots("normal", 1)
    pick = TierQueue.pick

    def by_tenant_only(self: TierQueue[Any], can_start: Any) -> Any:
        self._since_oldest = -1_000_000
        return pick(self, can_start)

    assert second_of_a_tenant_among_newcomers(bound)
    monkeypatch.setattr(TierQueue, "pick", by_tenant_only)
    assert not second_of_a_tenant_among_newcomers(bound)


def test_dependents_start_when_all_upstreams_have_succeeded() -> None:
    order = scheduler(runner("r", 9, 0))
    held = submit(order, job("a"), job("b"), job("c", after=("a", "b")))

    assert held == [Hold(task_id="c", reason="comes after a, b")]
    assert starts(order) == ["a", "b"]
    order.ended("a", "succeeded")
    assert starts(order) == []
    order.ended("b", "succeeded")
    assert starts(order) == ["c"]


def test_dependents_of_a_failure_end_by_their_own_rule_and_so_do_theirs() -> None:
    order = scheduler(runner("r", 9, 0))
    submit(
        order,
        job("a"),
        job("b", after=("a",), otherwise="fail"),
        job("c", after=("b",)),
        job("d", after=("c",), when="ended"),
    )
    starts(order)
    ends = order.ended("a", "failed")

    assert [(end.task_id, end.outcome) for end in ends if isinstance(end, End)] == [("b", "failed"), ("c", "cancelled")]
    assert starts(order) == ["d"]


def test_upstreams_that_ended_before_count() -> None:
    order = scheduler(runner("r", 9, 0))
    order.ended("old", "succeeded")
    order.ended("bad", "cancelled")
    decisions = submit(order, job("a", after=("old",)), job("b", after=("bad",)))

    assert [decision.task_id for decision in decisions if isinstance(decision, End)] == ["b"]
    assert starts(order) == ["a"]


def test_a_large_task_is_not_starved_by_small_ones() -> None:
    order = scheduler(runner("r", 8, 0, cpu=4), passes_max=5)
    submit(order, *(job(f"s{n}", needs={"cpu": 1}) for n in range(4)), job("large", needs={"cpu": 4}))
    running = starts(order)
    seen = []
    for n in range(4, 60):
        submit(order, job(f"s{n}", needs={"cpu": 1}))
        order.ended(running.pop(0), "succeeded")
        running += (new := starts(order))
        seen += new
        if "large" in seen:
            break

    assert seen.index("large") <= 5


def test_sticky_tasks_go_to_the_warm_runner_while_it_has_room() -> None:
    order = scheduler(runner("x", 9, 0), runner("y", 9, 1))
    submit(order, *(job(f"t{n}", sticky="w") for n in range(3)))

    assert len({start.runner_id for start in (order.place(0) for _ in range(3)) if isinstance(start, Start)}) == 1


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"needs": {"gpu": 1}}, "no runner has gpu 1"),
        ({"runs_on": ("ssd",)}, "no runner has the labels ssd"),
        ({"avoids": ("old",)}, "no runner is without the labels old"),
        ({"after": ("x",)}, "comes after x"),
        ({"not_before_us": 5}, "its start time has not come"),
    ],
)
def test_why_a_task_waits_is_told(facts: dict[str, Any], why: str) -> None:
    order = scheduler(runner("r", 9, 0, labels=("old",)))
    submit(order, job("t", **facts))

    assert order.place(0) is None
    assert order.why("t", 0) == why


def test_holders_of_a_key_run_together_only_in_one_group_and_up_to_the_limit() -> None:
    order = scheduler(runner("r", 9, 0))
    reading, writing = ConcurrencyKey("db", 2, "read"), ConcurrencyKey("db", 1, "write")
    submit(order, *(job(f"r{n}", concurrency=(reading,)) for n in range(3)), job("w", concurrency=(writing,)))

    assert starts(order) == ["r0", "r1"]
    assert order.why("w", 0) == "key db is held by read"
    for name in ("r0", "r1"):
        order.ended(name, "succeeded")
    assert starts(order) == ["r2"]
    order.ended("r2", "succeeded")
    assert starts(order) == ["w"]


def test_a_rate_spreads_starts_and_says_when_to_look_again() -> None:
    order = scheduler(runner("r", 9, 0), rates={"p.a": Rate(per_s=2, burst=1)})
    submit(order, job("a"), job("b"))

    assert starts(order) == ["a"]
    assert order.wake_us(0) == 500_001
    assert starts(order, 500_001) == ["b"]


def test_a_cancel_that_comes_before_its_task_ends_it_unstarted() -> None:
    order = scheduler(runner("r", 9, 0))
    order.cancel("t", "no longer needed")

    assert submit(order, job("t")) == [End(task_id="t", outcome="cancelled", reason="no longer needed")]
    assert starts(order) == []


def test_a_waiting_task_moves_to_another_tier_and_time() -> None:
    order = scheduler(runner("r", 1, 0))
    submit(order, job("a"), job("b"), job("c"))
    order.reschedule("c", Reschedule(tier="high"), 0)
    order.reschedule("a", Reschedule(not_before_us=7), 0)

    assert starts(order) == ["c"]
    order.ended("c", "succeeded")
    assert starts(order) == ["b"]
    order.ended("b", "succeeded")
    assert starts(order, 7) == ["a"]


def test_a_high_task_parks_a_preemptible_low_one_which_goes_on_later() -> None:
    order = scheduler(runner("r", 1, 0), preempt=True)
    submit(order, job("low", "low", preemptible=True))
    assert starts(order) == ["low"]
    submit(order, job("high", "high"))

    park = order.place(0)
    assert isinstance(park, Park)
    assert (park.task_id, park.reason) == ("low", "makes room for high of tier high")
    assert order.place(0) is None
    order.resume(Job(task_id="low", action="p.a", tier="low", attempt=2), 0)
    assert starts(order) == ["high"]
    order.ended("high", "succeeded")
    assert starts(order) == ["low"]


def test_one_task_id_runs_once() -> None:
    order = scheduler(runner("r", 9, 0))
    submit(order, job("t"), job("t"))
    assert starts(order) == ["t"]
    submit(order, job("t"))
    order.ended("t", "succeeded")
    submit(order, job("t"))

    assert starts(order) == []


def test_a_start_that_never_reached_the_log_can_be_made_by_the_next_dispatcher() -> None:
    order = scheduler(runner("r", 1, 0))
    submit(order, job("t"))
    assert starts(order) == ["t"]
    order.forget("t")
    submit(order, job("t"))

    assert starts(order) == ["t"]


def test_rules_that_starve_a_tier_are_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="shares"):
        Policy(reserved={"normal": 1, "low": 2})
    with pytest.raises(InvalidConfiguration, match="exactly normal, low"):
        Policy(reserved={"normal": 4})


def test_graphs_that_could_never_run_are_refused() -> None:
    check_graph({"a": [], "b": ["a", "old"]}, {"old"}.__contains__)
    with pytest.raises(InvalidRequest, match="'x', which is not known"):
        check_graph({"a": ["x"]}, set().__contains__)
    with pytest.raises(InvalidRequest, match=r"wait for each other: .* → "):
        check_graph({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]}, set().__contains__)


def test_from_a_claim_on_assignments_of_lower_epochs_are_dead_in_its_partition() -> None:
    reign = Reign(range(2))
    reign.claimed(0, *(claim_of(claim_key(1, "a")) or (0, "")))
    reign.claimed(1, 1, "a")
    assert reign.holds(1, "a")

    reign.claimed(0, 2, "b")

    assert [reign.counts(0, 1), reign.counts(1, 1), reign.counts(0, 2)] == [False, True, True]
    assert not reign.holds(1, "a")
    assert not reign.holds(2, "b")


def test_of_two_claims_with_one_epoch_the_first_in_the_log_wins() -> None:
    reign = Reign([0])
    reign.claimed(0, 1, "a")
    reign.claimed(0, 1, "b")

    assert reign.holds(1, "a")
    assert reign.was_read(1, "b")
    assert not reign.holds(1, "b")


@pytest.mark.parametrize(
    "key", [None, b"", b"01kb0f6mrf8d2v3n4p5q6r7s8t", b"claim/", b"claim/x/a", b"claim/-1/a", b"\xff"]
)
def test_other_keys_are_no_claims(key: bytes | None) -> None:
    assert claim_of(key) is None


def test_a_runner_is_not_given_more_than_it_begins_with() -> None:
    order = scheduler(runner("r", 10, 0), starting_max=2)
    submit(order, *(job(f"n{n}") for n in range(5)))

    given = starts(order)
    submit(order, job("h", "high"))
    assert order.why("h", 0) == "its runners were given others that they have not begun"
    order.begun("n0")
    order.begun("n0")
    after_one_began = starts(order)
    order.ended("n1", "succeeded")

    assert (given, after_one_began, starts(order)) == (["n0", "n1"], ["h"], ["n2"])


def test_a_task_that_has_begun_before_its_assignment_was_read_does_not_count_as_waiting_there() -> None:
    order = scheduler(runner("r", 10, 0), starting_max=1)
    order.begun("old")
    order.assigned(job("old"), 0)
    submit(order, job("new"), job("next"))

    assert starts(order) == ["new"]


def test_nothing_is_parked_for_a_task_that_waits_only_until_others_have_begun() -> None:
    order = scheduler(runner("r", 10, 0), starting_max=1, preempt=True)
    submit(order, job("low", "low", preemptible=True))
    assert starts(order) == ["low"]
    submit(order, job("h", "high"))

    assert order.place(0) is None
