"""Submission to first chunk against two bare hops through Kafka; tasks a second; the scheduler by itself.

Client, gateway, dispatcher, runner and broker share the machine; rounds of both sides of a ratio are taken in turn.
"""

import asyncio
import gc
import statistics
import time
import tracemalloc

import httpx
import msgspec
import websockets
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tests.bench.measure import median_ratio, quantile, table
from tests.support.system import own_broker

from apexstream.contracts.codec import Codec
from apexstream.core.events import ActionInfo, RunnerState, TaskChange, TaskEvent
from apexstream.core.tiers import Tier
from apexstream.dispatcher.decisions import Job, Start
from apexstream.dispatcher.policy import Policy
from apexstream.dispatcher.scheduler import Scheduler

ROUNDS, EACH = 5, 60
HOPS = ("bench-hop-1", "bench-hop-2")
TASKS = 2_000
IN_FLIGHT = 64  # submissions at once
SCHEDULED, WAITING = 100_000, 1_000_000
SLOTS = 64


class TwoHops:
    """A record through two topics: what a submission costs at least."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    async def __aenter__(self) -> "TwoHops":
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(topic, 1, 1) for topic in HOPS])
        await admin.close()
        self._producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap, acks="all", enable_idempotence=True)
        await self._producer.start()
        self._consumers = []
        for topic in HOPS:
            consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, enable_auto_commit=False)
            await consumer.start()
            consumer.assign([TopicPartition(topic, 0)])
            await consumer.seek_to_end(TopicPartition(topic, 0))
            self._consumers.append(consumer)
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in (self._producer, *self._consumers):
            await client.stop()

    async def measure(self) -> list[float]:
        """Latencies in ms, one record after the other."""
        latencies = []
        for _ in range(EACH):
            began = time.perf_counter()
            for topic, consumer in zip(HOPS, self._consumers, strict=True):
                await self._producer.send(topic, b"x" * 200, partition=0)
                await consumer.getone()
            latencies.append((time.perf_counter() - began) * 1000)
        return latencies


async def first_chunks(http: httpx.AsyncClient, url: str, number: int) -> list[float]:
    """Latencies in ms from sending a submission to having its first chunk, one task after the other."""
    latencies = []
    async with websockets.connect(f"ws{url.removeprefix('http')}/stream", compression=None) as socket:
        for each in range(EACH):
            task_id = f"first-{number}-{each}"
            await socket.send(msgspec.json.encode({"type": "subscribe", "stream_id": task_id}).decode())
            body = {"plugin": "probe", "action": "count", "params": {"n": 1}, "task_id": task_id}
            began = time.perf_counter()
            answer = asyncio.create_task(http.post("/tasks", json=body))
            assert msgspec.json.decode(await socket.recv())["type"] == "stream_update"
            latencies.append((time.perf_counter() - began) * 1000)
            assert msgspec.json.decode(await socket.recv())["type"] == "stream_complete"
            await answer
    return latencies


async def tasks_a_second(http: httpx.AsyncClient, bootstrap: str, name: str, *, whole: bool) -> float:
    """Empty tasks from the first submission to the last event that says completed, submitted one by one or as one graph."""
    codec, left = Codec(), {f"{name}.t{number}" for number in range(TASKS)}
    consumer = AIOKafkaConsumer("apex.task-events", bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        await consumer.seek_to_end()
        began = time.perf_counter()
        submitting = asyncio.create_task(_submit(http, name, whole=whole))
        while left:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                events = [codec.decode(record.value, TaskEvent) for record in records]
                left -= {event.task_id for event in events if event.change is TaskChange.COMPLETED}
        took_s = time.perf_counter() - began
        await submitting
    finally:
        await consumer.stop()
    return TASKS / took_s


async def _submit(http: httpx.AsyncClient, name: str, *, whole: bool) -> None:
    names = [f"t{number}" for number in range(TASKS)]
    bodies = [{"plugin": "probe", "action": "count", "params": {"n": 0}, "task_id": each} for each in names]
    if whole:
        answer = await http.post("/graphs", json={"graph_id": name, "tasks": bodies})
        assert answer.status_code == 202, answer.text
        return
    room = asyncio.Semaphore(IN_FLIGHT)

    async def one(body: dict[str, object]) -> None:
        async with room:
            await http.post("/tasks", json={**body, "task_id": f"{name}.{body['task_id']}"})

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
    scheduler, tiers = scheduler_with_room(), list(Tier)
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
        scheduler.submit(Job(task_id=f"01kb0f6mrf8d2v3n4p5q{number:06d}", action="p.a", tier=Tier.LOW), 0)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return used / WAITING


async def run() -> str:
    """All rounds, and the tables."""
    async with (
        own_broker("gateway", "dispatcher", "runner") as (url, bootstrap),
        httpx.AsyncClient(base_url=url, timeout=60) as http,
        TwoHops(bootstrap) as hops,
    ):
        await hops.measure()
        await first_chunks(http, url, 0)
        pairs = [(await hops.measure(), await first_chunks(http, url, number)) for number in range(1, ROUNDS + 1)]
        rows: list[list[object]] = []
        for q, name in ((0.5, "p50"), (0.99, "p99")):
            theirs, ours = ([quantile(pair[side], q) for pair in pairs] for side in (0, 1))
            rows.append([name, statistics.median(theirs), statistics.median(ours), median_ratio(ours, theirs)])
        singly = [await tasks_a_second(http, bootstrap, f"single-{n}", whole=False) for n in range(3)]
        whole = [await tasks_a_second(http, bootstrap, f"graph-{n}", whole=True) for n in range(3)]
    figures: list[list[object]] = [
        ["tasks/s, POST /tasks each", int(statistics.median(singly))],
        ["tasks/s, one POST /graphs", int(statistics.median(whole))],
        ["scheduler alone, tasks/s", int(statistics.median(decisions_a_second() for _ in range(3)))],
        ["scheduler, bytes a waiting task of a million", int(bytes_a_waiting_task())],
    ]
    return table("Submission to first chunk", ["", "two bare hops ms", "ApexStream ms", "ratio"], rows) + table(
        f"Throughput ({TASKS} empty tasks)", ["what", "figure"], figures
    )
