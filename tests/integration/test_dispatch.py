"""The order of work on the real broker: graphs, cancels, moves, overtaking, and dispatchers that die."""

import asyncio
import itertools
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.integration.conftest import Apex, running
from tests.integration.test_streams import until
from tests.support.system import PLUGINS, processes

import apexstream.runner.build
from apexstream.contracts.codec import Codec
from apexstream.core.events import Assignment
from apexstream.core.reign import Reign, claim_of
from apexstream.log.fetcher import LogReader
from apexstream.runtime.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE_S = 90


def member(name: str, *after: str, action: str = "count", tier: str = "normal", **more: Any) -> dict[str, Any]:
    params = more.pop("params", {"n": 1} if action == "count" else {})
    options = more.pop("options", {})
    return {
        "plugin": "probe",
        "action": action,
        "task_id": name,
        "params": params,
        "tier": tier,
        "options": options,
        "scheduling": {"after": list(after), **more},
    }


async def submit_graph(apex: Apex, *members: dict[str, Any]) -> str:
    answer = await apex.http.post("/graphs", json={"tasks": members})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["graph_id"])


async def ended_graph(apex: Apex, graph_id: str) -> dict[str, dict[str, Any]]:
    """The states of a graph's tasks by their names in it, once all have ended."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            tasks = (await apex.http.get(f"/graphs/{graph_id}")).json()["tasks"]
            if all(task["status"] in {"completed", "failed", "cancelled"} for task in tasks):
                return {task["task_id"].removeprefix(f"{graph_id}."): task for task in tasks}
            await asyncio.sleep(0.02 + len(tasks) / 2_000)  # a large answer costs the services time too


async def why(apex: Apex, task_id: str) -> str:
    return str((await apex.http.get(f"/tasks/{task_id}/why")).json()["why"])


async def test_a_graph_runs_in_its_order(apex: Apex) -> None:
    tasks = await ended_graph(
        apex,
        await submit_graph(apex, member("d", "b", "c"), member("b", "a"), member("c", "a", tier="high"), member("a")),
    )

    assert {task["status"] for task in tasks.values()} == {"completed"}
    ends = {name: task["changed_us"] for name, task in tasks.items()}
    assert ends["a"] < min(ends["b"], ends["c"])
    assert max(ends["b"], ends["c"]) < ends["d"]


async def test_what_comes_after_a_failure_ends_by_its_own_rule_and_its_stream_says_so(apex: Apex) -> None:
    graph_id = await submit_graph(
        apex,
        member("bad", action="fail", options={"max_attempts": 1}),
        member("cancelled", "bad"),
        member("failed", "bad", otherwise="fail"),
        member("anyway", "cancelled", when="ended"),
    )
    tasks = await ended_graph(apex, graph_id)

    assert {name: task["status"] for name, task in tasks.items()} == {
        "bad": "failed",
        "cancelled": "cancelled",
        "failed": "failed",
        "anyway": "completed",
    }
    assert (await apex.follow(f"{graph_id}.cancelled"))[-1]["type"] == "stream_cancelled"
    end = (await apex.follow(f"{graph_id}.failed"))[-1]
    assert (end["type"], end["error"]["code"]) == ("stream_error", "upstream_failed")
    assert await why(apex, f"{graph_id}.failed") == f"comes after {graph_id}.bad, which has failed"


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([member("a", "b"), member("b", "a")], "wait for each other"),
        ([member("a", "elsewhere")], "'elsewhere', which is not known"),
        ([member("a"), member("a")], "two tasks have one task_id"),
        ([member("a"), member("b", action="nosuch")], "no action 'nosuch'"),
    ],
)
async def test_a_graph_that_cannot_run_is_refused_whole(apex: Apex, members: list[dict[str, Any]], told: str) -> None:
    answer = await apex.http.post("/graphs", json={"graph_id": "refused", "tasks": members})

    assert answer.status_code in {400, 404}
    assert told in answer.json()["error"]["message"]
    assert (await apex.http.get("/graphs/refused")).status_code == 404


async def test_an_idempotency_key_makes_one_task_of_many_submissions(apex: Apex) -> None:
    body = {"plugin": "probe", "action": "count", "idempotency_key": "order 66"}
    answers = await asyncio.gather(*(apex.http.post("/tasks", json=body) for _ in range(5)))

    assert len({answer.json()["task_id"] for answer in answers}) == 1
    other = await apex.http.post("/tasks", json={**body, "scheduling": {"tenant": "else"}})
    assert other.json()["task_id"] != answers[0].json()["task_id"]


async def test_a_task_waits_for_its_time_and_can_be_moved_to_another(apex: Apex) -> None:
    later = time.time_ns() // 1000 + 3_600_000_000
    body = {"plugin": "probe", "action": "count", "scheduling": {"not_before_us": later}}
    task_id = (await apex.http.post("/tasks", json=body)).json()["task_id"]
    async with asyncio.timeout(DEADLINE_S):
        while await why(apex, task_id) != "its start time has not come":
            await asyncio.sleep(0.05)

    moved = await apex.http.patch(f"/tasks/{task_id}", json={"tier": "high", "not_before_us": 0})

    assert (moved.status_code, moved.json()["tier"]) == (202, "high")
    await until(apex, task_id, "completed")
    assert "then was started: next in high" in await why(apex, task_id)
    assert (await apex.http.patch(f"/tasks/{task_id}", json={"tier": "low"})).status_code == 409


async def test_graphs_and_labels_are_cancelled_at_every_stage(apex: Apex) -> None:
    long = {"n": 10_000, "interval_s": 0.01}
    graph_id = await submit_graph(
        apex, member("run", params=long, labels=["nightly"]), member("wait", "run", labels=["nightly"])
    )
    await until(apex, f"{graph_id}.run", "running")
    assert await why(apex, f"{graph_id}.wait") == f"it comes after {graph_id}.run"

    assert len((await apex.http.delete("/labels/nightly")).json()["cancelling"]) == 2

    assert {task["status"] for task in (await ended_graph(apex, graph_id)).values()} == {"cancelled"}
    assert (await apex.http.delete(f"/graphs/{graph_id}")).json()["cancelling"] == []


async def test_holders_of_one_key_never_run_together(apex: Apex) -> None:
    key = [{"key": "db"}]
    graph_id = await submit_graph(
        apex, *(member(f"t{n}", params={"n": 3, "interval_s": 0.02}, concurrency=key) for n in range(4))
    )
    await ended_graph(apex, graph_id)
    spans = []
    for number in range(4):
        chunks = [m["data"]["t"] for m in await apex.follow(f"{graph_id}.t{number}") if m["type"] == "stream_update"]
        spans.append((chunks[0], chunks[-1]))

    spans.sort()
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


async def test_what_no_runner_can_take_waits_and_says_why(apex: Apex) -> None:
    body = {"plugin": "probe", "action": "count", "scheduling": {"needs": {"gpu": 1}, "tenant": "gpu"}}
    task_id = (await apex.http.post("/tasks", json=body)).json()["task_id"]
    async with asyncio.timeout(DEADLINE_S):
        while await why(apex, task_id) != "no runner has gpu 1":
            await asyncio.sleep(0.05)
    queue = (await apex.http.get("/queue")).json()

    normal = queue["tiers"][1]
    assert (normal["tier"], normal["depth"], normal["ready"]) == ("normal", 1, 1)
    assert normal["worst_wait_slots"] > 0
    await apex.http.delete(f"/tasks/{task_id}")
    await until(apex, task_id, "cancelled")


@pytest_asyncio.fixture(loop_scope="module")
async def small(kafka: str, topic_prefix: str) -> AsyncIterator[Apex]:
    """An ApexStream with eight task slots."""
    settings = Settings(bootstrap_servers=kafka, topic_prefix=topic_prefix, port=0, runner_capacity=8)
    async with running(settings) as apex:
        yield apex


async def test_high_tasks_overtake_hundreds_of_low_ones_which_get_their_share_and_finish(
    small: Apex, tmp_path: Path
) -> None:
    gate, low_names, high_names = tmp_path / "gate", [str(n) for n in range(300)], [str(n) for n in range(20)]
    params = {"gate": str(gate), "n": 1}
    holders = await submit_graph(small, *(member(f"h{n}", action="gated", params=params) for n in range(8)))
    await running_tasks(small, holders, 8)  # every slot is taken, so what comes now waits until all of it is there
    low = await submit_graph(small, *(member(name, tier="low", params={"n": 0}) for name in low_names))
    high = await submit_graph(small, *(member(name, tier="high", params={"n": 0}) for name in high_names))
    await ready(small, high=20, low=300)

    gate.touch()

    for graph_id in (holders, low, high):
        assert {task["status"] for task in (await ended_graph(small, graph_id)).values()} == {"completed"}
    order = await started_order(
        small, [f"{high}.{name}" for name in high_names] + [f"{low}.{name}" for name in low_names]
    )
    last_high = max(place for place, task_id in enumerate(order) if task_id.startswith(high))
    assert 20 < last_high + 1 <= 20 + 20 / 9 + 2  # one slot of ten is the low ones'


async def running_tasks(apex: Apex, graph_id: str, count: int) -> None:
    """Until so many tasks of the graph run."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            tasks = (await apex.http.get(f"/graphs/{graph_id}")).json()["tasks"]
            if sum(task["status"] == "running" for task in tasks) == count:
                return
            await asyncio.sleep(0.05)


