"""Gateways as processes that a test kills, and a road to them that it breaks."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

START_TIMEOUT_S = 60


class GatewayProcess:
    """`apexstream serve gateway` on a port that stays the same when it is started again."""

    def __init__(self, kafka: str, prefix: str, home: Path, **environ: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.environ = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "APEX_TOPIC_PREFIX": prefix,
            "APEX_HOME": str(home),
            "APEX_PORT": str(self.port),
            "APEX_LOG_LEVEL": "warning",
            **environ,
        }

    async def start(self) -> None:
        """Returns once it is ready."""
        command = [sys.executable, "-m", "apexstream", "serve", "gateway"]
        self.process = subprocess.Popen(command, env=self.environ)
        async with asyncio.timeout(START_TIMEOUT_S), httpx.AsyncClient() as http:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await http.get(f"{self.url}/readyz")).is_success:
                        return
                assert self.process.poll() is None, "the gateway ended"
                await asyncio.sleep(0.05)

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        return await asyncio.to_thread(self.process.wait, 30)


@asynccontextmanager
async def gateways(
    count: int, kafka: str, prefix: str, home: Path, **environ: str
) -> AsyncIterator[list[GatewayProcess]]:
    """``count`` of them, ready."""
    made = [GatewayProcess(kafka, prefix, home, **environ) for _ in range(count)]
    try:
        await asyncio.gather(*(one.start() for one in made))
        yield made
    finally:
        for one in made:
            if one.process is not None and one.process.poll() is None:
                await one.end()


class Road:
    """A TCP proxy to any of several ports, chosen anew for each connection, that :meth:`tear` breaks."""

    def __init__(self, ports: Sequence[int], rng: random.Random) -> None:
        self._ports = ports
        self._rng = rng
        self._writers: set[asyncio.StreamWriter] = set()
        self.torn = 0
        self.torn_again = asyncio.Event()  # set and unset at once: for those who wait
        self.url = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Road"]:
        """Accept connections."""
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self
            self.tear()

    def tear(self) -> bool:
        """Break every connection, without a farewell; False if there was none."""
        if not self._writers:
            return False
        self.torn += 1
        self.torn_again.set()
        self.torn_again.clear()
        for writer in self._writers:
            writer.transport.abort()
        return True

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", self._rng.choice(self._ports))
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there}
        try:
            await asyncio.gather(_pump(reader, there), _pump(there_reader, writer))
        finally:
            self._writers -= {writer, there}
            writer.transport.abort()
            there.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
