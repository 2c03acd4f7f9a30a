"""The order of work: tasks a second and urgent tasks behind a backlog, next to Celery and taskiq; the scheduler by itself.

Client, gateway, dispatcher, runner and broker share the machine; rounds of both sides of a ratio are taken in turn. What a
submission to an idle system takes is measured by ``submit``. Requests are made with aiohttp: httpx uses 3 ms of CPU for one of
64 at once, as much as all services together, and reached 150 to 280 a second against a server that does nothing.
"""

import asyncio
import gc
import statistics
import time
import tracemalloc
from collections.abc import Sequence
from contextlib import AsyncExitStack

import aiohttp
import msgspec
import websockets
from aiokafka import AIOKafkaConsumer
from tests.bench.measure import median_ratio, quantile, table
from tests.bench.other_queues import KINDS, OtherQueue, other_queue
from tests.bench.processes import cpu_between, usage
from tests.support.system import own_broker

from apexstream.contracts.codec import Codec
from apexstream.core.events import ActionInfo, RunnerState, TaskChange, TaskEvent
from apexstream.core.tiers import DEFAULT_TIERS
from apexstream.dispatcher.decisions import Job, Start
from apexstream.dispatcher.policy import Policy
from apexstream.dispatcher.scheduler import Scheduler

ROUNDS, TASKS = 3, 2_000
WARM_UPS = 3  # of each way: until then the broker is busy compiling itself
PROCESSES = ("broker", "gateway", "dispatcher", "runner", "plugin", "client")
IN_FLIGHT = 64  # submissions at once
URGENT, BACKLOG, GRAPH = 60, 10_000, 2_000
WAYS = ("one POST /graphs", f"POST /tasks each, {IN_FLIGHT} at once")
SCHEDULED, WAITING = 100_000, 1_000_000
SLOTS = 64


async def urgent(http: aiohttp.ClientSession, url: str, name: str, count: int) -> list[float]:
    """Milliseconds from the submission of a high task to its end at a viewer, one task after the other."""
    latencies = []
    async with websockets.connect(f"ws{url.removeprefix('http')}/stream", compression=None) as socket:
        for each in range(count):
            task_id = f"{name}-{each}"
            await socket.send(msgspec.json.encode({"type": "subscribe", "stream_id": task_id}).decode())
            body = {"plugin": "probe", "action": "count", "params": {"n": 0}, "task_id": task_id, "tier": "high"}
            began = time.perf_counter()
            answer = asyncio.create_task(_post(http, "/tasks", body))
            while msgspec.json.decode(await socket.recv())["type"] != "stream_complete":
                pass
            latencies.append((time.perf_counter() - began) * 1000)
            await answer
            await asyncio.sleep(0.01)
    return latencies


async def fill(http: aiohttp.ClientSession, name: str, count: int) -> None:
    """Make ``count`` low tasks wait."""
    for number in range(0, count, GRAPH):
        tasks = [
            {"plugin": "probe", "action": "count", "params": {"n": 0}, "task_id": f"t{each}", "tier": "low"}
            for each in range(min(GRAPH, count - number))
        ]
        await _post(http, "/graphs", {"graph_id": f"{name}-{number}", "tasks": tasks})


async def low_waiting(http: aiohttp.ClientSession) -> int:
    """How many low tasks wait."""
    async with http.get("/queue") as answer:
        return int((await answer.json())["tiers"][-1]["depth"])


async def _post(http: aiohttp.ClientSession, path: str, body: object) -> None:
    data = msgspec.json.encode(body)
    async with http.post(path, data=data, headers={"content-type": "application/json"}) as answer:
        assert answer.status == 202, await answer.text()


