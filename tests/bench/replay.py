"""Replay of a finished stream of 10,000 chunks that shared its partition with others, through the gateway's WebSocket, against
an ``AIOKafkaConsumer`` that reads a topic which holds only those chunks.

Each round reads a stream that nobody has read before, so that the gateway has nothing of it in memory.
"""

import statistics
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tests.bench.finished import Streams, payloads, streams
from tests.bench.measure import median_ratio, quantile, table
from tests.bench.sockets import lean_socket
from tests.support.system import own_broker

CHUNKS, RESUME_AT = 10_000, 9_000
ROUNDS, WARM_ROUNDS = 7, 2
ALONE = "bench-alone"
FEW, MANY = 99, 999


async def run(neighbour_chunks: int = 1_000) -> str:
    """All rounds, and the table. ``neighbour_chunks``: how long each of the other streams is."""
    async with (
        own_broker("gateway", "runner", "archiver", APEX_SEAL_AFTER_S="0.5") as (url, bootstrap),
        streams(bootstrap) as made,
    ):
        await _write_alone(bootstrap)
        few = await _targets(made, 0, FEW, neighbour_chunks)
        many = await _targets(made, 1, MANY, neighbour_chunks)
        rounds = []
        for number in range(WARM_ROUNDS + ROUNDS):
            whole, resumed, crowded = few[2 * number], few[2 * number + 1], many[number]
            rounds.append(
                (
                    await alone(bootstrap),
                    await replayed(url, whole, 0),
                    await replayed(url, crowded, 0),
                    await replayed(url, resumed, RESUME_AT),
                )
            )
    return _table(rounds[WARM_ROUNDS:], neighbour_chunks)


async def replayed(url: str, stream_id: str, from_seq: int) -> float:
    """Milliseconds from the command to the end of the stream, on a socket that is open already."""
    async with lean_socket(url) as socket:
        began = time.perf_counter()
        socket.send({"type": "subscribe", "stream_id": stream_id, "from_seq": from_seq})
        count, last = 0, b""
        while not last.startswith(b'{"type":"stream_complete"'):
            messages = await socket.messages()
            count, last = count + len(messages), messages[-1]
        took_ms = (time.perf_counter() - began) * 1000
    assert count == CHUNKS + 1 - from_seq, f"{count} messages"
    return took_ms


async def alone(bootstrap: str) -> float:
    """Milliseconds that a consumer takes, from its assignment on."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        began = time.perf_counter()
        consumer.assign([TopicPartition(ALONE, 0)])
        count = 0
        while count < CHUNKS:
            count += sum(map(len, (await consumer.getmany(timeout_ms=1000)).values()))
        return (time.perf_counter() - began) * 1000
    finally:
        await consumer.stop()


async def _write_alone(bootstrap: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(ALONE, 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0)
    await producer.start()
    texts = payloads(1_000)
    for number in range(CHUNKS):
        await producer.send(ALONE, texts[number % len(texts)], partition=0)
    await producer.stop()


async def _targets(made: Streams, partition: int, neighbours: int, neighbour_chunks: int) -> list[str]:
    """Streams to read in a partition that they share with others: two for each round and ``neighbours`` in all."""
    names = made.ids(neighbours + 1, partition)
    wanted = names[: 2 * (WARM_ROUNDS + ROUNDS)]
    await made.write({name: CHUNKS if name in wanted else neighbour_chunks for name in names})
    await made.sealed(names)
    return wanted


def _table(rounds: list[tuple[float, float, float, float]], neighbour_chunks: int) -> str:
    alone_ms, few_ms, many_ms, resumed_ms = (list(way) for way in zip(*rounds, strict=True))
    few, many = f"{FEW} neighbours of {neighbour_chunks} chunks or more", f"{MANY} neighbours"
    rows = [
        [
            name,
            statistics.median(times),
            quantile(times, 0.9),
            median_ratio(times, alone_ms),
            median_ratio(times, few_ms),
        ]
        for name, times in (
            ("AIOKafkaConsumer, a topic of its own", alone_ms),
            (f"gateway, {few}", few_ms),
            (f"gateway, {many}", many_ms),
            (f"gateway, from chunk {RESUME_AT} on", resumed_ms),
        )
    ]
    return table(f"Replay of {CHUNKS} chunks", ["", "p50 ms", "p90 ms", "of the consumer", "of the whole replay"], rows)
