"""The note that ``apexstream up`` leaves while it runs, so that other commands on this machine find what it started.

The note counts only as long as its writer holds the lock on it, so one that a killed process left behind is ignored.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from apexstream.core.errors import InvalidConfiguration
from apexstream.log.connection import Connection, connection
from apexstream.runtime.settings import Settings

_NAME = "up.json"


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """What one ``apexstream up`` offers: its process id, the gateway's base URL, and Kafka's address."""

    pid: int
    url: str
    bootstrap_servers: str


class Note:
    """The held lock, to which the note is written once everything serves."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, running: Running) -> None:
        """Replace what the note says."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, msgspec.json.encode(running), 0)


@contextmanager
def only_one(home: Path) -> Iterator[Note]:
    """Hold ``home`` for this process; raises :class:`InvalidConfiguration` if another ``apexstream up`` has it."""
    descriptor = _open(home)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        running = _read(descriptor)
        os.close(descriptor)
        at = f" at {running.url} (process {running.pid})" if running else ""
        raise InvalidConfiguration(
            f"another `apexstream up` runs here{at}",
            where=str(home),
            hint="Stop it, or give this one a home, APEX_HOME, and a port of its own",
        ) from None
    try:
        os.ftruncate(descriptor, 0)
        yield Note(descriptor)
    finally:
        os.ftruncate(descriptor, 0)
        os.close(descriptor)


def find_running(home: Path) -> Running | None:
    """What an ``apexstream up`` with this home says of itself; None if none runs, or it is not ready yet."""
    try:
        descriptor = os.open(home / _NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(descriptor)
    finally:
        os.close(descriptor)
    return None


def gateway_url(settings: Settings, given: str = "") -> str:
    """Where the gateway is: what was ``given``, else what is set, else what runs here, else the default address."""
    if given:
        return given
    if settings.gateway_url or {"host", "port"} & settings.model_fields_set:
        return settings.url
    running = find_running(settings.home_path)
    return running.url if running else settings.url


def kafka_servers(settings: Settings) -> str:
    """Where Kafka is: what is set, else what runs here, else the default address of the embedded broker."""
    if settings.bootstrap_servers:
        return settings.bootstrap_servers
    running = find_running(settings.home_path)
    return running.bootstrap_servers if running else f"127.0.0.1:{settings.kafka_port}"


def kafka_cluster(settings: Settings) -> Connection:
    """The cluster at :func:`kafka_servers`, with the credentials that are set."""
    return connection(settings.model_copy(update={"bootstrap_servers": kafka_servers(settings)}))


def _open(home: Path) -> int:
    try:
        home.mkdir(parents=True, exist_ok=True)
        return os.open(home / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise InvalidConfiguration(
            f"cannot be written: {problem.strerror}", where=str(home), hint="Name another directory with APEX_HOME"
        ) from None


def _read(descriptor: int) -> Running | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, 65536, 0), type=Running)
    except msgspec.MsgspecError:
        return None
