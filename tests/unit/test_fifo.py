"""The order of work."""

from apexstream.core.events import RunnerState, TaskSubmitted
from apexstream.core.tiers import Tier
from apexstream.dispatcher.fifo import RUNNER_SILENT_US_MAX, FifoScheduler


def task(task_id: str, tier: Tier = Tier.NORMAL) -> TaskSubmitted:
    return TaskSubmitted(task_id=task_id, plugin="p", action="a", params=b"{}", tier=tier, submitted_us=0)


def runner(runner_id: str, capacity: int, *partitions: int, at_us: int = 0) -> RunnerState:
    return RunnerState(runner_id=runner_id, at_us=at_us, capacity=capacity, partitions=partitions, actions=())


def placed(scheduler: FifoScheduler, now_us: int = 0) -> list[str]:
    names = []
    while (placement := scheduler.place(now_us)) is not None:
        names.append(placement.task.task_id)
    return names


def test_first_in_is_first_out_and_urgent_tiers_go_first():
    scheduler = FifoScheduler()
    scheduler.runner("r", runner("r", 10, 0))
    for name, tier in (("l1", Tier.LOW), ("n1", Tier.NORMAL), ("n2", Tier.NORMAL), ("h1", Tier.HIGH)):
        scheduler.submit(task(name, tier))
    assert placed(scheduler) == ["h1", "n1", "n2", "l1"]


def test_no_runner_gets_more_than_its_capacity_and_the_rest_waits_for_room():
    scheduler = FifoScheduler()
    scheduler.runner("r", runner("r", 2, 0, 1))
    for number in range(3):
        scheduler.submit(task(f"t{number}"))
    assert placed(scheduler) == ["t0", "t1"]
    scheduler.ended("t0")
    assert placed(scheduler) == ["t2"]


def test_work_goes_to_the_runner_with_the_most_room_and_only_to_partitions_it_owns():
    scheduler = FifoScheduler()
    scheduler.runner("small", runner("small", 1, 0))
    scheduler.runner("large", runner("large", 3, 1, 2))
    for number in range(4):
        scheduler.submit(task(f"t{number}"))
    placements = [scheduler.place(0) for _ in range(4)]
    assert sorted(p.partition for p in placements) == [0, 1, 1, 2]
    assert all((p.partition == 0) == (p.runner_id == "small") for p in placements)


def test_a_silent_or_departed_runner_gets_nothing():
    scheduler = FifoScheduler()
    scheduler.submit(task("t"))
    scheduler.runner("r", runner("r", 1, 0))
    assert scheduler.place(RUNNER_SILENT_US_MAX + 1) is None
    scheduler.runner("r", None)
    assert scheduler.place(0) is None


def test_a_withdrawn_task_is_never_placed():
    scheduler = FifoScheduler()
    scheduler.runner("r", runner("r", 9, 0))
    scheduler.submit(task("a"))
    scheduler.submit(task("b"))
    assert scheduler.withdraw("a") == task("a")
    assert scheduler.withdraw("a") is None
    assert placed(scheduler) == ["b"]


def test_a_task_that_moved_with_its_partition_counts_for_the_new_owner():
    scheduler = FifoScheduler()
    scheduler.runner("old", runner("old", 1, 0))
    scheduler.submit(task("a"))
    assert placed(scheduler) == ["a"]
    scheduler.runner("old", None)
    scheduler.runner("new", runner("new", 1, 0))
    scheduler.submit(task("b"))
    assert placed(scheduler) == []
    scheduler.ended("a")
    assert placed(scheduler) == ["b"]
