"""Gateways as processes of their own, to be killed and started again at the same address."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from tests.support.system import START_TIMEOUT_S, free_ports

from apexstream.contracts.catalogue import load_catalogue
from apexstream.log import admin


class Service:
    """One service; a gateway if ``port`` is given."""

    def __init__(self, name: str, environment: dict[str, str], port: int = 0) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "apexstream", "serve", name]
        self._environment = environment | ({"APEX_PORT": str(port)} if port else {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, env=self._environment)

    async def ready(self) -> None:
        async with asyncio.timeout(START_TIMEOUT_S), httpx.AsyncClient() as http:
            while True:
                try:
                    if (await http.get(f"{self.url}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass  # not listening yet
                await asyncio.sleep(0.1)

    def kill(self) -> None:
        """As ``kill -9``."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)


@asynccontextmanager
async def gateways(kafka: str, prefix: str, home: str, count: int = 2, **more: str) -> AsyncIterator[list[Service]]:
    """``count`` gateways with one key for cursors, and an archiver; ``more`` is environment."""
    await admin.apply([topic.renamed(prefix) for topic in load_catalogue()], kafka)
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "APEX_TOPIC_PREFIX": prefix,
        "APEX_HOME": home,
        "APEX_LOG_LEVEL": "error",
        "APEX_METRICS_PORT": "0",
        **more,
    }
    archiver = Service("archiver", environment)
    started = [Service("gateway", environment, port) for port in free_ports(count)]
    try:
        for service in (archiver, *started):
            service.start()
        for service in started:
            await service.ready()
        yield started
    finally:
        for service in (archiver, *started):
            service.stop()
