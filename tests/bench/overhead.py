"""What metrics and tracing cost on a chunk's real path: plugin process, runner, Kafka, gateway, socket.

Two systems on one broker, each of processes of its own. One counts, is scraped every second, and exports its spans over OTLP; the
other does none of it. Rounds alternate; what is compared is the CPU time of runner, plugin process and gateway.
"""

import asyncio
import os
import statistics
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import msgspec
import psutil
import websockets
from tests.bench.measure import median_ratio, table
from tests.support.system import ALL, free_ports, processes

from apexstream.log.broker import EmbeddedBroker
from apexstream.runtime.settings import Settings

ROUNDS = 8
WAYS = {"500 a second": (2_000, 0.002), "as fast as it goes": (150_000, 0.0)}
ENTRIES = {True: "apexstream", False: "tests.bench.silent"}
ON_THE_PATH = ("runner", "gateway")


async def run(rounds: int = ROUNDS) -> str:
    """All rounds, and the table."""
    rows = []
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home), Settings().cache_path, port=0) as broker:
        bootstrap = broker.bootstrap_servers
        async with _counting(bootstrap) as counting, _silent(bootstrap) as silent:
            for way, (count, interval_s) in WAYS.items():
                pairs = []
                for number in range(-1, rounds):  # the first one warms up
                    order = (True, False) if number % 2 else (False, True)
                    took = {on: await _round(counting if on else silent, on, count, interval_s) for on in order}
                    pairs.append((took[True], took[False]))
                on, off = zip(*pairs[1:], strict=True)
                each_us = statistics.median(on) / count * 1e6
                rows.append(
                    [way, each_us, statistics.median(off) / count * 1e6, f"{(median_ratio(on, off) - 1) * 100:+.1f} %"]
                )
    header = ["chunks", "CPU a chunk, µs", "without, µs", "metrics and tracing (median of pairs)"]
    return table("Metrics and tracing on the real path of a chunk", header, rows)


@asynccontextmanager
async def _counting(bootstrap: str) -> AsyncIterator[str]:
    ports = dict(zip(ALL, free_ports(len(ALL)), strict=True))
    with _collector() as spans:
        exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": spans, "OTEL_BSP_SCHEDULE_DELAY": "1000"}
        async with processes(bootstrap, "counting.", metrics_ports=ports, **exporting) as url:
            scraping = asyncio.create_task(_scrape(list(ports.values())))
            try:
                yield url
            finally:
                scraping.cancel()
                await asyncio.gather(scraping, return_exceptions=True)


@asynccontextmanager
async def _silent(bootstrap: str) -> AsyncIterator[str]:
    async with processes(bootstrap, "silent.", entry=ENTRIES[False], OTEL_SDK_DISABLED="true") as url:
        yield url


async def _scrape(ports: list[int]) -> None:
    async with httpx.AsyncClient() as http:
        while True:
            await asyncio.gather(*(http.get(f"http://127.0.0.1:{port}/metrics", timeout=30) for port in ports))
            await asyncio.sleep(1.0)


@contextmanager
def _collector() -> Iterator[str]:
    """Takes spans and drops them."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


async def _round(url: str, on: bool, count: int, interval_s: float) -> float:
    """CPU seconds of the processes on the path, from the submission of a stream to its end at a viewer."""
    before = _cpu_s(on)
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:
        params = {"n": count, "interval_s": interval_s, "pad": 150}
        task = (await http.post("/tasks", json={"plugin": "probe", "action": "count", "params": params})).json()
    async with websockets.connect(f"ws{url.removeprefix('http')}/stream", max_size=None, compression=None) as socket:
        command = {"type": "subscribe", "stream_id": task["stream_id"], "batches": True}
        await socket.send(msgspec.json.encode(command).decode())
        while b'"stream_complete"' not in await socket.recv(decode=False):
            pass
    return _cpu_s(on) - before


def _cpu_s(on: bool) -> float:
    total = 0.0
    for service in psutil.Process(os.getpid()).children():
        words = service.cmdline()
        if words[-1] in ON_THE_PATH and ENTRIES[on] in words:
            for process in (service, *service.children(recursive=True)):
                times = process.cpu_times()
                total += times.user + times.system
    return total
