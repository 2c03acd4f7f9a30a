"""The gateway under a crowd: one stream for all, a stream each, all coming back at once, and clients that stop reading.

The crowd, whoever writes, the broker and the gateway are processes of their own. With ``CENTRIFUGO`` set to a binary of
Centrifugo v6 the same messages go through it in turn, from the same broker, to the same crowd. ``gateway:100`` has 100 clients
instead of 1,000.
"""

import asyncio
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench.flood import Flood
from tests.bench.measure import table
from tests.bench.processes import usage_of
from tests.support.gateways import GatewayProcess
from tests.support.streams import CODEC, NOW_US

from apexstream.contracts.catalogue import load_catalogue
from apexstream.core.events import TaskSubmitted
from apexstream.log import admin
from apexstream.log.broker import EmbeddedBroker
from apexstream.log.connection import connection
from apexstream.log.writer import Writer
from apexstream.runtime.settings import Settings

SECONDS = 6.0
RATE_EACH = 1_000
RATE_OWN = 60  # a stream; of 1,000 clients that is 60,000 a second
BEHIND = 1_000
STOPPED_S = 7.0
RATE_STOPPED, READERS = 60_000, 50  # messages a second in all, as many as all can take while they read
APEX_MARK, CENTRIFUGO_MARK = '"type":"stream_update"', '"pub":{'


@dataclass(frozen=True, slots=True)
class Server:
    """What a crowd connects to."""

    name: str
    pid: int
    port: int
    path: str
    mark: str
    answer: str
    pings: str
    says: Callable[[str], list[str]]

    def crowd(self, streams: list[str], **more: Any) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "path": self.path,
            "mark": self.mark,
            "answer": self.answer,
            "pings": self.pings,
            "says": [self.says(stream) for stream in streams],
            **more,
        }


