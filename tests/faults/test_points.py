"""Fault matrix, F1 and its kin: a service dies at a chosen point of its work, and nothing is lost, repeated or disordered."""

import asyncio

import pytest
from tests.faults.conftest import Begin, follow, steady
from tests.faults.processes import Service

pytestmark = pytest.mark.faults

DIES_S_MAX = 60.0
RUNNER = [
    "before-claim:2",
    "during-claim:2",
    "after-claim:2",
    "before-chunk:5",
    "during-chunk:20",
    "after-chunk:20",
    "before-checkpoint:5",
    "during-checkpoint:5",
    "after-checkpoint:5",
    "before-end:1",
    "during-end:1",
    "after-end:2",
    "before-ended:1",
    "during-ended:2",
    "after-ended:1",
    "before-commit:2",
    "during-commit:2",
    "after-commit:2",
]
TAKING_OVER = [
    "before-reclaim:2",
    "during-reclaim:1",
    "after-reclaim:2",
    "before-resume:1",
    "during-resume:1",
    "after-resume:2",
]
DISPATCHER = ["before-assignment:3", "during-assignment:3", "after-assignment:3", "before-commit:1", "after-commit:1"]
GATEWAY = ["before-task:3", "during-task:3", "after-task:3"]
ARCHIVER = [  # which commits all that was sealed in a while at once
    f"{when}-{what}:{count}"
    for what, count in (("segment", 3), ("state", 3), ("commit", 1))
    for when in ("before", "during", "after")
]


@pytest.mark.parametrize("point", RUNNER)
async def test_f1_a_runner_dies(begin: Begin, point: str):
    await _survives(begin, "runner-a", point)


@pytest.mark.parametrize("point", TAKING_OVER)
async def test_f1_a_runner_dies_while_it_takes_over_from_one_that_died(begin: Begin, point: str):
    await _survives(begin, "runner-a", point, first_dies="runner-b")


@pytest.mark.parametrize("point", DISPATCHER)
async def test_the_dispatcher_dies(begin: Begin, point: str):
    await _survives(begin, "dispatcher", point)


@pytest.mark.parametrize("point", GATEWAY)
async def test_f22_the_gateway_dies_with_a_submission(begin: Begin, point: str):
    await _survives(begin, "gateway", point)


@pytest.mark.parametrize("point", ARCHIVER)
async def test_the_archiver_dies(begin: Begin, point: str):
    await _survives(begin, "archiver", point)


async def _survives(begin: Begin, name: str, point: str, *, first_dies: str = "") -> None:
    async with begin(hurt={name: {"FAULT_POINT": point}}) as run:
        made = run.installation
        dying = made.services[name]
        made.expect_end(dying)
        following = follow(run, steady(8, 3.0))
        if first_dies:
            await asyncio.sleep(1.5)
            made.kill(made.services[first_dies])
        assert await dying.ended(DIES_S_MAX) == -9, _other_death(dying, point)
        made.revive(dying, FAULT_POINT="")
        if first_dies:
            made.revive(made.services[first_dies])
        await asyncio.gather(*following)
        report = await run.verdict()
    assert report.ok, str(report)


def _other_death(service: Service, point: str) -> str:
    return f"{service.name} did not die at {point} but by itself: {service.last_error()}"
