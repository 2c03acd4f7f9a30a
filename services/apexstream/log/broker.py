"""A real Kafka on this machine: one KRaft node in a JVM from a wheel, its data in ``<home>/kafka``.

The jars are :mod:`apexstream.log.jars`' work. Everything listens on 127.0.0.1 only. The broker ends with the process that
started it, and two brokers never share a home. Its output is ``<home>/kafka.log`` (the run before: ``kafka.log.1``).
"""

import base64
import fcntl
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from apexstream.core.errors import DataCorruption, InvalidConfiguration, Unavailable
from apexstream.log.jars import aot_key, ensure_jars, exclusive, find_aot_cache, java, keep_aot_cache

_HOST = "127.0.0.1"
_LOG_CONFIGURATION = Path(__file__).with_name("log4j2.properties")
_START_TIMEOUT_S = 60.0
_STARTS_MAX = 4  # somebody may take a port between its choice and its use; an AOT cache may crash the JVM
_PROBE_STEP_S = 0.02
_PROBE_TIMEOUT_S = 1.0
_PROBE_ANSWER_BYTES_MAX = 64 * 1024
_HANDOVER_TIMEOUT_S = 15.0
_HANDOVER_STEP_S = 0.05
_KILL_TIMEOUT_S = 10.0
_LAST_LINES_BYTES_MAX = 3_000
_AOT_TIMEOUT_S = 300.0  # at the lowest priority each step of it takes what others leave
_AOT_RETRY_S = 3600.0
# Below the range that outgoing connections get theirs from, so that none of those takes the port while a broker restarts.
_SPARE_PORTS = range(20_000, 32_000)
_SPARE_PORTS_TRIED_MAX = 100
# Metadata v2 without topics: size, key, version, correlation id, no client id, no topics.
_METADATA_REQUEST = struct.pack(">ihhihi", 14, 3, 2, 0, -1, 0)

_CRASHED = frozenset({-signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGSEGV})

# Part of the AOT cache's key: the JVM refuses a cache that was made under other flags than these.
_JVM_FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:-UsePerfData",  # its file in the system's temporary directory would survive a kill -9
    "-XX:+ExitOnOutOfMemoryError",
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
)

# What `properties` must not touch: this module decides it, and other parts of it rely on it.
_OWN_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "log.dirs": "kafka",  # below the working directory, so that no path needs escaping
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
}
_PORT_PROPERTIES = ("listeners", "advertised.listeners", "controller.quorum.voters")
# What makes Kafka fit for one node that is started and stopped all day; a container for tests gets the same.
DEFAULT_PROPERTIES = {
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    # Committed offsets are where services go on from; they must outlive a fortnight in which nobody started the broker.
    "offsets.retention.minutes": str(30 * 24 * 60),
    "group.initial.rebalance.delay.ms": "0",
    "log.message.timestamp.type": "LogAppendTime",
    "max.decompressed.message.bytes": str(8 * 1024 * 1024),
    "log.cleaner.dedupe.buffer.size": str(32 * 1024 * 1024),  # the default takes 128 MB of the heap at once
    # After a crash the node waits until its former self's session ends; with Kafka's own 9 s a restart took 11 s.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "metadata.max.idle.interval.ms": "0",  # an idle broker need not write two records a second
}

# What would change the JVM behind our back, and make its AOT cache useless.
_JVM_VARIABLES = frozenset({"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH"})

# Replaced by the JVM (exec), so its pid is the broker's. The kernel sends the signal when the thread that forked ends.
_TIED = """
import ctypes, os, sys
parent, number = int(sys.argv[1]), int(sys.argv[2])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # it ended before the call above, so the signal will never come
os.execv(sys.argv[3], sys.argv[3:])
"""

# Two forks make it nobody's child: it may outlast this process, and nobody has to wait for it.
_AOT_IN_BACKGROUND = """
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
os.nice(19)
from pathlib import Path
from apexstream.log.broker import make_aot_cache
make_aot_cache(Path(sys.argv[1]))
"""


