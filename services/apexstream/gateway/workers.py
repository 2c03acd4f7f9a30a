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
from collections.abc import Callable
from functools import partial

import structlog

from apexstream.core.errors import InvalidConfiguration, Unavailable
from apexstream.gateway.build import serve_one
from apexstream.runtime.lifecycle import Serve, run_service
from apexstream.runtime.logs import configure_logs
from apexstream.runtime.probes import expose
from apexstream.runtime.settings import Settings, load_settings
from apexstream.runtime.supervise import run_until
from apexstream.runtime.tracing import exported

START_TIMEOUT_S = 120.0
RESTART_DELAY_MIN_S = 0.2
RESTART_DELAY_MAX_S = 10.0
STEADY_S = 10.0  # a worker that ran for so long had started well

_log = structlog.get_logger(__name__)


async def serve_workers(settings: Settings, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Run the workers until ``stop``; ``ready`` is called with the base URL once all of them are."""
    with reserve(settings.host, settings.port) as port:
        workers = [_Worker(number, settings, port) for number in range(settings.gateway_workers)]

        async def tell() -> None:
            await asyncio.gather(*(worker.ready.wait() for worker in workers))
            ready(f"http://{settings.host}:{port}")
            await asyncio.Event().wait()

        await run_until(stop, *(worker.run() for worker in workers), tell())


class _Worker:
    """One place of the gateway, and whichever process fills it."""

    def __init__(self, number: int, settings: Settings, port: int) -> None:
        self.ready = asyncio.Event()
        self._number = number
        self._settings = settings
        self._port = port

    async def run(self) -> None:
        """Until cancelled. Raises :class:`Unavailable` if the first process never becomes ready."""
        delay_s = RESTART_DELAY_MIN_S
        while True:
            began = asyncio.get_running_loop().time()
            status = await self._live()
            if not self.ready.is_set():
                raise Unavailable(f"worker {self._number} ended with status {status}", hint="Its log says why")
            _log.error("a worker died, and is started again", worker=self._number, status=status, delay_s=delay_s)
            await asyncio.sleep(delay_s)
            steady = asyncio.get_running_loop().time() - began > STEADY_S
            delay_s = RESTART_DELAY_MIN_S if steady else min(2 * delay_s, RESTART_DELAY_MAX_S)

    async def _live(self) -> int:
        """Start a process and wait for its end: its exit status."""
        ours, its = socket.socketpair()
        with ours, its:
            environ = os.environ | {"KAFKA_BOOTSTRAP_SERVERS": self._settings.bootstrap_servers}
            if self._settings.instance:
                environ["APEX_INSTANCE"] = f"{self._settings.instance}.{self._number}"
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", __name__, str(self._number), str(self._port), str(its.fileno()),
                env=environ, pass_fds=[its.fileno()],
            )  # fmt: skip
            its.close()
            ours.setblocking(False)
            try:
                if await self._said_ready(ours):
                    self.ready.set()
                return await process.wait()
            finally:
                await self._end(process)

    async def _said_ready(self, line: socket.socket) -> bool:
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(START_TIMEOUT_S):
                return bool(await asyncio.get_running_loop().sock_recv(line, 1))
        return False

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


def _worker(number: int, port: int, line: socket.socket) -> None:
    """This process is a worker, until it is told to stop, or whoever started it is gone."""
    settings = load_settings()
    metrics_port = settings.metrics_port
    if metrics_port not in {"off", 0}:
        metrics_port = int(metrics_port) + 1 + number  # the process that started this one has the first
    settings = settings.model_copy(update={"port": port, "gateway_workers": 1, "metrics_port": metrics_port})
    configure_logs(settings, service="gateway")

    def tie(stop: Callable[[], None]) -> None:
        def wait() -> None:
            line.recv(1)  # nothing is ever said: it returns when the other end is closed
            stop()

        threading.Thread(target=wait, name="line to the supervisor", daemon=True).start()

    serve: Serve = partial(serve_one, shared=True)
    with exported("gateway"), expose("gateway", settings):
        run_service(serve, settings, ready=lambda _: line.sendall(b"r"), tie=tie)


if __name__ == "__main__":
    _worker(int(sys.argv[1]), int(sys.argv[2]), socket.socket(fileno=int(sys.argv[3])))