async def tasks_a_second(http: aiohttp.ClientSession, bootstrap: str, name: str, *, whole: bool) -> float:
    """Empty tasks from the first submission to the last event that says completed, submitted one by one or as one graph."""
    codec, left = Codec(), {f"{name}.t{number}" for number in range(TASKS)}
    consumer = AIOKafkaConsumer("apex.task-events", bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        await consumer.seek_to_end()
        began = time.perf_counter()
        submitting = asyncio.create_task(_submit(http, name, whole=whole))
        while left:
            if submitting.done():
                submitting.result()  # raises what was refused
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                events = [codec.decode(record.value, TaskEvent) for record in records]
                left -= {event.task_id for event in events if event.change is TaskChange.COMPLETED}
        took_s = time.perf_counter() - began
        await submitting
    finally:
        await consumer.stop()
    return TASKS / took_s


async def _submit(http: aiohttp.ClientSession, name: str, *, whole: bool) -> None:
    names = [f"t{number}" for number in range(TASKS)]
    bodies = [{"plugin": "probe", "action": "count", "params": {"n": 0}, "task_id": each} for each in names]
    if whole:
        await _post(http, "/graphs", {"graph_id": name, "tasks": bodies})
        return
    room = asyncio.Semaphore(IN_FLIGHT)

    async def one(body: dict[str, object]) -> None:
        async with room:
            await _post(http, "/tasks", {**body, "task_id": f"{name}.{body['task_id']}"})

    await asyncio.gather(*map(one, bodies))


def scheduler_with_room() -> Scheduler:
    """A scheduler and one runner."""
    scheduler = Scheduler(Policy())
    info = ActionInfo(plugin="p", action="a", summary="", streams=True, params_schema=b"{}")
    state = RunnerState(runner_id="r", at_us=0, capacity=SLOTS, partitions=tuple(range(24)), actions=(info,))
    scheduler.runner("r", state)
    return scheduler


def decisions_a_second() -> float:
    """Tasks through submit → start → end in the scheduler alone, all tiers mixed."""
    scheduler, tiers = scheduler_with_room(), DEFAULT_TIERS.names
    jobs = [Job(task_id=f"t{n}", action="p.a", tier=tiers[n % 3]) for n in range(SCHEDULED)]
    began = time.perf_counter()
    running: list[str] = []
    for job in jobs:
        scheduler.submit(job, 0)
    while scheduler.waiting:
        while isinstance(decision := scheduler.place(0), Start):
            running.append(decision.job.task_id)
        for task_id in running:
            scheduler.ended(task_id, "succeeded")
        running.clear()
    return SCHEDULED / (time.perf_counter() - began)


def bytes_a_waiting_task() -> float:
    """Memory of the scheduler with a million waiting tasks, ids included, divided by their number."""
    gc.collect()
    tracemalloc.start()
    scheduler = Scheduler(Policy())
    for number in range(WAITING):
        scheduler.submit(Job(task_id=f"01kb0f6mrf8d2v3n4p5q{number:06d}", action="p.a", tier="low"), 0)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / WAITING


async def behind_a_backlog(
    http: aiohttp.ClientSession, url: str, others: Sequence[OtherQueue], backlog: int
) -> list[list[object]]:
    """Rows of p50 and p99 (ms): idle, behind the backlog, and the same with the other queues."""
    idle = await urgent(http, url, "idle", URGENT)
    await fill(http, "backlog", backlog)
    before, began = await low_waiting(http), time.perf_counter()
    busy = await urgent(http, url, "busy", URGENT)
    left, took_s = await low_waiting(http), time.perf_counter() - began
    assert left, "the backlog was gone before the last urgent task"
    told = f"{backlog} low ones before it, of which {int((before - left) / took_s)} a second were done meanwhile"
    rows = [_row("ApexStream, idle", idle), _row(f"ApexStream, {told}", busy)]
    for other in others:
        rows.append(_row(f"{other.name}, idle", await other.latencies(URGENT, 0)))
        rows.append(_row(f"{other.name}, {backlog} low ones before it", await other.latencies(URGENT, backlog)))
    return rows


def _row(name: str, times_ms: Sequence[float]) -> list[object]:
    return [name, quantile(times_ms, 0.5), quantile(times_ms, 0.99)]


async def run(backlog: int = BACKLOG) -> str:
    """All rounds, and the tables; with so many low tasks before the urgent ones."""
    async with (
        own_broker("gateway", "dispatcher", "runner", APEX_TENANT_WAITING_MAX="1000000") as (url, bootstrap),
        aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as http,
        AsyncExitStack() as stack,
    ):
        found = [await stack.enter_async_context(other_queue(kind)) for kind in KINDS]
        others = [each for each in found if not isinstance(each, str)]
        for n in range(WARM_UPS):
            await _round(http, bootstrap, -1 - n, ())
        rounds = [await _round(http, bootstrap, n, others) for n in range(ROUNDS)]
        latencies = await behind_a_backlog(http, url, others, backlog)
    alone: list[list[object]] = [
        ["tasks a second through submit, start, end", int(statistics.median(decisions_a_second() for _ in range(3)))],
        ["bytes a waiting task, of a million", int(bytes_a_waiting_task())],
    ]
    return (
        _rates_table(rounds, others)
        + _cpu_table(rounds)
        + table("An urgent task, to its end (ms)", ["", "p50", "p99"], latencies)
        + table("The scheduler alone", ["", ""], alone)
        + "".join(f"left out: {why}\n" for why in found if isinstance(why, str))
    )


Round = tuple[list[float], list[dict[str, float]]]
"""Tasks a second: as one graph, one by one, and of the other queues; and milliseconds of CPU a task by process, of two."""


async def _round(http: aiohttp.ClientSession, bootstrap: str, n: int, others: Sequence[OtherQueue]) -> Round:
    rates, cpu = [], []
    for whole, name in ((True, f"graph{n}"), (False, f"single{n}")):
        before, own_s = usage(), time.process_time()
        rates.append(await tasks_a_second(http, bootstrap, name, whole=whole))
        used = cpu_between(before, usage()) | {"client": time.process_time() - own_s}
        cpu.append({role: used[role] / TASKS * 1000 for role in PROCESSES})
    return [*rates, *[await other.rate(TASKS) for other in others]], cpu


def _rates_table(rounds: Sequence[Round], others: Sequence[OtherQueue]) -> str:
    names = [*WAYS, *(other.name for other in others)]
    by_way = list(zip(*(rates for rates, _ in rounds), strict=True))
    rows = [
        [name, int(statistics.median(rates)), *(median_ratio(rates, theirs) for theirs in by_way[2:])]
        for name, rates in zip(names, by_way, strict=True)
    ]
    header = ["", "tasks/s", *(f"to {other.name.partition(' ')[0]}" for other in others)]
    return table(f"Tasks a second ({TASKS} empty tasks to the last completed)", header, rows)


def _cpu_table(rounds: Sequence[Round]) -> str:
    rows: list[list[object]] = []
    for place, way in enumerate(WAYS):
        used = [cpu[place] for _, cpu in rounds]
        by_process = [statistics.median(one[role] for one in used) for role in PROCESSES]
        rows.append([way, *by_process, sum(by_process)])
    return table("CPU, ms a task", ["", *PROCESSES, "all"], rows)