class EmbeddedBroker:
    """One broker with its data in ``home``; a context manager that starts it and stops it.

    ``cache`` keeps what any home can use again: jars and the JVM's AOT cache (about 120 MB). ``port`` is a wish (0: none);
    another free one is used if it is taken. ``heap_mb`` bounds the Java heap; with 384 about 210 MB are resident.
    ``properties`` are Kafka's and go before this module's defaults. With ``record_to`` the run writes an AOT cache to that
    path when it stops, which takes seconds; see :func:`make_aot_cache`.
    """

    def __init__(
        self,
        home: Path,
        cache: Path,
        *,
        port: int = 9092,
        heap_mb: int = 384,
        properties: Mapping[str, str] = {},
        record_to: Path | None = None,
    ) -> None:
        if refused := sorted({*_OWN_PROPERTIES, *_PORT_PROPERTIES} & set(properties)):
            raise InvalidConfiguration("the embedded broker decides this property itself", where=refused[0])
        self.home = home.absolute()
        self.log_path = self.home / "kafka.log"
        self.aot_cache: Path | None = None
        self._cache = cache.absolute()
        self._port = port
        self._heap_mb = heap_mb
        self._properties = dict(properties)
        self._record_to = record_to
        self._start_timeout_s = _AOT_TIMEOUT_S if record_to else _START_TIMEOUT_S
        self._child: _Child | None = None
        self._abandoned = threading.Event()

    @property
    def running(self) -> bool:
        """Whether the JVM is there; a broker that crashed is not running."""
        return self._child is not None and not self._child.ended.is_set()

    @property
    def pid(self) -> int | None:
        """The JVM's process id while it runs."""
        return self._child.process.pid if self._child is not None and self.running else None

    @property
    def bootstrap_servers(self) -> str:
        """``127.0.0.1:<port>``; stays the same over stop, kill and start unless somebody else took the port meanwhile."""
        if self._child is None:
            raise Unavailable("the embedded broker was not started", where=str(self.home))
        return f"{_HOST}:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> str:
        """Start the broker, wait until it serves, and return its bootstrap servers; do nothing if it runs.

        About 1.2 s with an AOT cache, else twice as much and the cache is made in the background; the first start in a
        home adds 1 s for formatting, the first on a machine some seconds for fetching jars. Raise :class:`Unavailable`
        with the last lines of the log where the JVM ends or does not serve within 60 s, and where another broker has
        this home; and whatever :func:`~apexstream.log.jars.ensure_jars` raises.
        """
        if self.running:
            return self.bootstrap_servers
        self._abandoned.clear()
        jars = ensure_jars(self._cache)
        self.aot_cache = None if self._record_to else find_aot_cache(self._cache, aot_key(_JVM_FLAGS))
        lock = _open_lock(self.home)
        try:
            _take_lock(lock, self.home)
            self._clear()
            self._format(jars, lock)
            self._launch(jars, lock)
        except BaseException:
            self.kill()
            raise
        finally:
            os.close(lock)  # the JVM has inherited it: the lock lasts as long as the JVM, whoever else ends
        if self.aot_cache is None and not self._record_to:
            _make_aot_cache_in_background(self._cache)
        return self.bootstrap_servers

    def stop(self, timeout_s: float = 20.0) -> bool:
        """Stop cleanly (SIGTERM); kill what has not ended after ``timeout_s``. Return whether it ended by itself.

        A :meth:`start` that is under way in another thread ends with :class:`Unavailable`; so with :meth:`kill`.
        """
        self._abandoned.set()
        return self._child is None or self._child.end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would; what was acknowledged is there again after :meth:`start`."""
        self._abandoned.set()
        if self._child is not None:
            self._child.end(signal.SIGKILL, _KILL_TIMEOUT_S)

    def _clear(self) -> None:
        """Put the last run's output aside; drop the native libraries that a killed JVM has left."""
        shutil.rmtree(self.home / "kafka-tmp", ignore_errors=True)
        (self.home / "kafka-tmp").mkdir()
        if self.log_path.exists():
            self.log_path.replace(self.log_path.with_suffix(".log.1"))

    def _format(self, jars: Sequence[Path], lock: int) -> None:
        """Make the data directory, once: beside its place, so that it is there either whole or not at all."""
        data, draft = self.home / "kafka", self.home / "kafka.new"
        if (data / "meta.properties").exists():
            return
        if data.exists() and any(data.iterdir()):
            raise DataCorruption(
                "data without meta.properties", where=str(data), hint="Restore it, or move the data away"
            )
        properties = self._write_properties(*_free_ports(0), {"log.dirs": draft.name})
        tool = ["kafka.tools.StorageTool", "format", "-t", _new_cluster_id(), "-c", properties]
        for _ in range(_STARTS_MAX):
            shutil.rmtree(draft, ignore_errors=True)
            child = self._spawn(
                jars, lock, "-XX:TieredStopAtLevel=1", *tool
            )  # too short for the second compiler to pay
            if child.ended.wait(self._start_timeout_s) and not child.process.returncode:
                draft.rename(data)
                return
            if not self._blames_aot_cache(child):
                break
        raise _failure("could not format its storage", self.log_path)

    def _launch(self, jars: Sequence[Path], lock: int) -> None:
        options = [f"-XX:AOTCacheOutput={self._record_to}"] if self._record_to else []
        for left in reversed(range(_STARTS_MAX)):
            self._port, controller_port = _free_ports(self._port)
            properties = self._write_properties(self._port, controller_port)
            child = self._spawn(jars, lock, *options, "kafka.Kafka", properties)
            if self._serves(child):
                return
            if not left or not (
                self._blames_aot_cache(child) or "Address already in use" in _last_lines(self.log_path)
            ):
                raise _failure(f"ended with code {child.process.returncode} while it started", self.log_path)

    def _blames_aot_cache(self, child: "_Child") -> bool:
        """Whether a crash of the JVM itself may be due to an AOT cache; if so, that is gone."""
        if self.aot_cache is None or child.process.returncode not in _CRASHED:
            return False
        self.aot_cache.unlink(missing_ok=True)
        self.aot_cache = None
        return True

    def _serves(self, child: "_Child") -> bool:
        """Wait until the broker answers (True) or its JVM ends (False)."""
        cluster_id = _read_cluster_id(self.home / "kafka" / "meta.properties")
        deadline = time.monotonic() + self._start_timeout_s
        while not child.ended.wait(_PROBE_STEP_S) and not self._abandoned.is_set():
            if answers(_HOST, self._port, cluster_id):
                return True
            if time.monotonic() >= deadline:
                raise _failure(f"did not serve within {self._start_timeout_s:g} s", self.log_path)
        if self._abandoned.is_set():
            raise _failure("was stopped while it started", self.log_path)
        return False

    def _spawn(self, jars: Sequence[Path], lock: int, *arguments: str) -> "_Child":
        command = [
            *(str(java()), f"-Xms{min(64, self._heap_mb)}m", f"-Xmx{self._heap_mb}m", *_JVM_FLAGS, "-Xlog:all=error"),
            *([f"-XX:AOTCache={self.aot_cache}"] if self.aot_cache else []),
            f"-XX:ErrorFile={self.home / 'kafka-crash.log'}",
            f"-Djava.io.tmpdir={self.home / 'kafka-tmp'}",
            f"-Dlog4j2.configurationFile={_LOG_CONFIGURATION}",
            *("-cp", ":".join(map(str, jars))),
            *arguments,
        ]
        # At SIGTERM a recording JVM writes its cache first, for seconds; with nobody left to take it, it had better end.
        farewell = signal.SIGKILL if self._record_to else signal.SIGTERM
        self._child = _Child(command, farewell, cwd=self.home, output=self.log_path, inherits=lock)
        _name_holder(lock, self._child.process.pid)
        return self._child

    def _write_properties(self, port: int, controller_port: int, last: Mapping[str, str] = {}) -> str:
        properties = {
            **(DEFAULT_PROPERTIES | self._properties | _OWN_PROPERTIES),
            "listeners": f"PLAINTEXT://{_HOST}:{port},CONTROLLER://{_HOST}:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{_HOST}:{port}",
            "controller.quorum.voters": f"1@{_HOST}:{controller_port}",
            **last,
        }
        path = self.home / "kafka.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        return path.name


