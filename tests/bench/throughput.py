"""What a runner moves: chunks of 200 B from generators in a plugin process to acknowledged in Kafka, against bare aiokafka.

The bare way makes one value, once, in the process that sends it. ApexStream's generator, its socket and the checks at the
runner's end of it are extra work, so the second table says what each process spends on a chunk.
"""

import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tests.bench.measure import median_ratio, table
from tests.bench.processes import Usage, cpu_between, usage
from tests.support.system import own_broker

ROUNDS, WARM_ROUNDS, STREAMS, CHUNKS, PAD = 3, 2, 16, 120_000, 150
POLL_S = 0.1
BARE_TOPIC = "bench-throughput"
OURS = "plugin process to Kafka"

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
    began, used = time.perf_counter(), time.process_time()
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
    print(count / (time.perf_counter() - began), (time.process_time() - used) / count)
    await producer.stop()
uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: chunks a second, and CPU seconds a chunk by process."""

    rate: float
    cpu_s: dict[str, float]


def bare(bootstrap: str, how: str) -> Measured:
    """One bare producer."""
    arguments = [sys.executable, "-c", _BARE, bootstrap, BARE_TOPIC, str(STREAMS * CHUNKS), how]
    before = usage()
    output = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120).stdout
    rate, cpu_s = map(float, output.split())
    return Measured(rate, {"producer": cpu_s, "broker": _cpu_s(before)["broker"]})


async def whole(http: httpx.AsyncClient) -> Measured:
    """Through plugin process and runner."""
    body = {"plugin": "probe", "action": "count", "params": {"n": CHUNKS, "pad": PAD}}
    before, began = usage(), time.perf_counter()
    tasks = [(await http.post("/tasks", json=body)).json()["task_id"] for _ in range(STREAMS)]
    for task in tasks:
        while (state := (await http.get(f"/tasks/{task}")).json())["status"] != "completed":
            assert state["status"] != "failed", state
            await asyncio.sleep(POLL_S)
    return Measured(STREAMS * CHUNKS / (time.perf_counter() - began), _cpu_s(before))


def _cpu_s(before: dict[str, Usage]) -> dict[str, float]:
    return {role: used / (STREAMS * CHUNKS) for role, used in cpu_between(before, usage()).items()}


async def run() -> str:
    """All rounds, and the tables."""
    async with (
        own_broker("gateway", "dispatcher", "runner") as (url, bootstrap),
        httpx.AsyncClient(base_url=url) as http,
    ):
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(BARE_TOPIC, 4, 1)])
        await admin.close()
        for _ in range(WARM_ROUNDS):  # the broker's code is compiled as it runs, for several seconds
            await asyncio.to_thread(bare, bootstrap, "batch")
            await whole(http)
        rounds = []
        for _ in range(ROUNDS):
            send = await asyncio.to_thread(bare, bootstrap, "send")
            batch = await asyncio.to_thread(bare, bootstrap, "batch")
            rounds.append((send, batch, await whole(http)))
    send, batch, ours = zip(*rounds, strict=True)
    return (
        _rate_table(send, batch, ours)
        + "\n"
        + _cpu_table({"bare send()": send, "bare send_batch()": batch, OURS: ours})
    )


def _rate_table(send: Sequence[Measured], batch: Sequence[Measured], ours: Sequence[Measured]) -> str:
    rates = [[measured.rate for measured in way] for way in (send, batch, ours)]
    rows = [
        [name, int(statistics.median(rate)), median_ratio(rates[2], rate)]
        for name, rate in zip(("bare send()", "bare send_batch()", OURS), rates, strict=True)
    ]
    return table(
        "Throughput of a runner, 16 streams, chunks of 200 B", ["way", "chunks/s", "ApexStream against it"], rows
    )


def _cpu_table(ways: Mapping[str, Sequence[Measured]]) -> str:
    roles = ("plugin", "runner", "producer", "broker", "gateway", "dispatcher")
    rows = [
        [name, *(statistics.median(one.cpu_s.get(role, 0.0) for one in way) * 1e6 for role in roles)]
        for name, way in ways.items()
    ]
    return table("CPU, µs a chunk", ["way", *roles], rows)
