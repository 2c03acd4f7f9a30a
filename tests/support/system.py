"""A whole ApexStream as separate processes, as users run it."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType

import httpx

from apexstream.contracts.catalogue import load_catalogue
from apexstream.log import admin
from apexstream.log.broker import EmbeddedBroker
from apexstream.runtime.settings import SHARED_PARTITIONS, Settings

PLUGINS = Path(__file__).with_name("plugins")
START_TIMEOUT_S = 60
ALL = ("gateway", "dispatcher", "runner", "archiver")


@asynccontextmanager
async def own_broker(*services: str, **more: str) -> AsyncIterator[tuple[str, str]]:
    """Run a broker and ``services``; give (gateway URL, bootstrap servers). ``more`` is environment."""
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home), Settings().cache_path, port=0) as broker:
        async with processes(broker.bootstrap_servers, "apex.", *services, **more) as url:
            yield url, broker.bootstrap_servers


@asynccontextmanager
async def processes(
    bootstrap: str,
    prefix: str,
    *services: str,
    metrics_ports: Mapping[str, int] = MappingProxyType({}),
    entry: str = "apexstream",
    **more: str,
) -> AsyncIterator[str]:
    """Run ``services`` on a broker with topics of their own; give the gateway's URL. ``more`` is environment, ``entry`` the
    module that is run."""
    partitions = int((os.environ | more).get("APEX_PARTITIONS", SHARED_PARTITIONS))
    await admin.apply([topic.renamed(prefix) for topic in load_catalogue(partitions=partitions)], bootstrap)
    (port,) = free_ports(1)
    environ = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "APEX_TOPIC_PREFIX": prefix,
        "APEX_PORT": str(port),
        "APEX_LOG_LEVEL": "warning",
        "PYTHONPATH": os.pathsep.join([str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        **more,
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", entry, "serve", name],
            env=environ | {"APEX_METRICS_PORT": str(metrics_ports.get(name, 0))},
        )
        for name in services or ALL
    ]
    url = f"http://127.0.0.1:{port}"
    try:
        await _answering(url)
        yield url
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


async def _answering(url: str) -> None:
    async with asyncio.timeout(START_TIMEOUT_S), httpx.AsyncClient() as http:
        while True:
            try:
                if (await http.get(f"{url}/actions")).json()["actions"]:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            await asyncio.sleep(0.1)