async def ready(apex: Apex, **tiers: int) -> None:
    """Until the dispatcher has so many ready tasks of each tier."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            told = {tier["tier"]: tier["ready"] for tier in (await apex.http.get("/queue")).json()["tiers"]}
            if all(told[tier] == count for tier, count in tiers.items()):
                return
            await asyncio.sleep(0.05)


async def started_order(apex: Apex, task_ids: list[str]) -> list[str]:
    """The tasks in the order in which they were given to runners."""

    async def assigned_us(task_id: str) -> int:
        history = (await apex.http.get(f"/tasks/{task_id}/why")).json()["history"]
        return next(int(told["at_us"]) for told in history if told["change"] == "assigned")

    times = {task_id: await assigned_us(task_id) for task_id in task_ids}
    return sorted(task_ids, key=times.__getitem__)


@pytest_asyncio.fixture(loop_scope="module")
async def trio(kafka: str, topic_prefix: str) -> AsyncIterator[Apex]:
    """An ApexStream with three runners: one with two GPUs, one with the label ssd, one with neither."""
    settings = Settings(bootstrap_servers=kafka, topic_prefix=topic_prefix, port=0, runner_capacity=8, instance="plain")
    async with running(settings) as apex, AsyncExitStack() as runners:
        for more in ({"instance": "gpus", "runner_resources": "gpu=2"}, {"instance": "fast", "runner_labels": "ssd"}):
            await runners.enter_async_context(runner(settings.model_copy(update=more)))
        async with asyncio.timeout(DEADLINE_S):
            while len((await apex.http.get("/queue")).json().get("runners", ())) < 3:
                await asyncio.sleep(0.05)
        yield apex


@asynccontextmanager
async def runner(settings: Settings) -> AsyncIterator[None]:
    """One more runner in this process."""
    stop, ready = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(
        apexstream.runner.build.serve(settings, ready=lambda _: ready.set(), stop=stop), name=settings.instance
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            await ready.wait()
        yield
    finally:
        stop.set()
        await serving


async def test_a_graph_of_a_thousand_tasks_with_failures_cancels_and_retries_runs_in_order_on_three_runners(
    trio: Apex,
) -> None:
    members, levels, wide = [], 10, 100
    for number in range(levels * wide):
        level, column = divmod(number, wide)
        after = [f"t{number - wide}", f"t{(level - 1) * wide + (column + 1) % wide}"] if level else []
        what = {
            3: {"action": "fail", "params": {"after": 1}, "options": {"max_attempts": 1}},
            7: {"action": "flaky", "params": {"n": 4, "fail_at": [1, 2]}, "options": {"backoff_s": 0.01}},
        }.get(number % 50 if level in {2, 5} else 0, {"params": {"n": 1}})
        when = "ended" if number % 3 == 0 else "succeeded"
        needs = ({"needs": {"gpu": 1}}, {"runs_on": ["ssd"]}, {"avoids": ["ssd"]}, {})[number % 4]
        tier = ("high", "normal", "low")[number % 3]
        members.append(member(f"t{number}", *after, when=when, tier=tier, **what, **needs))
    graph_id = await submit_graph(trio, *members)
    await trio.http.delete(f"/tasks/{graph_id}.t555")
    tasks = await ended_graph(trio, graph_id)

    counts = Counter(task["status"] for task in tasks.values())
    assert 0 < counts["failed"] <= 4  # one of them may come after another and be cancelled
    assert counts["cancelled"] > 0
    assert counts["completed"] > 500
    assert max(task["attempt"] for task in tasks.values()) == 3
    for each in members:
        task = tasks[each["task_id"]]
        for upstream in each["scheduling"]["after"]:
            if task["status"] == "completed":
                assert tasks[upstream]["changed_us"] <= task["changed_us"]
                assert each["scheduling"]["when"] == "ended" or tasks[upstream]["status"] == "completed"
    assert max((await live_assignments(trio.settings)).values()) == 1
    for number in range(100):
        if tasks[f"t{number}"]["attempt"]:
            told = await why(trio, f"{graph_id}.t{number}")
            allowed = ({"gpus"}, {"fast"}, {"gpus", "plain"}, {"gpus", "fast", "plain"})[number % 4]
            assert any(f"{name} has room" in told or f"{name} was kept" in told for name in allowed), told


async def live_assignments(settings: Settings) -> Counter[str]:
    """How often each task was assigned, as dispatchers see it."""
    codec, found = Codec(), Counter[str]()
    async with LogReader(settings.bootstrap_servers, client_id="test") as reader:
        partitions = await reader.partitions(settings.topic("assignments"))
        starts, ends = await asyncio.gather(reader.starts(partitions), reader.ends(partitions))
        reign = Reign(number for _, number in partitions)
        for partition in partitions:
            async for records, _ in reader.scan(partition, starts[partition], ends[partition]):
                for record in records:
                    if (claim := claim_of(record.key) if record.value is None else None) is not None:
                        reign.claimed(partition[1], *claim)
                        continue
                    assignment = codec.decode(record.value, Assignment)
                    found[assignment.task.task_id] += reign.counts(partition[1], assignment.epoch)
    return found


class Dispatchers:
    """Dispatcher processes by name."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self._environ = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "APEX_TOPIC_PREFIX": prefix,
            "APEX_LOG_LEVEL": "warning",
            "PYTHONPATH": os.pathsep.join([str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        command = [sys.executable, "-m", "apexstream", "serve", "dispatcher"]
        self.running[name] = subprocess.Popen(command, env={**self._environ, "APEX_INSTANCE": name})

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(30)


@asynccontextmanager
async def dispatched(kafka: str, prefix: str) -> AsyncIterator[tuple[httpx.AsyncClient, Dispatchers]]:
    """Gateway and runner as processes; dispatchers are the test's."""
    dispatchers = Dispatchers(kafka, prefix)
    try:
        async with (
            processes(kafka, prefix, "gateway", "runner") as url,
            httpx.AsyncClient(base_url=url, timeout=30) as http,
        ):
            yield http, dispatchers
    finally:
        dispatchers.stop()


async def active(http: httpx.AsyncClient, *, other_than: str = "") -> str:
    """The name of the active dispatcher, once it is another one."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = await http.get("/queue")
            name = str(answer.json().get("dispatcher", "")).split(".")[0]
            if name and name != other_than:
                return name
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("standby", [True, False])
async def test_no_task_is_lost_or_run_twice_when_dispatchers_are_killed(
    kafka: str, topic_prefix: str, standby: bool
) -> None:
    await kill_dispatchers(kafka, topic_prefix, kills=3, standby=standby)


@pytest.mark.faults
@pytest.mark.parametrize("standby", [True, False])
async def test_fifty_kills_lose_nothing_and_run_nothing_twice(kafka: str, topic_prefix: str, standby: bool) -> None:
    await kill_dispatchers(kafka, topic_prefix, kills=50, standby=standby)


async def kill_dispatchers(kafka: str, topic_prefix: str, *, kills: int, standby: bool) -> None:
    """Kill the active dispatcher again and again while graphs are on their way; every task runs once, in its order."""
    settings = Settings(bootstrap_servers=kafka, topic_prefix=topic_prefix)
    rng, took, wide = random.Random(20261123), [], 20
    async with dispatched(kafka, topic_prefix) as (http, dispatchers):
        apex = Apex(str(http.base_url), settings, http)
        dispatchers.start("d0")
        current = await active(http)
        graphs = []
        for number in range(1, kills + 1):
            if standby:
                dispatchers.start(f"d{number}")
            tail = [member(f"t{n}", f"t{n - wide}", params={"n": 0}) for n in range(wide, 5 * wide)]
            graphs.append(await submit_graph(apex, *(member(f"t{n}", params={"n": 0}) for n in range(wide)), *tail))
            await asyncio.sleep(rng.uniform(0, 0.5))  # anywhere in the graph's life
            dispatchers.kill(current)
            killed_at = time.monotonic()
            if not standby:
                dispatchers.start(f"d{number}")
            current = await active(http, other_than=current)
            took.append(time.monotonic() - killed_at)
        tasks = [task for graph_id in graphs for task in (await ended_graph(apex, graph_id)).values()]
        assigned = await live_assignments(settings)
    took.sort()
    print(f"{kills} takeovers, standby {standby}: median {took[len(took) // 2]:.1f} s, longest {took[-1]:.1f} s")
    assert {task["status"] for task in tasks} == {"completed"}
    assert {task["attempt"] for task in tasks} == {1}  # a second one would have begun while the first one ran
    assert len(assigned) == kills * 5 * wide
    assert set(assigned.values()) == {1}


@pytest_asyncio.fixture(loop_scope="module")
async def narrow(kafka: str, topic_prefix: str) -> AsyncIterator[Apex]:
    """An ApexStream with one task slot, whose high tasks may park others."""
    settings = Settings(
        bootstrap_servers=kafka,
        topic_prefix=topic_prefix,
        port=0,
        runner_capacity=1,
        preempt="on",
        tenant_waiting_max=5,
    )
    async with running(settings) as apex:
        yield apex


async def test_a_preemptible_task_is_parked_for_a_high_one_and_goes_on_with_its_viewer_attached(
    narrow: Apex, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    body = {"plugin": "probe", "action": "steady", "params": {"n": 100, "gate": str(gate)}, "tier": "low"}
    low = (await narrow.http.post("/tasks", json={**body, "scheduling": {"preemptible": True}})).json()["task_id"]
    viewer = asyncio.create_task(narrow.follow(low))
    await until(narrow, low, "running")

    high = await narrow.http.post("/tasks", json={"plugin": "probe", "action": "count", "tier": "high"})
    await narrow.follow(high.json()["task_id"])  # it had its turn, and the low one cannot have ended yet
    gate.touch()
    messages = await viewer

    chunks = [message for message in messages if message["type"] == "stream_update"]
    assert [chunk["data"] for chunk in chunks] == list(range(100))
    assert messages[-1]["type"] == "stream_complete"
    await until(narrow, low, "completed")
    assert (await narrow.http.get(f"/tasks/{low}")).json()["attempt"] == 2
    history = (await narrow.http.get(f"/tasks/{low}/why")).json()["history"]
    assert f"makes room for {high.json()['task_id']} of tier high" in [told["reason"] for told in history]


async def test_a_parked_task_that_is_cancelled_ends_its_stream_where_it_stood(narrow: Apex) -> None:
    body = {"plugin": "probe", "action": "steady", "params": {"n": 500}, "tier": "low"}
    low = (await narrow.http.post("/tasks", json={**body, "scheduling": {"preemptible": True}})).json()["task_id"]
    viewer = asyncio.create_task(narrow.follow(low))
    await until(narrow, low, "running")
    long = {"plugin": "probe", "action": "count", "params": {"n": 10_000, "interval_s": 0.01}, "tier": "high"}
    high = (await narrow.http.post("/tasks", json=long)).json()["task_id"]
    await until(narrow, low, "parked")

    await narrow.http.delete(f"/tasks/{low}")
    messages = await viewer

    assert messages[-1]["type"] == "stream_cancelled"
    assert messages[-1]["data"]["stopped_at_seq"] == messages[-1]["seq"] > 0
    await narrow.http.delete(f"/tasks/{high}")
    await until(narrow, high, "cancelled")


async def test_a_tenant_with_too_many_waiting_tasks_is_told_when_to_come_back(narrow: Apex) -> None:
    body = {"plugin": "probe", "action": "count", "scheduling": {"tenant": "many", "needs": {"gpu": 99}}}
    answers = [await narrow.http.post("/tasks", json=body) for _ in range(6)]

    assert [answer.status_code for answer in answers] == [202] * 5 + [429]
    refused = answers[-1]
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "limit_reached"
    assert refused.json()["error"]["message"] == "5 tasks of tenant many wait, and at most 5 may"
    other = await narrow.http.post("/tasks", json={**body, "scheduling": {"tenant": "few"}})
    assert other.status_code == 202
