"""Several processes on one port: they share the clients, one that dies is replaced, and all say goodbye."""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
import websockets
from prometheus_client.parser import text_string_to_metric_families
from tests.support.archive import rig
from tests.support.gateways import GatewayProcess, gateways
from tests.support.streams import CODEC, NOW_US, Author, append, numbered
from tests.support.system import free_ports
from websockets.exceptions import InvalidStatus

from apexstream.core.events import TaskSubmitted

CLIENTS = 24
SOCKETS_MAX = 24  # of each worker
TRIES_MAX = 1_000


def workers_of(gateway: GatewayProcess) -> set[int]:
    assert gateway.process is not None
    return {child.pid for child in psutil.Process(gateway.process.pid).children()}


def owners(port: int, pids: set[int], status: str = psutil.CONN_ESTABLISHED) -> set[int]:
    """Who has connections to ``port``, or listens there."""
    return {
        pid
        for pid in pids
        for each in psutil.Process(pid).net_connections()
        if each.status == status and each.laddr.port == port
    }


async def viewer(url: str) -> websockets.ClientConnection:
    socket = await websockets.connect(f"ws{url.removeprefix('http')}/stream", compression=None)
    await socket.send(msgspec.json.encode({"type": "subscribe", "stream_id": "shared"}).decode())
    return socket


async def fill(url: str, count: int) -> list[websockets.ClientConnection]:
    """So many more viewers, wherever the kernel sends them: a worker that is full refuses."""
    made: list[websockets.ClientConnection] = []
    for _ in range(TRIES_MAX):
        with contextlib.suppress(InvalidStatus):
            made.append(await viewer(url))
        if len(made) == count:
            return made
    raise AssertionError(f"after {TRIES_MAX} tries {len(made)} of {count} are connected")


async def test_workers_share_clients_are_replaced_and_say_goodbye(kafka: str, topic_prefix: str, tmp_path: Path):
    (metrics_port,) = free_ports(1)
    settings = {
        "APEX_GATEWAY_WORKERS": "2",
        "APEX_METRICS_PORT": str(metrics_port),
        "APEX_SOCKETS_MAX": str(SOCKETS_MAX),
        "APEX_SOCKETS_PER_S": "1000",
    }
    async with (
        rig(kafka, topic_prefix) as made,
        gateways(1, kafka, topic_prefix, tmp_path, **settings) as (gateway,),
    ):
        await made.writer.prepare(made.topic("tasks.normal"))
        task = TaskSubmitted(task_id="shared", plugin="p", action="a", params=b"{}", tier="normal", submitted_us=NOW_US)
        await made.writer.append(made.topic("tasks.normal"), b"shared", CODEC.encode(task))
        author = Author("shared")
        await append(made.writer, made.topic("chunks"), "shared", [author.claim(0), author.run(numbered(3))])
        before = workers_of(gateway)
        async with asyncio.timeout(60):
            while owners(gateway.port, before, psutil.CONN_LISTEN) != before:  # ready is whoever is ready first
                await asyncio.sleep(0.05)
            sockets = await asyncio.gather(*(viewer(gateway.url) for _ in range(CLIENTS)))
            for socket in sockets:
                assert [msgspec.json.decode(await socket.recv())["seq"] for _ in range(3)] == [0, 1, 2]
            assert owners(gateway.port, before) == before
            assert (await ready(metrics_port))["checks"]["workers"] == "ok"
            shown = await metrics(metrics_port, "apexstream_gateway_viewers")
            assert sum(shown.values()) == CLIENTS
            assert shown.keys() == {"0", "1"}

            others = await fill(gateway.url, 2 * SOCKETS_MAX - CLIENTS)  # each worker counts for itself
            for _ in range(10):
                with pytest.raises(InvalidStatus, match="503"):
                    await viewer(gateway.url)
            await asyncio.gather(*(other.close() for other in others))

            victim = min(before)
            psutil.Process(victim).send_signal(signal.SIGKILL)
            while not workers_of(gateway) - before:
                await asyncio.sleep(0.05)

            assert await gateway.end(signal.SIGTERM) == 0
            codes = await asyncio.gather(*(closed(socket) for socket in sockets))
        assert codes.count(4000) + codes.count(1006) == CLIENTS
        assert min(codes.count(4000), codes.count(1006)) >= 1
        assert not any(psutil.pid_exists(pid) for pid in before)


async def metrics(port: int, name: str) -> dict[str, float]:
    """A metric of the gateway by worker, as Prometheus reads it."""
    async with httpx.AsyncClient() as http:
        page = (await http.get(f"http://127.0.0.1:{port}/metrics", timeout=30)).text
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    found: dict[str, float] = {}
    for sample in samples:
        if sample.name == name and "worker" in sample.labels:
            found[sample.labels["worker"]] = found.get(sample.labels["worker"], 0) + sample.value
    return found


async def ready(port: int) -> dict[str, Any]:
    """What readiness says once it is well: a worker is ready a moment after it listens."""
    async with asyncio.timeout(60), httpx.AsyncClient() as http:
        while not (answer := await http.get(f"http://127.0.0.1:{port}/readyz", timeout=30)).is_success:
            await asyncio.sleep(0.1)
    report: dict[str, Any] = answer.json()
    return report


async def closed(socket: websockets.ClientConnection) -> int | None:
    await socket.wait_closed()
    return socket.close_code
