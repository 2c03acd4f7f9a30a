"""Submitting a task on an idle system, until its first chunk is here, against two bare Kafka hops.

A task takes three hops (submission, assignment, chunk), each through a process that reads, decides and writes; the bare way
is a record that crosses Kafka, is passed on by a process that does nothing else, and crosses Kafka again. Both start and end
in this process, one at a time, with a pause in between. Then: how many tasks are accepted each second, one after the other
and sixteen at a time, against appends that each wait for their acknowledgement.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import websockets
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tests.bench.measure import median_ratio, quantile, table
from tests.bench.processes import cpu_between, usage
from tests.support.system import own_broker

ROUNDS, TASKS, PAUSE_S = 5, 40, 0.02
POSTS, AT_ONCE = 400, 16
THERE, BACK = "bench-there", "bench-back"
BODY = {"plugin": "probe", "action": "count", "params": {"n": 1}}

Once = Callable[[], Awaitable[None]]

_RELAY = """
import asyncio, sys
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
async def main(bootstrap, there, back):
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0)
    await asyncio.gather(consumer.start(), producer.start())
    consumer.assign([TopicPartition(there, 0)])
    await consumer.seek_to_end()
    print("ready", flush=True)
    while True:
        for records in (await consumer.getmany(timeout_ms=1000)).values():
            for record in records:
                await producer.send(back, record.value, partition=0)
uvloop.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def two_hops(bootstrap: str) -> AsyncIterator[Once]:
    """Sends a record to a process that sends it back."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0)
    arguments = [sys.executable, "-c", _RELAY, bootstrap, THERE, BACK]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as relay:
        await asyncio.gather(consumer.start(), producer.start(), asyncio.to_thread(relay.stdout.readline))
        try:
            consumer.assign([TopicPartition(BACK, 0)])
            await consumer.seek_to_end()

            async def once() -> None:
                await producer.send(THERE, b"x" * 200, partition=0)
                while not await consumer.getmany(timeout_ms=1000):
                    pass

            yield once
        finally:
            relay.kill()
            await asyncio.gather(consumer.stop(), producer.stop())


@asynccontextmanager
async def tasks(http: aiohttp.ClientSession, url: str) -> AsyncIterator[Once]:
    """Submits a task over HTTP, subscribes to its stream as soon as it is accepted, and waits for its first chunk."""
    address = f"ws{url.removeprefix('http')}/stream"
    async with websockets.connect(address, max_size=None, compression=None) as socket:

        async def once() -> None:
            async with http.post("/tasks", json=BODY) as answer:
                task = msgspec.json.decode(await answer.read())
            await socket.send(msgspec.json.encode({"type": "subscribe", "stream_id": task["stream_id"]}).decode())
            while msgspec.json.decode(message := await socket.recv(decode=False))["type"] != "stream_update":
                assert b'"error"' not in message, message

        yield once


async def appends(bootstrap: str, at_once: int) -> float:
    """Bare appends a second."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0)
    await producer.start()
    try:
        return await _rate(lambda: producer.send_and_wait(THERE, b"x" * 300, partition=0), at_once)
    finally:
        await producer.stop()


async def _rate(one: Callable[[], Awaitable[object]], at_once: int) -> float:
    async def some() -> None:
        for _ in range(POSTS // at_once):
            await one()

    began = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(at_once)))
    return POSTS / (time.perf_counter() - began)


async def _times(once: Once) -> list[float]:
    times = []
    for _ in range(TASKS):
        await asyncio.sleep(PAUSE_S)
        began = time.perf_counter()
        await once()
        times.append((time.perf_counter() - began) * 1000)
    return times


async def run() -> str:
    """All rounds, and the tables."""
    async with (
        own_broker("gateway", "dispatcher", "runner") as (url, bootstrap),
        aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=AT_ONCE)) as http,
    ):
        await _make_topics(bootstrap)
        async with two_hops(bootstrap) as hops, tasks(http, url) as submitted:
            for _ in range(3):  # code that ran a few hundred times is compiled
                await _times(hops), await _times(submitted)
            pairs = [(await _times(hops), await _times(submitted)) for _ in range(ROUNDS)]
        rates = [await _rates(http, bootstrap) for _ in range(ROUNDS)]
    return _latency_table(pairs) + "\n" + _rate_table(rates)


async def _make_topics(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(THERE, 1, 1), NewTopic(BACK, 1, 1)])
    await admin.close()


Rates = dict[int, tuple[float, float, dict[str, float]]]


async def _rates(http: aiohttp.ClientSession, bootstrap: str) -> Rates:
    """By how many at once: bare appends a second, tasks a second, and CPU by process."""
    rates: Rates = {}
    for at_once in (1, AT_ONCE):
        bare, before = await appends(bootstrap, at_once), usage()
        ours = await _rate(lambda: _accepted(http), at_once)
        rates[at_once] = bare, ours, cpu_between(before, usage())
        await _finished(http)
    return rates


async def _accepted(http: aiohttp.ClientSession) -> None:
    async with http.post("/tasks", json=BODY) as answer:
        assert answer.status == 202, await answer.text()


async def _finished(http: aiohttp.ClientSession) -> None:
    """Until nothing runs any more: the next round is to begin on an idle system."""
    while True:
        async with http.get("/tasks?limit=1000") as answer:
            if all(task["status"] == "completed" for task in (await answer.json())["tasks"]):
                return
        await asyncio.sleep(0.1)


def _latency_table(pairs: list[tuple[list[float], list[float]]]) -> str:
    rows: list[list[object]] = []
    for q, name in ((0.5, "p50"), (0.9, "p90")):
        hops, ours = ([quantile(pair[way], q) for pair in pairs] for way in (0, 1))
        rows.append([name, statistics.median(hops), statistics.median(ours), median_ratio(ours, hops)])
    return table("Submit to first chunk, idle", ["", "two bare hops ms", "ApexStream ms", "ratio"], rows)


def _rate_table(rates: list[Rates]) -> str:
    rows: list[list[object]] = []
    for at_once in (1, AT_ONCE):
        bare, ours, used = zip(*(rate[at_once] for rate in rates), strict=True)
        cpu = [f"{role} {statistics.median(one[role] for one in used) / POSTS * 1000:.2f}" for role in used[0]]
        row = [at_once, int(statistics.median(bare)), int(statistics.median(ours)), median_ratio(ours, bare)]
        rows.append([*row, ", ".join(cpu)])
    header = ["at once", "bare appends/s", "POST /tasks a second", "ratio", "CPU ms a task"]
    return table("Tasks accepted", header, rows)
