"""The Python task queue and its commands on the real thing."""

import asyncio
import time

import pytest
from tests.integration.conftest import Apex
from typer.testing import CliRunner

from apexstream.cli.app import app
from apexstream.client import Client, EnhancedTaskQueue, RemoteError, TaskStatus
from apexstream.core.errors import InvalidRequest, Unavailable

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOUR_US = 3_600_000_000


async def test_a_program_adds_tasks_with_priority_and_dependencies_and_waits(apex: Apex) -> None:
    async with Client(apex.url) as client:
        queue = EnhancedTaskQueue(client)
        first = await queue.add("probe", "count", {"n": 2}, priority="high")
        second = await queue.add("probe", "count", {"n": 1}, after=[first], labels=("nightly",))
        done = await queue.wait(second, timeout_s=30)
        before = await client.task(first.task_id)

        assert (before.status, done.status) == (TaskStatus.COMPLETED, TaskStatus.COMPLETED)
        assert before.changed_us < done.changed_us
        assert "then was started: next in normal" in (await queue.why(second)).why


async def test_a_program_moves_a_waiting_task_and_takes_another_back(apex: Apex) -> None:
    async with Client(apex.url) as client:
        queue = EnhancedTaskQueue(client)
        later = time.time_ns() // 1000 + HOUR_US
        moved = await queue.add("probe", "count", priority="low", not_before_us=later, idempotency_key="tonight")
        same = await queue.add("probe", "count", priority="low", not_before_us=later, idempotency_key="tonight")
        taken_back = await queue.add("probe", "count", not_before_us=later)
        with pytest.raises(TimeoutError):
            await queue.wait(moved, timeout_s=0.3)

        assert same.task_id == moved.task_id
        assert (await queue.reschedule(moved, priority="high", not_before_us=0)).tier == "high"
        assert (await queue.wait(moved, timeout_s=30)).status is TaskStatus.COMPLETED
        await queue.cancel(taken_back)
        assert (await queue.wait(taken_back, timeout_s=30)).status is TaskStatus.CANCELLED
        with pytest.raises((RemoteError, InvalidRequest), match="Only a waiting task can be moved"):
            await queue.reschedule(moved, priority="low")
        with pytest.raises(InvalidRequest, match="28 days"):
            await queue.add("probe", "count", not_before_us=later + 30 * 24 * HOUR_US)


async def test_a_graph_is_submitted_and_cancelled_as_one(apex: Apex) -> None:
    long = {"plugin": "probe", "action": "count", "params": {"n": 1000, "interval_s": 0.05}}
    async with Client(apex.url) as client:
        graph = await client.submit_graph(
            [{**long, "task_id": "a"}, {**long, "task_id": "b", "scheduling": {"after": ["a"]}}]
        )
        cancelling = await client.cancel_graph(graph.graph_id)
        queue = EnhancedTaskQueue(client)
        ended = [await queue.wait(task, timeout_s=30) for task in graph.tasks]

    assert list(cancelling) == [task.task_id for task in graph.tasks]
    assert {task.status for task in ended} == {TaskStatus.CANCELLED}


async def test_the_commands_show_what_waits_and_why(apex: Apex) -> None:
    async with Client(apex.url) as client:
        queue = EnhancedTaskQueue(client)
        stuck = await queue.add("probe", "count", priority="low", needs={"gpu": 8}, tenant="lab")
        async with asyncio.timeout(30):
            while not any(tier.stuck for tier in (await queue.state()).tiers):
                await asyncio.sleep(0.05)

        def run(*arguments: str) -> str:
            done = CliRunner().invoke(app, [*arguments, "--url", apex.url])
            assert done.exit_code == 0, done.output
            return done.stdout

        shown = await asyncio.to_thread(run, "queue")
        assert f"1 x probe.count of lab (low), first {stuck.task_id}: no runner has gpu 8" in shown
        assert "starts" in shown
        assert "no runner has gpu 8" in await asyncio.to_thread(run, "why", stuck.task_id)
        assert (await asyncio.to_thread(run, "reschedule", stuck.task_id, "--tier", "high")).strip() == "waiting"
        await queue.cancel(stuck)


async def test_runners_announce_what_they_measured(apex: Apex) -> None:
    async with Client(apex.url) as client:
        queue = await client.queue()

    (runner,) = queue.runners
    assert runner.amounts["cpu"] >= 1
    assert runner.amounts["memory_mb"] > 100


async def test_without_a_dispatcher_the_queue_says_so(unused_tcp_port: int) -> None:
    async with Client(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(Unavailable):
            await client.queue()
