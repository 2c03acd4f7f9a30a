"""The checker finds what it is there for: the same short run passes with the product and fails with each broken one."""

import asyncio

import pytest
from tests.faults.avro import Reader
from tests.faults.checker import Report, fold_all, gather
from tests.faults.conftest import Begin, steady
from tests.faults.harness import Run
from tests.faults.installation import until
from tests.faults.mutations import MUTATIONS

pytestmark = pytest.mark.faults

# What the checker must complain about, and which service is broken.
FOUND = {
    "claim_without_reading": ("runner", "goes on neither at"),
    "no_fence": ("runner", "a second resume"),
    "commit_unfinished": ("runner", "passed its assignment"),
    "chunk_duplicated": ("runner", "are repeated"),
    "chunk_dropped": ("runner", "are missing"),
    "chunks_swapped": ("runner", "are out of order"),
    "hash_not_chained": ("runner", "its hash does not continue the chain"),
    "checkpoint_late": ("runner", "are repeated"),
    "rewind_hidden": ("gateway", "other than the stream"),
    "zombie_shown": ("gateway", "is next"),
    "ended_too_soon": ("runner", "before"),
}


async def test_the_run_passes_with_the_product_as_it_is(begin: Begin):
    report = await _run(begin, "", "")
    assert report.ok, str(report)
    assert report.rewinds > 0


def test_every_mutation_is_tried():
    assert FOUND.keys() == MUTATIONS.keys()


@pytest.mark.parametrize("mutation", FOUND)
async def test_the_checker_sees(begin: Begin, mutation: str):
    role, complaint = FOUND[mutation]
    report = await _run(begin, role, mutation)
    assert not report.ok
    assert any(complaint in violation for violation in report.violations), str(report)


async def _run(begin: Begin, role: str, mutation: str) -> Report:
    """Eight streams of five seconds; a runner is frozen, then killed, in the middle of them."""
    names = ["runner-a", "runner-b"] if role == "runner" else [role]
    hurt = {name: {"FAULT_MUTATION": mutation} for name in names if mutation}
    if role == "gateway":  # what it does wrong with a zombie's records shows only if there are some
        hurt["runner-a"] = {"FAULT_SLEEPLESS": "1"}
    async with begin(hurt=hurt, timeout_s=25.0) as run:
        following = [asyncio.create_task(run.load.follow(job)) for job in steady(8, 5.0)]
        await _disturb(run, fenced=role != "runner")
        await asyncio.gather(*following)
        return await run.verdict()


async def _disturb(run: Run, *, fenced: bool) -> None:
    """``fenced``: the runner goes on once its streams have been claimed by the other one, which broken runners may not do."""
    made = run.installation

    async def claimed_again() -> bool:
        topics = await gather(made.brokers.bootstrap_servers, made.prefix)
        return any(len(stream.claimed_by) > 1 for stream in fold_all(topics.chunks, Reader(), Report()).values())

    frozen, killed = made.services["runner-a"], made.services["runner-b"]
    await asyncio.sleep(2.0)
    frozen.freeze()
    await made.moved_away_from(frozen)
    if fenced:
        await until(claimed_again, "another runner claims a stream")
    made.expect_end(frozen)  # a runner that has slept for so long starts over
    frozen.thaw()
    await asyncio.sleep(0.5)
    made.kill(frozen)
    made.revive(frozen)
    await frozen.ready()
    made.kill(killed)
    made.revive(killed)
