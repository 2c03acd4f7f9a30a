"""The rows of the fault matrix in which a broker itself fails, each on brokers of its own."""

import asyncio
import resource
import time
from pathlib import Path

import httpx
import pytest
from tests.faults.brokers import OneBroker, one_broker, three_brokers
from tests.faults.conftest import TIMEOUT_S, follow, steady
from tests.faults.harness import SHORT_SESSIONS, Run, started

pytestmark = [pytest.mark.faults, pytest.mark.kafka]

APPEND_TIMEOUT_S = 5
ANSWER_S_MAX = 30.0


async def test_f4_the_leader_of_three_brokers_dies_twice(tmp_path: Path):
    async with three_brokers() as cluster, started(cluster, tmp_path, 4, timeout_s=TIMEOUT_S, **SHORT_SESSIONS) as run:
        following = follow(run, steady(10, 20.0))
        for partition in (0, 1):
            await asyncio.sleep(3.0)
            await cluster.crash("apex.chunks", partition)
            await asyncio.sleep(2.0)
            await cluster.recover()
        await _all_well(run, following)


async def test_f5_the_leader_and_a_runner_die_together(tmp_path: Path):
    async with three_brokers() as cluster, started(cluster, tmp_path, 5, timeout_s=TIMEOUT_S, **SHORT_SESSIONS) as run:
        following = follow(run, steady(10, 15.0))
        await asyncio.sleep(3.0)
        run.installation.kill(run.installation.services["runner-a"])
        await cluster.crash("apex.chunks", 0)
        await asyncio.sleep(2.0)
        run.installation.revive(run.installation.services["runner-a"])
        await cluster.recover()
        await _all_well(run, following)


async def test_f6_the_only_broker_dies_and_comes_back(tmp_path: Path):
    async with one_broker() as broker, started(broker, tmp_path, 6, timeout_s=TIMEOUT_S, **SHORT_SESSIONS) as run:
        following = follow(run, steady(10, 10.0))
        for _ in range(2):
            await asyncio.sleep(3.0)
            await broker.crash("apex.chunks", 0)
            await asyncio.sleep(1.0)
            await broker.recover()
        await _all_well(run, following)


async def test_f6_a_runner_that_joins_while_the_broker_comes_back_takes_nothing_up_again(tmp_path: Path):
    """A coordinator that still loads its group says so; taken for "nothing was ever committed", all would begin anew."""
    async with one_broker() as broker, started(broker, tmp_path, 66, timeout_s=TIMEOUT_S, **SHORT_SESSIONS) as run:
        made = run.installation
        following = follow(run, [*steady(6, 20.0), *steady(20, 0.5, name="short")])
        for name in ("runner-a", "runner-b", "runner-a"):
            await asyncio.sleep(3.0)
            made.kill(made.services[name])
            await broker.crash("apex.chunks", 0)
            made.revive(made.services[name])  # it waits for the broker with all others
            await broker.recover()
        await _all_well(run, following)


async def test_f7_without_a_majority_requests_are_refused_in_time_and_nothing_is_lost(tmp_path: Path):
    bounded = {**SHORT_SESSIONS, "APEX_APPEND_TIMEOUT_S": str(APPEND_TIMEOUT_S)}
    async with three_brokers() as cluster, started(cluster, tmp_path, 7, timeout_s=2 * TIMEOUT_S, **bounded) as run:
        following = follow(run, steady(10, 15.0))
        await asyncio.sleep(3.0)
        for node in cluster.cluster.nodes[:2]:
            node.kill()
        answer, took_s = await _submit(run)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] in {"unavailable", "outcome_unknown"}
        assert took_s < APPEND_TIMEOUT_S + 10
        for node in cluster.cluster.nodes[:2]:
            node.start()
        await _all_well(run, following)


async def test_f11_a_disk_that_takes_nothing_more_costs_nothing_that_was_acknowledged(tmp_path: Path):
    """The file size limit of the broker's process: its writes fail as on a full disk, and it halts."""
    async with one_broker() as broker, started(broker, tmp_path, 11, timeout_s=TIMEOUT_S, **SHORT_SESSIONS) as run:
        following = follow(run, steady(10, 10.0))
        await asyncio.sleep(3.0)
        await _fill_disk(broker)
        await asyncio.sleep(2.0)
        await broker.recover()
        await _all_well(run, following)


async def _all_well(run: Run, following: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*following)
    report = await run.verdict()
    assert report.ok, str(report)


async def _submit(run: Run) -> tuple[httpx.Response, float]:
    """One submission, not repeated, and how long its answer took."""
    body = {
        "plugin": "fault",
        "action": "restart",
        "params": {"plan": {"key": "refused", "n": 1}},
        "task_id": "refused",
    }
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=run.installation.url, trust_env=False, timeout=ANSWER_S_MAX) as http:
        return await http.post("/tasks", json=body), time.monotonic() - began


async def _fill_disk(broker: OneBroker) -> None:
    pid = broker.broker.pid
    assert pid is not None
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    async with asyncio.timeout(60):
        while broker.broker.running:
            await asyncio.sleep(0.1)