class _Child:
    """A process that ends with this one, even if this one is killed (Linux).

    The kernel's parent-death signal is tied to the *thread* that forked, and :meth:`EmbeddedBroker.start` may well run on
    a worker thread that ends long before the broker should. Hence a thread of its own forks the child and lives exactly
    as long as the child. A pipe that the child watches would need a second process, itself unprotected; ``preexec_fn`` is
    unsafe beside other threads.
    """

    def __init__(self, command: list[str], farewell: signal.Signals, *, cwd: Path, output: Path, inherits: int) -> None:
        tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), str(int(farewell)), *command]
        started: Future[subprocess.Popen[bytes]] = Future()
        self.ended = threading.Event()
        arguments = (started, tied, cwd, output, inherits)
        threading.Thread(target=self._keep, args=arguments, name="embedded-broker", daemon=True).start()
        self.process = started.result()

    def _keep(
        self, started: Future[subprocess.Popen[bytes]], command: list[str], cwd: Path, output: Path, inherits: int
    ) -> None:
        try:
            with output.open("ab") as file:
                process = subprocess.Popen(
                    command,
                    cwd=cwd,
                    env={name: value for name, value in os.environ.items() if name not in _JVM_VARIABLES},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    pass_fds=(inherits,),
                    start_new_session=True,  # Ctrl-C is for us: the services still need the broker while they drain
                )
        except BaseException as problem:
            started.set_exception(problem)
            raise
        started.set_result(process)
        process.wait()
        self.ended.set()

    def end(self, number: signal.Signals, timeout_s: float) -> bool:
        """Send the signal and wait; kill after ``timeout_s``. Return whether that was not needed."""
        self.process.send_signal(number)
        if self.ended.wait(timeout_s):
            return True
        self.process.kill()
        self.ended.wait(_KILL_TIMEOUT_S)
        return False


