"""Services as operating-system processes that can be killed, frozen and started again, and that never outlive the run."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLUGINS = (ROOT / "tests" / "faults" / "plugins", ROOT / "tests" / "support" / "plugins")
READY_TIMEOUT_S = 60.0
END_TIMEOUT_S = 20.0
LAST_LINES_BYTES_MAX = 2_000
_SPARE_PORTS = range(20_000, 32_000)  # below those of outgoing connections, so that none takes it during a restart
# Becomes the service (exec); the kernel kills it when the process that started it ends, however that happens.
_TIED = (
    "import ctypes,os,signal,sys;ctypes.CDLL(None).prctl(1,int(signal.SIGKILL),0,0,0);"
    "os.getppid()==int(sys.argv[1]) or os._exit(1);os.execv(sys.argv[2],sys.argv[2:])"
)


def spawn_tied(
    command: list[str], *, environ: Mapping[str, str], output: Path, cwd: Path = ROOT
) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own; it dies with this process. Call from the main thread only."""
    tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]
    with output.open("ab") as file:
        return subprocess.Popen(
            tied, env=dict(environ), cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )


def spare_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that are free now."""
    found = []
    with ExitStack() as held:
        for port in random.sample(_SPARE_PORTS, 50 * count):
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise RuntimeError(f"no {count} free ports")


class Service:
    """One service process: ``python -m apexstream serve <role>``, or with ``faults`` the entry that can hurt itself."""

    def __init__(self, name: str, role: str, environ: Mapping[str, str], directory: Path) -> None:
        self.name = name
        self.role = role
        self.log = directory / f"{name}.log"
        self.environ = dict(environ)
        self.frozen = False
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log_from = 0

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def exit_status(self) -> int | None:
        """How its last process ended; None while it runs or before its first start."""
        return self._process.poll() if self._process is not None else None

    def start(self, **environ: str) -> None:
        """Start it (again), with ``environ`` for this life only. A name that begins with ``FAULT_`` needs the other entry."""
        if self.pid is not None:
            raise RuntimeError(f"{self.name} runs already")
        own = {**self.environ, **environ}
        faults = any(name.startswith("FAULT_") for name in own)
        entry = ["-m", "tests.faults.serve_with_fault"] if faults else ["-m", "apexstream", "serve"]
        self._log_from = self.log.stat().st_size if self.log.exists() else 0
        self._process = spawn_tied([sys.executable, "-P", *entry, self.role], environ=own, output=self.log)
        self.starts += 1
        self.frozen = False

    async def ready(self, timeout_s: float = READY_TIMEOUT_S, *, may_fall: bool = False) -> None:
        """Return once it says that it serves. With ``may_fall`` its end is no error: somebody starts it again."""
        deadline = time.monotonic() + timeout_s
        while b'"event":"ready"' not in self._new_log():
            if (self.pid is None and not may_fall) or time.monotonic() >= deadline:
                raise RuntimeError(f"{self.name} is not ready (status {self.exit_status}):\n{self.last_lines()}")
            await asyncio.sleep(0.1)

    def kill(self) -> None:
        """End it at once (SIGKILL). Its plugin processes must notice by themselves."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(END_TIMEOUT_S)

    def freeze(self) -> None:
        """Hold it where it is (SIGSTOP), as a long pause would."""
        self._signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on as if nothing had happened (SIGCONT)."""
        self._signal(signal.SIGCONT)
        self.frozen = False

    async def stopped(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once it holds (SIGSTOP), whoever sent that."""
        deadline = time.monotonic() + timeout_s
        while self.pid is None or _state_of(self.pid) != "T":
            if time.monotonic() >= deadline or self.exit_status is not None:
                raise RuntimeError(f"{self.name} did not come to the point where it stops:\n{self.last_lines()}")
            await asyncio.sleep(0.05)
        self.frozen = True

    def ask_to_end(self) -> None:
        """SIGTERM."""
        self._signal(signal.SIGTERM)

    async def ended(self, timeout_s: float = END_TIMEOUT_S) -> int:
        """The exit status, once it has ended by itself."""
        deadline = time.monotonic() + timeout_s
        while self._process is not None and self._process.poll() is None:
            if time.monotonic() >= deadline:
                raise RuntimeError(f"{self.name} did not end within {timeout_s:g} s:\n{self.last_lines()}")
            await asyncio.sleep(0.05)
        return -1 if self._process is None else int(self._process.returncode)

    async def stop(self) -> None:
        """End it in order, and kill it if that takes too long."""
        if self.frozen:
            self.thaw()
        self.ask_to_end()
        try:
            await self.ended()
        except RuntimeError:
            self.kill()

    def children(self) -> list[int]:
        """The processes that it has started and that still run."""
        pid = self.pid
        if pid is None:
            return []
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    def last_lines(self) -> str:
        """The end of its log."""
        return self._new_log()[-LAST_LINES_BYTES_MAX:].decode(errors="replace")

    def last_error(self) -> str:
        """What its log says of why it ended: the last line of level error, or the last line."""
        lines = self._new_log().decode(errors="replace").splitlines()
        loud = [line for line in lines if '"level":"error"' in line or '"level":"critical"' in line]
        return (loud or lines or [""])[-1][-LAST_LINES_BYTES_MAX:]

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            os.kill(pid, number)

    def _new_log(self) -> bytes:
        """What this life has logged."""
        if not self.log.exists():
            return b""
        with self.log.open("rb") as file:
            file.seek(self._log_from)
            return file.read()


def _state_of(pid: int) -> str:
    """The kernel's letter for what the process does."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def service_environ(bootstrap: str, prefix: str, port: int, **more: str) -> dict[str, str]:
    """The environment of services: nothing of this process' own settings but the cache, and the tests' plugins."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("APEX_") or name == "APEX_CACHE"}
    paths = [*map(str, PLUGINS), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), str(ROOT)]
    return {
        **kept,
        "KAFKA_BOOTSTRAP_SERVERS": bootstrap,
        "APEX_TOPIC_PREFIX": prefix,
        "APEX_PORT": str(port),
        "APEX_LOG_FORMAT": "json",
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        **more,
    }
