"""One contender of ``tests.bench.processors`` in a process of its own:
``python contenders.py <who> <map|count> <bootstrap> <records topic> <runs topic> <output topic> <chunks>``.

Prints chunks a second and CPU microseconds a chunk, from the first chunk taken to the last result acknowledged. What needs
this project is imported where it is used: quixstreams runs in an environment without it.
"""

import asyncio
import json
import secrets
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

WINDOW_MS = 1000
RUN = 100


class Clock:
    """From the first chunk on."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def begin(self) -> None:
        if not self.wall:
            self.wall, self.cpu = time.perf_counter(), time.process_time()

    def report(self, chunks: int) -> None:
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        print(chunks / wall, cpu / chunks * 1e6, flush=True)


CLOCK = Clock()


def changed(value: dict[str, Any]) -> dict[str, Any]:
    return {"i": value["i"], "v": value["v"] * 2, "pad": value["pad"]}


def counting() -> Callable[[dict[str, Any]], list[dict[str, Any]]]:
    """Tumbling windows by key, closed by the highest time."""
    open_: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    highest = [0]

    def count(value: dict[str, Any]) -> list[dict[str, Any]]:
        start = value["t"] // WINDOW_MS
        open_[start][value["k"]] += 1
        if start <= highest[0]:
            return []
        highest[0] = start
        return [{"start": s, "k": k, "n": n} for s in sorted(open_) if s < start for k, n in open_.pop(s).items()]

    return count


async def bare(what: str, bootstrap: str, records: str, _: str, output: str, chunks: int) -> None:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

    consumer = AIOKafkaConsumer(records, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, max_batch_size=131072)
    await consumer.start()
    await producer.start()
    count, taken, batch = counting(), 0, producer.create_batch()
    while taken < chunks:
        for got in (await consumer.getmany(timeout_ms=200)).values():
            CLOCK.begin()
            taken += len(got)
            for record in got:
                value = json.loads(record.value)
                for result in [changed(value)] if what == "map" else count(value):
                    data = json.dumps(result).encode()
                    if batch.append(timestamp=None, key=None, value=data) is None:
                        await producer.send_batch(batch, output, partition=0)
                        batch = producer.create_batch()
                        batch.append(timestamp=None, key=None, value=data)
    if batch.record_count():
        await producer.send_batch(batch, output, partition=0)
    await producer.flush()
    CLOCK.report(chunks)
    await consumer.stop()
    await producer.stop()


async def faust_records(what: str, bootstrap: str, records: str, _: str, output: str, chunks: int) -> None:
    await _faust(what, bootstrap, records, output, chunks, runs=False)


async def faust_runs(what: str, bootstrap: str, _: str, runs: str, output: str, chunks: int) -> None:
    await _faust(what, bootstrap, runs, output, chunks, runs=True)


async def _faust(what: str, bootstrap: str, topic: str, output: str, chunks: int, *, runs: bool) -> None:
    import msgspec

    from apexstream.contracts.codec import Codec
    from apexstream.core.chunk import GENESIS, Chunk, Kind
    from apexstream.log.writer import Writer
    from apexstream.processors.faust_mends import MendedApp, MendedSchema

    codec, done, count, taken = Codec(), asyncio.Event(), counting(), 0
    encoder = codec.run_encoder("out", 1, "bench")
    decode, encode = msgspec.json.decode, msgspec.json.encode
    with tempfile.TemporaryDirectory() as folder:
        app = MendedApp(
            f"bench-{secrets.token_hex(4)}",
            broker=f"kafka://{bootstrap}",
            datadir=folder,
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            store="memory://",
        )
        source = app.topic(topic, schema=MendedSchema(codec.decode_run if runs else decode))
        target = app.topic(output, schema=MendedSchema(bytes))
        async with Writer(bootstrap, client_id="bench") as writer:
            flying: set[asyncio.Task[int]] = set()

            async def take(stream: Any) -> None:
                nonlocal taken
                async for value in stream:
                    CLOCK.begin()
                    values = [decode(chunk.payload) for chunk in value.chunks] if runs else [value]
                    made = (
                        [changed(one) for one in values] if what == "map" else [r for one in values for r in count(one)]
                    )
                    taken += len(values)
                    if runs and made:
                        out = [Chunk(Kind.DATA, encode(one), 0) for one in made]
                        for at in range(0, len(out), RUN):
                            data, _ = encoder.encode(0, out[at : at + RUN], None, GENESIS)
                            task = asyncio.create_task(writer.append(output, b"k", data, partition=0))
                            flying.add(task)
                            task.add_done_callback(flying.discard)
                    else:
                        for one in made:
                            await target.send(key=b"k", value=encode(one))
                    if taken >= chunks:
                        done.set()

            app.agent(source, name="take")(take)
            await app.start()
            await done.wait()
            await asyncio.gather(*flying)
            await app.producer.flush()
            CLOCK.report(chunks)
            await app.stop()


async def quix(what: str, bootstrap: str, records: str, _: str, output: str, chunks: int) -> None:
    from quixstreams import Application

    with tempfile.TemporaryDirectory() as folder:
        app = Application(
            broker_address=bootstrap,
            consumer_group=f"bench-{secrets.token_hex(4)}",
            auto_offset_reset="earliest",
            state_dir=folder,
            auto_create_topics=what == "count",
            loglevel="ERROR",
        )
        source = app.topic(records, value_deserializer="json", timestamp_extractor=lambda value, *_: value["t"])
        taken = 0

        def see(value: dict[str, Any]) -> None:
            nonlocal taken
            CLOCK.begin()
            taken += 1
            if taken >= chunks:
                app.stop()

        frame = app.dataframe(source).update(see)
        frame = frame.apply(changed) if what == "map" else frame.tumbling_window(WINDOW_MS).count().final()
        frame.to_topic(app.topic(output, value_serializer="json"))
        app.run()
    CLOCK.report(chunks)


WHO: dict[str, Any] = {"bare": bare, "faust-records": faust_records, "faust-runs": faust_runs, "quix": quix}

if __name__ == "__main__":
    who, what, bootstrap, records, runs, output, chunks = sys.argv[1:]
    asyncio.run(WHO[who](what, bootstrap, records, runs, output, int(chunks)))