def make_aot_cache(cache: Path) -> Path:
    """The AOT cache for brokers that use ``cache``; made, if there is none, by a broker that is started only for that.

    About 12 s of one core; waits while another process makes it. A run of its own keeps the user's first broker as quick
    to start and stop as any: recording in that one cost 1 s at its start and 4-7 s at its stop, and nothing came of it
    if it was killed. Raise what :meth:`EmbeddedBroker.start` raises.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with exclusive(cache / "kafka-aot.lock"):
        if found := find_aot_cache(cache, aot_key(_JVM_FLAGS)):
            return found
        for leftover in cache.glob("kafka-aot-*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(dir=cache, prefix="kafka-aot-") as scratch:
            draft = Path(scratch) / "draft.aot"
            broker = EmbeddedBroker(Path(scratch), cache, port=0, record_to=draft)
            broker.start()
            if not broker.stop(_AOT_TIMEOUT_S) or not draft.exists():
                raise _failure("wrote no AOT cache", broker.log_path)
            return keep_aot_cache(draft, cache, aot_key(_JVM_FLAGS))


def _make_aot_cache_in_background(cache: Path) -> None:
    """At lowest priority and at most once an hour, whatever comes of it; its output is ``kafka-<key>.log`` there."""
    report = cache / f"kafka-{aot_key(_JVM_FLAGS)}.log"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with suppress(OSError, subprocess.SubprocessError):  # without it the next start is slower, no more
        if report.exists() and time.time() - report.stat().st_mtime < _AOT_RETRY_S:
            return
        with report.open("wb") as output:
            command = [sys.executable, "-c", _AOT_IN_BACKGROUND, str(cache)]
            nothing, same = subprocess.DEVNULL, subprocess.STDOUT
            subprocess.run(
                command, cwd=cache, env=environment, stdin=nothing, stdout=output, stderr=same, timeout=10, check=False
            )


def _open_lock(home: Path) -> int:
    try:
        home.mkdir(parents=True, exist_ok=True)
        return os.open(home / "kafka.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as problem:
        raise InvalidConfiguration(
            f"cannot keep data here: {problem.strerror}", where=str(home), hint="Set APEX_HOME to another directory"
        ) from problem


def _take_lock(lock: int, home: Path) -> None:
    """Raise :class:`Unavailable` naming who has it; only a broker whose owner is gone, and so ends, is waited for."""
    deadline = time.monotonic() + _HANDOVER_TIMEOUT_S
    while not _try_lock(lock):
        holder, owner = (*os.pread(lock, 64, 0).decode().split(), "?", "?")[:2]
        if Path("/proc", owner).exists() or time.monotonic() >= deadline:
            raise Unavailable(
                f"another embedded broker (pid {holder}, started by pid {owner}) uses this home",
                where=str(home),
                hint="Stop it, or set APEX_HOME to another directory",
            )
        time.sleep(_HANDOVER_STEP_S)
    _name_holder(lock, os.getpid())


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _name_holder(lock: int, pid: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{pid} {os.getpid()}".encode(), 0)


def _new_cluster_id() -> str:
    """Kafka's form of a UUID; its first bit is 0, for a leading ``-`` would make it an option."""
    raw = uuid.uuid4().bytes
    return base64.urlsafe_b64encode(bytes([raw[0] & 0x7F]) + raw[1:]).decode().rstrip("=")