class Process:
    """One of our own modules in another process; it says JSON, a line each."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def hear(self, timeout_s: float = 120) -> dict[str, Any]:
        assert self.process.stdout is not None
        async with asyncio.timeout(timeout_s):
            line = await self.process.stdout.readline()
        assert line, "a process of the benchmark ended"
        return dict(json.loads(line))


@asynccontextmanager
async def process(module: str, wanted: dict[str, Any]) -> AsyncIterator[Process]:
    pipe = asyncio.subprocess.PIPE
    made = await asyncio.create_subprocess_exec(sys.executable, "-m", f"tests.bench.{module}", stdin=pipe, stdout=pipe)
    talking = Process(made)
    await talking.say(json.dumps(wanted))
    try:
        yield talking
    finally:
        if made.returncode is None:
            made.kill()
        await made.wait()


async def pour(flood: Flood) -> float:
    async with process("flood", asdict(flood)) as pouring:
        return float((await pouring.hear())["rate"])


async def submit(bootstrap: str, streams: list[str]) -> None:
    async with Writer(connection(Settings(bootstrap_servers=bootstrap)), client_id="bench", timeout_s=30) as writer:
        await writer.prepare("apex.tasks.normal")
        for stream in streams:
            task = TaskSubmitted(
                task_id=stream, plugin="p", action="a", params=b"{}", tier="normal", submitted_us=NOW_US
            )
            await writer.append("apex.tasks.normal", stream.encode(), CODEC.encode(task))


async def relay(
    server: Server, bootstrap: str, topic: str, streams: list[str], clients: list[str], flood: dict[str, Any]
) -> list[object]:
    """What ``clients`` get while ``streams`` are written: a row of the table."""
    if server.name == "ApexStream":
        await submit(bootstrap, streams)
    async with process("crowd", server.crowd(clients)) as crowd:
        await crowd.hear()
        await asyncio.sleep(1)
        connected = usage_of(server.pid)
        await crowd.say("count")
        asked = flood["rate"]
        rate = await pour(Flood(bootstrap, topic, streams, channel=server.name != "ApexStream", **flood))
        await asyncio.sleep(0.5)
        after = usage_of(server.pid)
        await crowd.say("report")
        heard = await crowd.hear()
    offered = flood["seconds"] * asked * len(clients) / len(streams)
    return [
        server.name,
        rate / asked,
        heard["counted"] / offered,
        heard["counted"] / max(heard["took"], 0.001),
        (after.cpu_s - connected.cpu_s) * 1e6 / max(1, heard["counted"]),
        heard["p50"],
        heard["p99"],
        heard["closed"],
    ]


HEADER = ["", "written", "delivered", "deliveries/s", "CPU µs each", "p50 ms", "p99 ms", "closed"]
"""The first two are shares of what was offered."""


async def one_for_all(servers: list[Server], bootstrap: str, clients: int) -> str:
    rows = []
    for server in servers:
        topic = "apex.chunks" if server.name == "ApexStream" else "centrifugo"
        flood = {"rate": RATE_EACH, "seconds": SECONDS}
        rows.append(await relay(server, bootstrap, topic, ["all"], ["all"] * clients, flood))
    return table(f"{clients} clients on one stream, {RATE_EACH} messages a second each", HEADER, rows)


async def one_each(servers: list[Server], bootstrap: str, clients: int) -> str:
    rows, streams = [], [f"own{number}" for number in range(clients)]
    for server in servers:
        topic = "apex.chunks" if server.name == "ApexStream" else "centrifugo"
        flood = {"rate": RATE_OWN * clients, "seconds": SECONDS, "run": 4 if server.name == "ApexStream" else 1}
        rows.append(await relay(server, bootstrap, topic, streams, streams, flood))
    return table(f"{clients} clients with a stream each, {RATE_OWN * clients} messages a second in all", HEADER, rows)


async def idle(servers: list[Server], bootstrap: str, clients: int) -> str:
    """What a connection costs that waits for a stream. The first ones also pay for code that never ran before, and for memory
    that a process asks for in large pieces; so what counts is what many more cost."""
    rows = []
    for server in servers:
        if server.name == "ApexStream":
            await submit(bootstrap, ["idle"])
        used = [usage_of(server.pid).rss_mb]
        crowds = [clients // 4, 2 * clients]
        async with AsyncExitStack() as stack:
            for count in crowds:
                await asyncio.sleep(2)  # for more newcomers at once the gateway has no room
                crowd = await stack.enter_async_context(process("crowd", server.crowd(["idle"] * count)))
                await crowd.hear()
                await asyncio.sleep(1)
                used.append(usage_of(server.pid).rss_mb)
        rows.append([server.name, *((used[at + 1] - used[at]) * 1024 / count for at, count in enumerate(crowds))])
    header = ["", f"KB each of the first {crowds[0]}", f"KB each of {crowds[1]} more"]
    return table("Idle connections", header, rows)


async def storm(server: Server, bootstrap: str, clients: int) -> str:
    """All connect at once; each has ``BEHIND`` chunks to catch up with, of one stream or of its own."""
    rows = []
    for name, streams in (
        ("one stream", ["storm"]),
        ("a stream each", [f"storm{number}" for number in range(clients)]),
    ):
        await submit(bootstrap, streams)
        total = BEHIND * len(streams)
        await pour(Flood(bootstrap, "apex.chunks", streams, total, 1.0, run=250, burst=True))
        await asyncio.sleep(3)  # the archiver seals what is full
        wanted = (streams * clients)[:clients]
        before = usage_of(server.pid)
        async with process("crowd", server.crowd(wanted, wanted=BEHIND)) as crowd:
            ready = await crowd.hear()
            done = await crowd.hear()
        after = usage_of(server.pid)
        rows.append(
            [
                name,
                ready["ready"],
                done["done"],
                after.cpu_s - before.cpu_s,
                after.rss_mb - before.rss_mb,
                done["closed"],
            ]
        )
    header = ["", "all subscribed s", "all caught up s", "CPU s", "memory MB", "closed"]
    return table(f"{clients} clients come back at once, each {BEHIND} chunks behind", header, rows)


async def stopped(server: Server, bootstrap: str, clients: int) -> str:
    """Some of the clients stop reading while a stream goes on; what becomes of them, and of the others."""
    rows = []
    for count in (20, clients):
        name = f"stop{count}"
        await submit(bootstrap, [name])
        tiny = server.crowd([name] * count, receive_bytes=4096)
        others = server.crowd([name] * READERS)
        async with process("crowd", tiny) as stopping, process("crowd", others) as reading:
            await asyncio.gather(stopping.hear(), reading.hear())
            rate = RATE_STOPPED // (count + READERS)
            flood = Flood(bootstrap, "apex.chunks", [name], rate, 14.0, pad=800)
            pouring = asyncio.create_task(pour(flood))
            await asyncio.sleep(2)
            await reading.say("count")
            await asyncio.sleep(3)
            await reading.say("report")
            before, open_before, usage_before = await reading.hear(), descriptors(server.pid), usage_of(server.pid)
            await stopping.say(f"stop {count}")
            await reading.say("count")
            freed_s, most_mb = await freed(server.pid, open_before - count, usage_before.rss_mb)
            await reading.say("report")
            during = await reading.hear()
            await pouring
        rows.append([
            count, freed_s, most_mb - usage_before.rss_mb, before["p50"], during["p50"], during["p50"] / before["p50"],
            during["p99"] / before["p99"], during["closed"],
        ])  # fmt: skip
    header = [
        "stopped",
        "all freed after s",
        "memory at most + MB",
        "p50 before ms",
        "p50 then ms",
        "ratio",
        "ratio p99",
        "others closed",
    ]
    return table(
        f"Clients that stop reading, {RATE_STOPPED} messages of 900 bytes a second in all, {READERS} others",
        header,
        rows,
    )


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - only their number


async def freed(pid: int, wanted: int, rss_mb: float) -> tuple[float, float]:
    """Seconds until the process has at most ``wanted`` descriptors, and the most memory meanwhile."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while descriptors(pid) > wanted + 2 and loop.time() - began < 3 * STOPPED_S:
        rss_mb = max(rss_mb, usage_of(pid).rss_mb)
        await asyncio.sleep(0.05)
    return loop.time() - began, rss_mb


