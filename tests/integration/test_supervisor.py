"""`apexstream up`: the real processes, started, killed and stopped."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apexstream.cli.exits import ExitCode
from apexstream.cli.keeper import Keeper
from apexstream.cli.restarts import RestartPolicy
from apexstream.cli.running import Running, find_running
from apexstream.cli.timings import Timings
from apexstream.client import Client, Complete, ReconnectPolicy, Update
from apexstream.core.errors import InvalidConfiguration, Unavailable
from apexstream.runtime.clock import SystemClock

PLUGINS = Path(__file__).parents[1] / "support" / "plugins"
DEADLINE_S = 90
LOOK_S = 0.05

pytestmark = pytest.mark.kafka


class Up:
    """A running `apexstream up`."""

    def __init__(self, home: Path, environ: Mapping[str, str], *arguments: str) -> None:
        self.home = home
        self._said = home / f"stderr-{len(list(home.iterdir()))}"  # a file: services may not wait for us to read
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "apexstream", "up", "--port", "0", *arguments],
                stdout=subprocess.PIPE,
                stderr=said,
                env=dict(environ),
                text=True,
            )

    def ready(self) -> Running:
        """Wait for the line that says where everything is."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ApexStream is ready: http://127.0.0.1:"), self.said()
        running = find_running(self.home)
        assert running is not None
        return running

    def end(self) -> tuple[int, str, str]:
        out, _ = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out, self.said()

    def said(self) -> str:
        """Standard error so far."""
        return self._said.read_text()

    def services(self) -> dict[str, int]:
        """The process ids of broker and services."""
        found = {}
        for pid in children_of(self.process.pid):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if "serve" in words:
                found[words[words.index("serve") + 1]] = pid
            elif Path(words[0]).name == "java":  # and not what a library asks of the system while it is imported
                found["broker"] = pid
        return found