def _read_cluster_id(meta: Path) -> bytes:
    for line in meta.read_bytes().splitlines():
        if line.startswith(b"cluster.id="):
            return line.removeprefix(b"cluster.id=")
    raise DataCorruption("no cluster.id", where=str(meta), hint="Restore it, or move the data away")


def _free_ports(wanted: int) -> tuple[int, int]:
    """``wanted``, or another if it is 0 or taken, and one for the controller; free now, not for sure a moment later."""
    with ExitStack() as held:
        return _bind_one(wanted, held), _bind_one(0, held)


def _bind_one(wanted: int, held: ExitStack) -> int:
    spare = random.sample(_SPARE_PORTS, _SPARE_PORTS_TRIED_MAX)
    for port in [wanted, *spare] if wanted else spare:
        bound = held.enter_context(socket.socket())
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Kafka does: old connections do not matter
        with suppress(OSError):
            bound.bind((_HOST, port))
            return port
    raise Unavailable("no free port", where=f"{_HOST}:{_SPARE_PORTS.start}-{_SPARE_PORTS.stop}")


def _last_lines(log: Path) -> str:
    with suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_LINES_BYTES_MAX))
        return file.read().decode(errors="replace").strip()
    return ""


def _failure(what: str, log: Path) -> Unavailable:
    return Unavailable(f"the embedded broker {what}; its last lines:\n{_last_lines(log)}", where=str(log))


def answers(host: str, port: int, cluster_id: bytes = b"") -> bool:
    """Whether a broker of this cluster (of any) lists itself in a Metadata answer: only then may it lead partitions.

    The cluster id tells it from a stranger that took the port in the meantime.
    """
    try:
        with (
            socket.create_connection((host, port), _PROBE_TIMEOUT_S) as connection,
            connection.makefile("rb") as answer,
        ):
            connection.sendall(_METADATA_REQUEST)
            size, _, brokers = struct.unpack(">iii", answer.read(12))
            return brokers > 0 and cluster_id in answer.read(min(size, _PROBE_ANSWER_BYTES_MAX) - 8)
    except (OSError, struct.error):
        return False
