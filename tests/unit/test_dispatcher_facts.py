"""What other services said, as the scheduler is told it."""

import msgspec

from apexstream.contracts.codec import Codec
from apexstream.core.events import Assignment, ControlCommand, ControlVerb, TaskSubmitted
from apexstream.core.reign import Reign
from apexstream.core.scheduling import Reschedule
from apexstream.core.tiers import Tiers
from apexstream.dispatcher.facts import Facts, job_of
from apexstream.dispatcher.policy import Policy, usual_shares
from apexstream.dispatcher.scheduler import Scheduler

TWO = Tiers.named("high,normal")


def task(tier: str) -> TaskSubmitted:
    return TaskSubmitted(task_id="t", plugin="p", action="a", params=b"{}", tier=tier, submitted_us=1)


def facts() -> tuple[Facts, Scheduler]:
    scheduler = Scheduler(Policy(tiers=TWO, reserved=usual_shares(TWO)))
    return Facts(Codec(), scheduler, Reign([0])), scheduler


def test_a_task_of_a_tier_that_was_removed_waits_in_the_least_urgent_one() -> None:
    _, scheduler = facts()

    scheduler.submit(job_of(task("idle"), TWO), 0)

    assert (scheduler.ready("high"), scheduler.ready("normal")) == (0, 1)


def test_a_task_is_moved_to_the_least_urgent_tier_if_the_one_it_was_to_go_to_was_removed() -> None:
    read, scheduler = facts()
    scheduler.submit(job_of(task("high"), TWO), 0)
    detail = msgspec.json.encode(Reschedule(tier="idle"))

    read.command(ControlCommand(task_id="t", verb=ControlVerb.RESCHEDULE, at_us=1, detail=detail), 0)

    assert (scheduler.ready("high"), scheduler.ready("normal")) == (0, 1)


def test_an_assignment_of_a_tier_that_was_removed_counts_as_any_other() -> None:
    class Written:
        offset, key, timestamp = 0, b"t", 0
        value = Codec().encode(Assignment(task=task("idle"), attempt=1, assigned_us=1))

    read, scheduler = facts()

    assert read.assignments(0, [Written()], 0) == ["t"]
    assert scheduler.active == 1
    job = scheduler.job("t")
    assert job is not None
    assert job.tier == "normal"