def children_of(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def eventually(fact: Callable[[], Any]) -> Any:
    """Wait until ``fact`` holds and return it; another process' life gives no event to wait for."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := fact()):
        assert time.monotonic() < deadline
        time.sleep(LOOK_S)
    return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def up(tmp_path: Path, topic_prefix: str) -> Iterator[Callable[..., Up]]:
    """Starts platforms with a home of their own; without ``kafka`` they have an embedded broker."""
    started: list[Up] = []

    def start(*arguments: str, kafka: str = "") -> Up:
        environ = {
            **os.environ,
            "APEX_HOME": str(tmp_path),
            "APEX_TOPIC_PREFIX": topic_prefix,
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "PYTHONPATH": os.pathsep.join([str(PLUGINS), os.environ.get("PYTHONPATH", "")]),
        }
        started.append(Up(tmp_path, environ, *arguments))
        return started[-1]

    yield start
    for platform in started:
        if platform.process.poll() is None:
            platform.process.kill()  # everything else dies with it
        platform.process.wait()
        platform.process.stdout.close()


async def test_everything_serves_once_it_says_so_and_stops_in_order(kafka: str, up: Callable[..., Up]) -> None:
    platform = up(kafka=kafka)
    running = platform.ready()
    pids = platform.services()

    async with asyncio.timeout(DEADLINE_S), Client(running.url) as client:
        task = await client.submit("probe", "count", {"n": 3})
        frames = [frame async for frame in client.follow(task.stream_id)]

    platform.process.terminate()
    status, out, err = platform.end()

    assert set(pids) == {"gateway", "dispatcher", "runner", "archiver"}
    assert running.bootstrap_servers == kafka
    assert [frame.data["i"] for frame in frames if isinstance(frame, Update)] == [0, 1, 2]
    assert isinstance(frames[-1], Complete)
    assert (status, out) == (ExitCode.OK, "")
    assert err.count('"event":"stopped"') == len(pids)
    assert all(gone(pid) for pid in pids.values())
    assert find_running(platform.home) is None


async def test_a_killed_gateway_comes_back_where_it_was_and_its_viewers_miss_nothing(
    kafka: str, up: Callable[..., Up]
) -> None:
    platform = up(kafka=kafka)
    running = platform.ready()
    seen: list[int] = []

    often = ReconnectPolicy(base_s=0.05, cap_s=0.2)
    async with asyncio.timeout(DEADLINE_S), Client(running.url, reconnect=often) as client:
        task = await client.submit("probe", "count", {"n": 100, "interval_s": 0.02})
        async for frame in client.follow(task.stream_id):
            if isinstance(frame, Update):
                seen.append(frame.data["i"])
            if frame.seq == 10:
                os.kill(platform.services()["gateway"], signal.SIGKILL)

    assert seen == list(range(100))
    assert platform.process.poll() is None


async def test_a_killed_runner_is_started_again_and_finishes_the_task(kafka: str, up: Callable[..., Up]) -> None:
    platform = up(kafka=kafka)
    running = platform.ready()
    kept: list[int] = []
    killed = False

    async with asyncio.timeout(DEADLINE_S), Client(running.url) as client:
        task = await client.submit("probe", "count", {"n": 60, "interval_s": 0.02})
        async for frame in client.follow(task.stream_id):
            del kept[frame.seq :]
            if isinstance(frame, Update):
                kept.append(frame.data["i"])
            if frame.seq == 10 and not killed:
                killed = True
                os.kill(platform.services()["runner"], signal.SIGKILL)

    assert kept == list(range(60))
    assert "runner" in platform.services()


async def test_a_killed_broker_comes_back_where_it_was_with_all_that_was_acknowledged(up: Callable[..., Up]) -> None:
    platform = up()
    running = platform.ready()
    async with asyncio.timeout(DEADLINE_S), Client(running.url) as client:
        task = await client.submit("probe", "count", {"n": 3})
        before = [frame async for frame in client.follow(task.stream_id)]

        os.kill(platform.services()["broker"], signal.SIGKILL)
        eventually(lambda: "the embedded broker is back" in platform.said())

        after = [frame async for frame in client.follow(task.stream_id)]
        again = await client.submit("probe", "count", {"n": 2})
        more = [frame async for frame in client.follow(again.stream_id)]

    assert after == before
    assert [frame.data["i"] for frame in more if isinstance(frame, Update)] == [0, 1]


def test_with_a_broker_of_its_own_one_command_runs_an_action_and_leaves_nothing_behind(up: Callable[..., Up]) -> None:
    platform = up("--run", "probe", "count", "-p", "n=3", "--once", "-o", "json", "--timings")

    status, out, err = platform.end()

    ready, *frames = [msgspec.json.decode(line) for line in out.splitlines()]
    assert status == ExitCode.OK, err
    assert set(ready) == {"type", "url", "websocket", "kafka"}
    assert [frame["type"] for frame in frames] == ["stream_update"] * 3 + ["stream_complete"]
    assert "3 chunks in " in err
    timings = msgspec.json.decode(err.splitlines()[-1])["timings"]
    order = ["broker ready", "topics ready", "all ready", "task submitted", "first chunk", "stream ended", "stopped"]
    assert [timings[phase] for phase in order] == sorted(timings[phase] for phase in order)
    assert not children_of_anyone_in(platform.home)


def children_of_anyone_in(home: Path) -> list[int]:
    """Processes that have ``home`` in their command line: the broker."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(home).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_when_the_supervisor_is_killed_everything_dies_with_it(up: Callable[..., Up]) -> None:
    platform = up()
    running = platform.ready()
    pids = platform.services()

    platform.process.kill()
    platform.end()

    assert set(pids) == {"gateway", "dispatcher", "runner", "archiver", "broker"}
    for pid in pids.values():
        eventually(lambda pid=pid: gone(pid))
    assert find_running(platform.home) is None
    assert running.url


def test_an_interrupt_while_the_broker_starts_stops_everything(up: Callable[..., Up]) -> None:
    platform = up()
    pids = eventually(lambda: platform.services() if "broker" in platform.services() else None)

    platform.process.send_signal(signal.SIGINT)
    status, out, _ = platform.end()

    assert (status, out) == (ExitCode.INTERRUPTED, "")
    assert all(gone(pid) for pid in pids.values())


def test_a_taken_port_is_said_before_anything_is_started(up: Callable[..., Up]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = up("--port", str(port)).end()

    assert (status, out) == (ExitCode.USAGE, "")
    assert err == (
        f"error: gateway on 127.0.0.1:{port}: port {port} is taken. "
        "Choose another with --port or APEX_PORT; 0 takes any free one\n"
    )


def test_a_second_platform_in_the_same_home_is_refused(kafka: str, up: Callable[..., Up]) -> None:
    first = up(kafka=kafka)
    running = first.ready()

    status, _, err = up(kafka=kafka).end()

    assert status == ExitCode.USAGE
    assert running.url in err


def test_a_first_run_that_cannot_start_stops_everything_with_its_status(kafka: str, up: Callable[..., Up]) -> None:
    status, _, err = up("--run", "probe", "cuont", "--once", kafka=kafka).end()

    assert status == ExitCode.UNKNOWN
    assert "error: probe cuont: no such action. Did you mean probe count?" in err


def keeper(name: str, environ: dict[str, str], policy: RestartPolicy) -> Keeper:
    async def given() -> dict[str, str]:
        return environ

    return Keeper(name, given, policy=policy, clock=SystemClock(), timings=Timings())


async def test_a_service_that_ends_again_and_again_is_given_up() -> None:
    kept = keeper(
        "dispatcher", {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, RestartPolicy(base_s=0.01, crashes_max=1, window_s=60)
    )

    await kept.run()

    with pytest.raises(Unavailable, match=r"dispatcher: ended 2 times within 60 s.*no Kafka broker answers"):
        kept.ready.result()


async def test_a_service_that_refuses_its_settings_is_not_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        kept = keeper("gateway", {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "APEX_PORT": port}, RestartPolicy())

        await kept.run()

    with pytest.raises(InvalidConfiguration, match=rf"127\.0\.0\.1:{port}: the port is taken"):
        kept.ready.result()
