"""Chunk to viewer, against a bare aiokafka produce → consume of records of the same size, at the same rate.

All ways cross the same processes' boundaries: a process that yields (or produces), Kafka, and this process, which
receives. The time of the yield travels in the chunk. With checkpointing, every chunk carries the state to go on from after it.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
import websockets
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tests.bench.measure import median_ratio, quantile, table
from tests.support.system import own_broker

ROUNDS, SECONDS, PAD = 4, 5.0, 150  # with its other fields a chunk has about 200 bytes
BARE_TOPIC = "bench-bare"
WAYS = {"count": "plain", "saved": "a checkpoint with every chunk"}
SKIPPED = 20  # first records of a round: connections warm up

_PRODUCER = """
import asyncio, sys, time, json
import uvloop
from aiokafka import AIOKafkaProducer
async def main(bootstrap, topic, n, interval, pad):
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0)
    await producer.start()
    await producer.partitions_for(topic)
    due = time.perf_counter()
    for number in range(n):
        due += interval
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await producer.send(topic, json.dumps({"i": number, "t": time.time_ns(), "pad": "x" * pad}).encode(), partition=0)
    await producer.stop()
uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])))
"""


async def bare(bootstrap: str, rate: int) -> list[float]:
    """Latencies in ms of a producer process and a consumer here."""
    count = int(rate * SECONDS)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        partition = TopicPartition(BARE_TOPIC, 0)
        consumer.assign([partition])
        await consumer.seek_to_end(partition)
        arguments = [bootstrap, BARE_TOPIC, str(count), str(1 / rate), str(PAD)]
        producing = subprocess.Popen(
            [sys.executable, "-c", _PRODUCER, *arguments], env={**os.environ, "PYTHONPATH": ""}
        )
        latencies: list[float] = []
        while len(latencies) < count:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                now = time.time_ns()
                latencies += [(now - msgspec.json.decode(record.value)["t"]) / 1e6 for record in records]
        producing.wait(10)
    finally:
        await consumer.stop()
    return latencies[SKIPPED:]


async def whole(http: httpx.AsyncClient, url: str, rate: int, action: str) -> list[float]:
    """Latencies in ms from a plugin's yield to a viewer here."""
    params = {"n": int(rate * SECONDS), "interval_s": 1 / rate, "pad": PAD}
    task = (await http.post("/tasks", json={"plugin": "probe", "action": action, "params": params})).json()
    latencies: list[float] = []
    async with websockets.connect(f"ws{url.removeprefix('http')}/stream", max_size=None, compression=None) as socket:
        await socket.send(msgspec.json.encode({"type": "subscribe", "stream_id": task["stream_id"]}).decode())
        while True:
            message = msgspec.json.decode(await socket.recv(decode=False))
            now = time.time_ns()
            if message["type"] != "stream_update":
                assert message["type"] == "stream_complete", message
                return latencies[SKIPPED:]
            latencies.append((now - message["data"]["t"]) / 1e6)


async def run() -> str:
    """All rounds, and the table."""
    rows: list[list[object]] = []
    async with _prepared() as (http, url, bootstrap):
        for rate in (100, 2000):
            rounds = [
                (await bare(bootstrap, rate), *[await whole(http, url, rate, action) for action in WAYS])
                for _ in range(ROUNDS)
            ]
            for q, quantile_name in ((0.5, "p50"), (0.99, "p99")):
                theirs, *ways = ([quantile(latencies, q) for latencies in way] for way in zip(*rounds, strict=True))
                rows += [
                    [rate, quantile_name, name, *map(statistics.median, (theirs, ours)), median_ratio(ours, theirs)]
                    for name, ours in zip(WAYS.values(), ways, strict=True)
                ]
    return table("Latency, chunk to viewer", ["chunks/s", "", "", "bare Kafka ms", "ApexStream ms", "ratio"], rows)


@asynccontextmanager
async def _prepared() -> AsyncIterator[tuple[httpx.AsyncClient, str, str]]:
    async with (
        own_broker("gateway", "dispatcher", "runner") as (url, bootstrap),
        httpx.AsyncClient(base_url=url) as http,
    ):
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(BARE_TOPIC, 1, 1)])
        await admin.close()
        await bare(bootstrap, 100)  # the broker's code is compiled after its first thousand records, not before
        for action in WAYS:
            await whole(http, url, 100, action)
        await asyncio.sleep(1)
        yield http, url, bootstrap