@asynccontextmanager
async def centrifugo(binary: str, bootstrap: str, home: Path) -> AsyncIterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {
        "client": {"insecure": True},
        "http_server": {"port": port, "address": "127.0.0.1"},
        "log": {"level": "error"},
        "consumers": [
            {
                "enabled": True,
                "name": "bench",
                "type": "kafka",
                "kafka": {"brokers": [bootstrap], "topics": ["centrifugo"], "consumer_group": "bench"},
            }
        ],
    }
    (home / "centrifugo.json").write_text(json.dumps(settings))
    running = await asyncio.create_subprocess_exec(binary, "-c", str(home / "centrifugo.json"))
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.1)
                    continue
                writer.close()
                break
        await asyncio.sleep(5)  # its consumer group
        yield Server(
            "Centrifugo", running.pid, port, "/connection/websocket", CENTRIFUGO_MARK, '"subscribe":{', "\x02",
            lambda stream: ['{"id":1,"connect":{}}\n' + json.dumps({"id": 2, "subscribe": {"channel": stream}})],
        )  # fmt: skip
    finally:
        running.terminate()
        await running.wait()


async def prepare(bootstrap: str) -> None:
    await admin.apply(load_catalogue(), connection(Settings(bootstrap_servers=bootstrap)))


async def run(clients: int = 1_000) -> str:
    """All tables."""
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home), Settings().cache_path, port=0) as broker:
        bootstrap, folder = broker.bootstrap_servers, Path(home)
        await prepare(bootstrap)
        gateway = GatewayProcess(bootstrap, "apex.", folder)
        archiver = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "apexstream", "serve", "archiver", env=gateway.environ
        )
        await gateway.start()
        assert gateway.process is not None
        apex = Server(
            "ApexStream", gateway.process.pid, gateway.port, "/stream", APEX_MARK, '"type":"subscribed"', "\x89",
            lambda stream: [f'{{"type":"subscribe","id":1,"stream_id":"{stream}"}}'],
        )  # fmt: skip
        try:
            async with servers(apex, bootstrap, folder) as both:
                tables = [
                    await idle(both, bootstrap, clients),
                    await one_for_all(both, bootstrap, clients),
                    await one_each(both, bootstrap, clients),
                ]
            tables.append(await storm(apex, bootstrap, clients))
            tables.append(await stopped(apex, bootstrap, clients))
            return "\n".join(tables)
        finally:
            archiver.terminate()
            await archiver.wait()
            await gateway.end()


@asynccontextmanager
async def servers(apex: Server, bootstrap: str, folder: Path) -> AsyncIterator[list[Server]]:
    binary = os.environ.get("CENTRIFUGO", "")
    if not binary:
        yield [apex]
        return
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    kafka = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await kafka.start()
    await kafka.create_topics([NewTopic("centrifugo", 12, 1)])
    await kafka.close()
    async with centrifugo(binary, bootstrap, folder) as other:
        yield [apex, other]
