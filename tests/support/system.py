"""A whole ApexStream as separate processes, as users run it."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from apexstream.contracts.catalogue import load_catalogue
from apexstream.log import admin
from apexstream.log.broker import EmbeddedBroker
from apexstream.runtime.settings import Settings

PLUGINS = Path(__file__).with_name("plugins")
START_TIMEOUT_S = 60
ALL = ("gateway", "dispatcher", "runner", "archiver")


@asynccontextmanager
async def own_broker(*services: str) -> AsyncIterator[tuple[str, str]]:
    """Run a broker and ``services``; give (gateway URL, bootstrap servers)."""
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home), Settings().cache_path, port=0) as broker:
        async with processes(broker.bootstrap_servers, "apex.", *services) as url:
            yield url, broker.bootstrap_servers


@asynccontextmanager
async def processes(bootstrap: str, prefix: str, *services: str) -> AsyncIterator[str]:
    """Run ``services`` on a broker with topics of their own; give the gateway's URL."""
    await admin.apply([topic.renamed(prefix) for topic in load_catalogue()], bootstrap)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "APEX_TOPIC_PREFIX": prefix,
        "APEX_PORT": str(port),
        "APEX_LOG_LEVEL": "warning",
        "PYTHONPATH": os.pathsep.join([str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    started = [
        subprocess.Popen([sys.executable, "-m", "apexstream", "serve", name], env=environ) for name in services or ALL
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


async def _answering(url: str) -> None:
    async with asyncio.timeout(START_TIMEOUT_S), httpx.AsyncClient() as http:
        while True:
            try:
                if (await http.get(f"{url}/actions")).json()["actions"]:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            await asyncio.sleep(0.1)
