"""A gateway of several processes on one port: the kernel spreads connections over those that listen (SO_REUSEPORT).

The process that was started holds the port, starts the workers, starts those again that die, and stops them all. It serves
nothing itself. A worker that dies takes its own connections with it, and the others get what comes then.
"""

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable
from functools import partial

import structlog

from apexstream.core.errors import InvalidConfiguration, Unavailable
from apexstream.gateway.build import serve_one
from apexstream.runtime.health import HEALTH
from apexstream.runtime.lifecycle import Serve, run_service
from apexstream.runtime.logs import configure_logs
from apexstream.runtime.meters import METERS
from apexstream.runtime.probes import expose
from apexstream.runtime.settings import Settings, load_settings
from apexstream.runtime.supervise import run_until
from apexstream.runtime.tracing import exported

START_TIMEOUT_S = 120.0
RESTART_DELAY_MIN_S = 0.2
RESTART_DELAY_MAX_S = 10.0
SCRAPE_TIMEOUT_S = 3.0
STEADY_S = 10.0  # a worker that ran for so long had started well

_LINE_BYTES_MAX = 256
_OPEN_METRICS = "application/openmetrics-text; version=1.0.0"

_log = structlog.get_logger(__name__)


async def serve_workers(settings: Settings, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Run the workers until ``stop``; ``ready`` is called with the base URL once all of them are."""
    with reserve(settings.host, settings.port) as port:
        workers = [_Worker(number, settings, port) for number in range(settings.gateway_workers)]

        async def tell() -> None:
            await asyncio.gather(*(worker.ready.wait() for worker in workers))
            ready(f"http://{settings.host}:{port}")
            await asyncio.Event().wait()

        def pages() -> dict[str, str]:
            return {str(each.number): page for each in workers if (page := each.metrics())}

        METERS.beside.append(pages)
        uncheck = HEALTH.check("workers", lambda: ", ".join(each.trouble() for each in workers if each.trouble()))
        try:
            await run_until(stop, *(worker.run() for worker in workers), tell())
        finally:
            uncheck()
            METERS.beside.remove(pages)


class _Worker:
    """One place of the gateway, and whichever process fills it."""

    def __init__(self, number: int, settings: Settings, port: int) -> None:
        self.ready = asyncio.Event()
        self.number = number
        self._probes = ""  # where its metrics and health are; empty while it does not serve
        self._settings = settings
        self._port = port

    async def run(self) -> None:
        """Until cancelled. Raises :class:`Unavailable` if the first process never becomes ready."""
        delay_s = RESTART_DELAY_MIN_S
        while True:
            began = asyncio.get_running_loop().time()
            status = await self._live()
            if not self.ready.is_set():
                raise Unavailable(f"worker {self.number} ended with status {status}", hint="Its log says why")
            _log.error("a worker died, and is started again", worker=self.number, status=status, delay_s=delay_s)
            await asyncio.sleep(delay_s)
            steady = asyncio.get_running_loop().time() - began > STEADY_S
            delay_s = RESTART_DELAY_MIN_S if steady else min(2 * delay_s, RESTART_DELAY_MAX_S)

    def metrics(self) -> str:
        """Its page of metrics; empty if it gives none. Called from another thread."""
        if not self._probes:
            return ""
        request = urllib.request.Request(f"{self._probes}/metrics", headers={"Accept": _OPEN_METRICS})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=SCRAPE_TIMEOUT_S) as answer:  # noqa: S310 - our own worker
                return str(answer.read(), "utf-8")
        except OSError:
            return ""  # it ends, or is too busy: the others are shown

    def trouble(self) -> str:
        """Why it does not serve; empty while it does."""
        return "" if self._probes or self._settings.metrics_port == "off" else f"worker {self.number} is not ready"

    async def _live(self) -> int:
        """Start a process and wait for its end: its exit status."""
        ours, its = socket.socketpair()
        with ours, its:
            environ = os.environ | {"KAFKA_BOOTSTRAP_SERVERS": self._settings.bootstrap_servers}
            if self._settings.instance:
                environ["APEX_INSTANCE"] = f"{self._settings.instance}.{self.number}"
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", __name__, str(self._port), str(its.fileno()),
                env=environ, pass_fds=[its.fileno()],
            )  # fmt: skip
            its.close()
            ours.setblocking(False)
            try:
                if said := await self._said_ready(ours):
                    self._probes = said.strip().decode()
                    self.ready.set()
                return await process.wait()
            finally:
                self._probes = ""
                await self._end(process)

    async def _said_ready(self, line: socket.socket) -> bytes:
        """What it said once it was ready: the URL of its metrics and health, if any, in a line. Nothing: it was not."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(START_TIMEOUT_S):
                return await asyncio.get_running_loop().sock_recv(line, _LINE_BYTES_MAX)
        return b""

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


class reserve:  # noqa: N801 - reads as a verb: with reserve(host, port) as port
    """Hold a port for workers, so that none but they can have it. Raises :class:`InvalidConfiguration` if it is taken."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._held: socket.socket | None = None

    def __enter__(self) -> int:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # Two gateways that share their ports among workers could bind the same one unnoticed: one that shares nothing cannot.
        for shared in (False, True):
            held = socket.socket(family, socket.SOCK_STREAM)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            try:
                held.bind((self._host, self._port))
                if not shared:
                    held.listen(1)
                self._port = held.getsockname()[1]
            except OSError as problem:
                held.close()
                why = "the port is taken" if problem.errno == errno.EADDRINUSE else os.strerror(problem.errno or 0)
                where, hint = f"{self._host}:{self._port}", "Choose another with APEX_PORT or --port"
                raise InvalidConfiguration(why, where=where, hint=hint) from problem
            if shared:
                self._held = held
            else:
                held.close()
        return self._port

    def __exit__(self, *_: object) -> None:
        if self._held is not None:
            self._held.close()


def _worker(port: int, line: socket.socket) -> None:
    """This process is a worker, until it is told to stop, or whoever started it is gone."""
    settings = load_settings()
    # Whoever looks sees one gateway: the process that started this one shows its metrics, with the number as a label.
    probes = {"metrics_host": "127.0.0.1", "metrics_port": "off" if settings.metrics_port == "off" else 0}
    settings = settings.model_copy(update={"port": port, "gateway_workers": 1, **probes})
    configure_logs(settings, service="gateway")

    def tie(stop: Callable[[], None]) -> None:
        def wait() -> None:
            line.recv(1)  # nothing is ever said: it returns when the other end is closed
            stop()

        threading.Thread(target=wait, name="line to the supervisor", daemon=True).start()

    serve: Serve = partial(serve_one, shared=True)
    with exported("gateway"), expose("gateway", settings) as url:
        run_service(serve, settings, ready=lambda _: line.sendall(f"{url}\n".encode()), tie=tie)


if __name__ == "__main__":
    _worker(int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
