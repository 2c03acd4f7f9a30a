"""What a runner moves: chunks of 200 B from generators in a plugin process to acknowledged in Kafka, against bare aiokafka."""

import asyncio
import statistics
import subprocess
import sys
import time

import httpx
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tests.bench.measure import median_ratio, table
from tests.support.system import own_broker

ROUNDS, STREAMS, CHUNKS, PAD = 3, 16, 40_000, 150
BARE_TOPIC = "bench-throughput"

_BARE = """
import asyncio, sys, time, json
import uvloop
from aiokafka import AIOKafkaProducer
async def main(bootstrap, topic, count, how):
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0, max_batch_size=131072)
    await producer.start()
    value = json.dumps({"i": 0, "t": time.time_ns(), "pad": "x" * 150}).encode()
    await producer.send_and_wait(topic, value, partition=0)
    began = time.perf_counter()
    if how == "send":
        for number in range(count):
            await producer.send(topic, value, partition=number % 4)
        await producer.flush()
    else:
        async def fill(partition):
            left = count // 4
            while left:
                batch = producer.create_batch()
                while left and batch.append(timestamp=None, key=b"k", value=value) is not None:
                    left -= 1
                await (await producer.send_batch(batch, topic, partition=partition))
        await asyncio.gather(*(fill(partition) for partition in range(4)))
    print(count / (time.perf_counter() - began))
    await producer.stop()
uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
"""


def bare(bootstrap: str, how: str) -> float:
    """Records a second of one bare producer."""
    arguments = [sys.executable, "-c", _BARE, bootstrap, BARE_TOPIC, str(STREAMS * CHUNKS), how]
    return float(subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120).stdout)


async def whole(http: httpx.AsyncClient) -> float:
    """Chunks a second through plugin process and runner."""
    body = {"plugin": "probe", "action": "count", "params": {"n": CHUNKS, "pad": PAD}}
    began = time.perf_counter()
    tasks = [(await http.post("/tasks", json=body)).json()["task_id"] for _ in range(STREAMS)]
    for task in tasks:
        while (state := (await http.get(f"/tasks/{task}")).json())["status"] != "completed":
            assert state["status"] != "failed", state
            await asyncio.sleep(0.02)
    return STREAMS * CHUNKS / (time.perf_counter() - began)


async def run() -> str:
    """All rounds, and the table."""
    async with (
        own_broker("gateway", "dispatcher", "runner") as (url, bootstrap),
        httpx.AsyncClient(base_url=url) as http,
    ):
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(BARE_TOPIC, 4, 1)])
        await admin.close()
        await whole(http)  # warm
        rounds = []
        for _ in range(ROUNDS):
            send = await asyncio.to_thread(bare, bootstrap, "send")
            batch = await asyncio.to_thread(bare, bootstrap, "batch")
            rounds.append((send, batch, await whole(http)))
    send, batch, ours = zip(*rounds, strict=True)
    rows = [
        ["bare send()", int(statistics.median(send)), median_ratio(ours, send)],
        ["bare send_batch()", int(statistics.median(batch)), median_ratio(ours, batch)],
        ["plugin process to Kafka", int(statistics.median(ours)), 1.0],
    ]
    return table(
        "Throughput of a runner, 16 streams, chunks of 200 B", ["way", "chunks/s", "ApexStream against it"], rows
    )
