"""Tiers by configuration, on the real broker: more of them, other ones, and what becomes of tasks of one that was removed."""

import asyncio
import itertools
from typing import Any

import pytest
from tests.integration.conftest import Apex, running
from tests.integration.test_dispatch import DEADLINE_S, ended_graph, member, runner, submit_graph
from tests.integration.test_streams import until

from apexstream.client import Client, EnhancedTaskQueue
from apexstream.core.errors import InvalidRequest
from apexstream.runtime.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
FIVE = ("urgent", "high", "normal", "low", "idle")


async def depths(apex: Apex) -> dict[str, int]:
    """How many tasks of each tier wait; nothing as long as no dispatcher tells of any."""
    tiers = (await apex.http.get("/queue")).json().get("tiers", ())
    return {tier["tier"]: tier["depth"] for tier in tiers}


async def waiting(apex: Apex, expected: dict[str, int]) -> None:
    """Until so many tasks of each tier wait."""
    async with asyncio.timeout(DEADLINE_S):
        while (told := await depths(apex)) != expected:
            assert not told or told.keys() == expected.keys()
            await asyncio.sleep(0.05)


async def submitted(apex: Apex, tier: str, **more: Any) -> str:
    body = {"plugin": "probe", "action": "count", "params": {"n": 1}, "tier": tier, **more}
    answer = await apex.http.post("/tasks", json=body)
    assert (answer.status_code, answer.json()["tier"]) == (202, tier), answer.text
    return str(answer.json()["task_id"])


async def test_five_tiers_run_and_outlive_their_configuration(kafka: str, topic_prefix: str) -> None:
    """One history, since it takes two installations: five tiers, then two of them."""
    settings = Settings(bootstrap_servers=kafka, topic_prefix=topic_prefix, port=0, tiers=",".join(FIVE), partitions=3)
    async with running(settings) as apex:
        await all_five_run(apex)
        await a_tier_that_is_not_configured_is_refused(apex)
        no_runner_has_it = {"needs": {"licence": 1}}
        left = {tier: await submitted(apex, tier, scheduling=no_runner_has_it) for tier in FIVE}
        graph = [member(tier, tier=tier, **no_runner_has_it) for tier in ("normal", "idle")]
        graph_id = await submit_graph(apex, *graph)
        await waiting(apex, {"urgent": 1, "high": 1, "normal": 2, "low": 1, "idle": 2})
        letter = await submitted(apex, "idle", action="fail", params={}, options={"max_attempts": 1})
        await until(apex, letter, "failed")

    async with running(settings.model_copy(update={"tiers": "high,normal"})) as apex:
        await waiting(apex, {"high": 1, "normal": 6})
        task = (await apex.http.get(f"/tasks/{left['idle']}")).json()
        assert (task["tier"], task["status"]) == ("idle", "waiting")
        retried = await apex.http.post(f"/dead-letters/{letter}/retry")
        assert (retried.status_code, retried.json()["tier"]) == (202, "normal")
        await until(apex, retried.json()["task_id"], "failed")

        async with runner(apex.settings.model_copy(update={"runner_resources": "licence=1", "instance": "able"})):
            for task_id in left.values():
                await until(apex, task_id, "completed")
            assert {task["status"] for task in (await ended_graph(apex, graph_id)).values()} == {"completed"}
        told = (await apex.http.get(f"/tasks/{left['urgent']}/why")).json()["why"]
        assert "next in normal" in told or "normal, whose reserved turn it is" in told


async def all_five_run(apex: Apex) -> None:
    tasks = {tier: await submitted(apex, tier) for tier in FIVE}
    for task_id in tasks.values():
        await until(apex, task_id, "completed")

    assert tuple(await depths(apex)) == FIVE
    for tier, task_id in tasks.items():
        told = (await apex.http.get(f"/tasks/{task_id}/why")).json()["why"]
        assert f"next in {tier}" in told
    queue = (await apex.http.get("/queue")).json()["tiers"]
    assert [tier["one_of_slots"] for tier in queue] == [1, 4, 10, 20, 30]
    assert all(before["worst_wait_slots"] < after["worst_wait_slots"] for before, after in itertools.pairwise(queue))


async def a_tier_that_is_not_configured_is_refused(apex: Apex) -> None:
    body = {"plugin": "probe", "action": "count", "tier": "medium"}
    answer = await apex.http.post("/tasks", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["message"], error["where"]) == (400, "'medium' is not a tier", "tier")
    assert error["hint"] == "Use urgent, high, normal, low, idle"
    assert (await apex.http.post("/graphs", json={"tasks": [body]})).status_code == 400
    async with Client(apex.url) as client:
        queue = EnhancedTaskQueue(client)
        task = await queue.add("probe", "count", needs={"licence": 1})
        with pytest.raises(InvalidRequest, match="'medium' is not a tier"):
            await queue.reschedule(task, priority="medium")
        await queue.reschedule(task, priority="idle")
        await waiting(apex, {"urgent": 0, "high": 0, "normal": 0, "low": 0, "idle": 1})
        await queue.cancel(task)
        assert task.tier == "normal"
        assert (await client.actions()).tiers == FIVE
        assert (await client.actions()).default_tier == "normal"
    await waiting(apex, dict.fromkeys(FIVE, 0))
