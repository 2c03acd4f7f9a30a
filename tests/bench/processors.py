"""What Faust costs: a map and a windowed count as a Faust agent of single records and of runs of chunks, next to a bare aiokafka
batch loop and to quixstreams; a whole pipeline; and how long 100,000 keys of state take to come back.

quixstreams gets a virtual environment of its own, made once in the cache; where that cannot be, it is left out with a message.
"""

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from tests.bench.contenders import RUN
from tests.bench.measure import table
from tests.support.jobs import CODEC, Log
from tests.support.kafka import embedded_kafka
from tests.support.killed import Worker
from tests.support.pipelines import chunks_of
from tests.support.streams import Author

from apexstream.core.chunk import GENESIS, Chunk, Kind
from apexstream.log.writer import Writer
from apexstream.runtime.settings import Settings

CHUNKS, ROUNDS, KEYS, RESTORED = 50_000, 3, 500, 100_000
RECORDS, RUNS, OUTPUT = "bench-records", "bench-runs", "bench-output"
SCRIPT = Path(__file__).with_name("contenders.py")
TIMEOUT_S = 120


def values(count: int) -> list[bytes]:
    """JSON of about 200 B."""
    return [
        msgspec.json.encode({"i": at, "t": at, "k": at % KEYS, "v": at % 97, "pad": "x" * 150}) for at in range(count)
    ]


def quix_python() -> str:
    """The interpreter of an environment with quixstreams, or an empty text if there cannot be one."""
    folder = Settings().cache_path / "bench-quixstreams"
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            venv.create(folder, with_pip=True)
        if subprocess.run([python, "-c", "import quixstreams"], check=False, capture_output=True).returncode:
            subprocess.run([python, "-m", "pip", "install", "-q", "quixstreams"], check=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as problem:
        print(f"quixstreams is left out: {problem}", file=sys.stderr)
        return ""
    return str(python)


async def run(chunks: int = CHUNKS) -> str:
    """``chunks`` is how many each contender takes."""
    python = await asyncio.to_thread(quix_python)
    who = {"bare": sys.executable, "faust-records": sys.executable, "faust-runs": sys.executable}
    if python:
        who["quix"] = python
    measured: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with embedded_kafka() as bootstrap:
        await _fill(bootstrap, chunks)
        for _ in range(ROUNDS):
            for what in ("map", "count"):
                for name, interpreter in who.items():
                    taken = await asyncio.to_thread(_contend, interpreter, name, what, bootstrap, chunks)
                    measured.setdefault((what, name), []).append(taken)
        pipeline = await _pipelines(bootstrap, chunks)
        restore = await _restore(bootstrap)
    return _shown(measured, who) + pipeline + restore


def _shown(measured: dict[tuple[str, str], list[tuple[float, float]]], who: dict[str, str]) -> str:
    rows = []
    for what in ("map", "count"):
        bare = statistics.median(rate for rate, _ in measured[what, "bare"])
        for name in who:
            rate = statistics.median(rate for rate, _ in measured[what, name])
            cpu = statistics.median(cpu for _, cpu in measured[what, name])
            records = rate / (RUN if name == "faust-runs" else 1)
            rows.append((what, name, f"{records:,.0f}", f"{rate:,.0f}", cpu, rate / bare))
    return table(
        "Map and windowed count", ("", "who", "records/s", "chunks/s", "CPU µs a chunk", "of the bare loop"), rows
    )


def _contend(python: str, who: str, what: str, bootstrap: str, chunks: int) -> tuple[float, float]:
    done = subprocess.run(
        [python, str(SCRIPT), who, what, bootstrap, RECORDS, RUNS, OUTPUT, str(chunks)],
        check=True, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    rate, cpu = done.stdout.split()[-2:]
    return float(rate), float(cpu)


async def _fill(bootstrap: str, chunks: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(name, 1, 1) for name in (RECORDS, RUNS, OUTPUT)])
    await admin.close()
    made = values(chunks)
    encoder = CODEC.run_encoder("in", 1, "bench")
    async with Writer(bootstrap, client_id="bench-fill") as writer:
        await asyncio.gather(
            *(writer.append(RECORDS, str(at % KEYS).encode(), value, partition=0) for at, value in enumerate(made))
        )
        for at in range(0, chunks, RUN):
            run = [Chunk(Kind.DATA, value, 0) for value in made[at : at + RUN]]
            await writer.append(RUNS, b"k", encoder.encode(0, run, None, GENESIS)[0], partition=0)


async def _pipelines(bootstrap: str, chunks: int) -> str:
    """A finished stream through a whole pipeline, from its submission to the end of its output."""
    window = {"op": "window", "kind": "tumbling", "size_s": 1, "key": "$.k", "give": {"n": "count"}}
    cases = {"map": [{"op": "map", "pick": {"i": "$.i", "v": "$.v"}}], "count": [window]}
    rows = []
    async with Log.open(bootstrap) as log:
        stream = [*(Chunk(Kind.DATA, value, 0) for value in values(chunks)), Chunk(Kind.COMPLETE, b"{}", 0)]
        await log.whole("in", stream, run_size=RUN)
        worker = Worker(log, "bench")
        worker.start()
        try:
            await log.submit("warm", inputs=[{"stream": "in"}], operators=[{"op": "take", "count": 1}])
            await log.until("warm")
            for name, operators in cases.items():
                began = time.perf_counter()
                await log.submit(name, inputs=[{"stream": "in", "time": "$.t"}], operators=operators)
                await log.until(name)
                rows.append((name, f"{chunks / (time.perf_counter() - began):,.0f}"))
        finally:
            worker.end()
    return table("A whole pipeline over a finished stream", ("", "chunks/s"), rows)


async def _restore(bootstrap: str) -> str:
    """From the start of a process to the first output of a job that remembers 100,000 keys."""
    rows = []
    async with Log.open(bootstrap) as log:
        author = Author("in")
        chunks = chunks_of([{"k": at} for at in range(RESTORED)])[:-1]
        runs = [author.run(chunks[at : at + 256]) for at in range(0, RESTORED, 256)]
        await log.append("in", author.claim(0), *runs)
        await log.submit("out", inputs=[{"stream": "in"}], operators=[{"op": "distinct", "key": "$.k"}])
        worker = Worker(log, "bench")
        worker.start()
        try:
            count = RESTORED
            await log.until("out", count)
            for _ in range(ROUNDS):
                worker.end(signal.SIGKILL)
                await log.append("in", author.run(chunks_of([{"k": count}], closed=False)))
                began = time.perf_counter()
                worker.start()
                count += 1
                await log.until("out", count)
                rows.append(time.perf_counter() - began)
        finally:
            worker.end()
    title = f"Restart after a kill with {RESTORED:,} keys of state ({os.cpu_count()} cores)"
    return table(title, ("", "median s"), [("start of the process to the next output", statistics.median(rows))])
