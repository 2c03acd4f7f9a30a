"""Plugins in processes of their own: real children that crash, leak, block, lie and are orphaned."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.errors import PluginFailed, UnknownAction
from apexstream.runner.host.confinement import MIB, Confinement, Patience
from apexstream.runner.host.port import CREDIT_BYTES, Call, CallOutcome, Ending, Resume
from apexstream.runner.host.process import ProcessHost, installed_plugins
from apexstream.runner.host.remote import RemoteCall

TIMEOUT_S = 20.0
FRESH = Resume()
QUICK = Patience(ping_s=0.1, unresponsive_s=15, term_grace_s=0.3, backoff_s=0.05)
STRICT = replace(QUICK, unresponsive_s=0.5)

SUBJECT = '''
import asyncio, ctypes, os, signal, socket, subprocess, sys, threading, time
from apexstream.plugin import ActionContext, Plugin

plugin = Plugin("subject")

@plugin.action
async def count(n: int, size: int = 0):
    for number in range(n):
        yield [number, "x" * size] if size else number

@plugin.action(resume="deterministic")
async def again(n: int):
    for number in range(n):
        yield number

@plugin.action(resume="checkpointed", idle_timeout_s=9)
async def tally(ctx: ActionContext, n: int):
    for number in range(ctx.restored(int) or 0, n):
        ctx.persistence.state = number + 1
        yield [number, ctx.attempt, ctx.task_id]

@plugin.action
async def tick(ctx: ActionContext, every_s: float = 0.001):
    number = 0
    while True:
        yield number
        number += 1
        await asyncio.sleep(every_s)

@plugin.action
async def stubborn():
    yield os.getpid()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

@plugin.action
async def end(how: str):
    yield 1
    await asyncio.sleep(0.05)
    if how == "exit":
        os._exit(3)
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "abort":
        os.abort()

@plugin.action
async def leak():
    yield 1
    kept = []
    while True:
        kept.append(bytearray(16 << 20))

@plugin.action
async def block(for_s: float):
    yield os.getpid()
    await asyncio.sleep(0.01)
    time.sleep(for_s)
    yield "awake"

@plugin.action
async def ignore_signals():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield os.getpid()
    await asyncio.sleep(0.01)
    time.sleep(60)

@plugin.action
async def world():
    yield {
        "environ": dict(os.environ),
        "files": [os.readlink(path) for fd in range(1024) if os.path.lexists(path := f"/proc/self/fd/{fd}")],
        "group": [os.getpgid(0), os.getsid(0), os.getpid()],
        "loop": type(asyncio.get_running_loop()).__module__,
        "kafka": [name for name in sys.modules if name.startswith("aiokafka")],
    }

@plugin.action
async def spawn():
    yield subprocess.Popen(["sleep", "600"]).pid
    await asyncio.sleep(60)

@plugin.action
async def files():
    yield 1
    kept = []
    while True:
        kept.append(socket.socket())

@plugin.action
async def write(path: str):
    with open(path, "wb") as file:
        file.write(b"x" * (4 << 20))
    yield 1

@plugin.action
async def say(lines: int):
    for number in range(lines):
        print("line", number)
    sys.stdout.flush()
    yield 1

@plugin.action
async def close(how: str):
    yield os.getpid()
    await asyncio.sleep(0.05)
    if how == "close":
        os.closerange(3, 256)
    else:
        socket.socket(fileno=os.dup(int(sys.argv[1]))).shutdown(socket.SHUT_RDWR)
    time.sleep(600)

@plugin.action
async def daemon():
    """A program with a session of its own that keeps the socket open."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(600)
        os._exit(0)
    yield pid
    await asyncio.sleep(600)

@plugin.action
async def thread():
    threading.Thread(target=time.sleep, args=(600,)).start()
    yield os.getpid()

@plugin.action
async def raw(data: str):
    """Bytes of the plugin's own straight onto the socket."""
    yield 1
    await asyncio.sleep(0.05)
    left = memoryview(bytes.fromhex(data))
    end = socket.socket(fileno=os.dup(int(sys.argv[1])))
    end.setblocking(True)
    end.sendall(left)
    await asyncio.sleep(60)
'''
OTHER = """
import asyncio
from apexstream.plugin import Plugin
plugin = Plugin("other")

@plugin.action
async def tick(every_s: float = 0.001):
    number = 0
    while True:
        yield number
        number += 1
        await asyncio.sleep(every_s)
"""


class Reader:
    """A sink that keeps all it is given, and takes it at once or when told."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.call: RemoteCall
        self.chunks_: list[Chunk] = []
        self.checkpoint: tuple[int, Any] | None = None
        self.outcome: CallOutcome | None = None
        self.changed = asyncio.Event()

    def chunks(self, chunks: Sequence[Chunk], checkpoint: bytes | None) -> None:
        assert self.outcome is None
        self.chunks_ += chunks
        if checkpoint is not None:
            self.checkpoint = (len(self.chunks_), msgspec.msgpack.decode(checkpoint))
        if self.takes:
            self.call.credit(sum(len(chunk.payload) for chunk in chunks))
        self.changed.set()

    def ended(self, outcome: CallOutcome) -> None:
        assert self.outcome is None
        self.outcome = outcome
        self.changed.set()

    @property
    def data(self) -> list[Any]:
        return [json.loads(chunk.payload) for chunk in self.chunks_ if chunk.kind is Kind.DATA]

    @property
    def message(self) -> str:
        assert self.outcome is not None
        assert self.outcome.error is not None
        return str(self.outcome.error["message"])

    def take_all(self) -> None:
        self.takes = True
        self.call.credit(sum(len(chunk.payload) for chunk in self.chunks_))

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def some(self, count: int = 1) -> None:
        await self.until(lambda: len(self.chunks_) >= count or self.outcome is not None)
        assert len(self.chunks_) >= count, self.outcome

    async def end(self) -> CallOutcome:
        await self.until(lambda: self.outcome is not None)
        assert self.outcome is not None
        return self.outcome


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "host_subject.py").write_text(SUBJECT)
    (tmp_path / "host_other.py").write_text(OTHER)
    return tmp_path


@asynccontextmanager
async def hosting(
    folder: Path, *others: str, patience: Patience = QUICK, processes: int = 1, **limits: Any
) -> AsyncIterator[ProcessHost]:
    plugins = {name: f"host_{name}:plugin" for name in ("subject", *others)}
    confinement = Confinement(import_paths=(str(folder),), **limits)
    async with ProcessHost(plugins, processes=processes, confinement=confinement, patience=patience) as host:
        assert not host.describe().broken
        yield host


def start(
    host: ProcessHost,
    action: str,
    params: dict[str, Any] | None = None,
    *,
    plugin: str = "subject",
    resume: Resume = FRESH,
    attempt: int = 1,
    takes: bool = True,
) -> Reader:
    reader = Reader(takes=takes)
    call = Call(
        task_id="t1",
        attempt=attempt,
        plugin=plugin,
        action=action,
        params=json.dumps(params or {}).encode(),
        resume=resume,
    )
    reader.call = host.start(call, reader)
    assert reader.outcome is None
    return reader


async def gone(pid: int) -> None:
    """Return once no process has this id, or only a dead one that nobody has waited for."""
    async with asyncio.timeout(TIMEOUT_S):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)


async def test_a_plugin_in_a_process_gives_what_it_yields(folder: Path):
    async with hosting(folder) as host:
        reader = start(host, "count", {"n": 50_000})
        assert await reader.end() == CallOutcome(ending=Ending.COMPLETED)
        assert reader.data == list(range(50_000))


async def test_the_runner_learns_what_there_is_without_importing_it(folder: Path):
    async with hosting(folder) as host:
        offer = host.describe().find("subject", "tally")
        assert (offer.spec.resume, offer.spec.options.idle_timeout_s, offer.streams) == ("checkpointed", 9, True)
        assert offer.spec.params_schema["properties"]["n"] == {"type": "integer"}
        assert "host_subject" not in sys.modules
        with pytest.raises(UnknownAction, match="no plugin named 'nothing'"):
            host.describe().find("nothing", "x")


@pytest.mark.parametrize(
    ("plugin", "action", "params", "code"),
    [
        ("nothing", "x", {}, "unknown_action"),
        ("subject", "nothing", {}, "unknown_action"),
        ("subject", "count", {"n": "many"}, "invalid_parameters"),
    ],
)
async def test_a_call_that_cannot_run_fails_for_good(folder: Path, plugin: str, action: str, params: Any, code: str):
    async with hosting(folder) as host:
        outcome = await start(host, action, params, plugin=plugin).end()
        assert (outcome.ending, outcome.error_class, outcome.error["code"]) == (Ending.FAILED, "permanent", code)


async def test_many_calls_share_a_process_and_each_gets_its_own(folder: Path):
    async with hosting(folder) as host:
        readers = [start(host, "count", {"n": 2000 + number}) for number in range(20)]
        for number, reader in enumerate(readers):
            assert (await reader.end()).ending is Ending.COMPLETED
            assert reader.data == list(range(2000 + number))
        assert len(host.pids()["subject"]) == 1


async def test_a_plugin_may_have_several_processes_and_calls_are_spread(folder: Path):
    async with hosting(folder, processes=2) as host:
        first, second = start(host, "stubborn"), start(host, "stubborn")
        await first.some()
        await second.some()
        assert {first.data[0], second.data[0]} == set(host.pids()["subject"])


async def test_a_warm_process_gives_its_first_chunk_in_milliseconds(folder: Path):
    async with hosting(folder) as host:
        await start(host, "count", {"n": 1}).end()
        took = []
        for _ in range(20):
            began = time.perf_counter()
            reader = start(host, "count", {"n": 1})
            await reader.some()
            took.append(time.perf_counter() - began)
            await reader.end()
        print(f"first chunk of a warm process: median {sorted(took)[10] * 1e6:.0f} µs")
        assert sorted(took)[10] < 0.05


@pytest.mark.parametrize(
    ("action", "resume", "data"),
    [
        ("count", Resume(next_seq=2, data_count=2), [0, 1, 2, 3]),
        ("again", Resume(next_seq=2, data_count=2), [2, 3]),
        ("tally", Resume(next_seq=2, data_count=2, checkpoint=b"\x02"), [[2, 2, "t1"], [3, 2, "t1"]]),
        ("tally", FRESH, [[number, 2, "t1"] for number in range(4)]),
    ],
)
async def test_each_mode_goes_on_as_declared(folder: Path, action: str, resume: Resume, data: list[Any]):
    async with hosting(folder) as host:
        reader = start(host, action, {"n": 4}, resume=resume, attempt=2)
        await reader.end()
        assert reader.data == data
        assert action != "tally" or reader.checkpoint == (len(data), 4)


async def test_cancel_ends_an_action_at_its_next_yield(folder: Path):
    async with hosting(folder) as host:
        reader = start(host, "tick")
        await reader.some(3)
        reader.call.cancel("enough")
        assert await reader.end() == CallOutcome(ending=Ending.CANCELLED)
        assert reader.data == list(range(len(reader.data)))


async def test_interrupt_ends_an_action_that_waits(folder: Path):
    async with hosting(folder) as host:
        reader = start(host, "tick", {"every_s": 60})
        await reader.some()
        reader.call.interrupt()
        assert (await reader.end()).ending is Ending.CANCELLED


async def test_park_ends_an_action_at_its_next_yield(folder: Path):
    async with hosting(folder) as host:
        reader = start(host, "tick")
        await reader.some(3)
        reader.call.park()
        assert (await reader.end()).ending is Ending.PARKED


async def test_a_paused_action_holds_until_it_may_go_on(folder: Path):
    async with hosting(folder) as host:
        reader, other = start(host, "tick"), start(host, "tick")
        await reader.some(3)
        reader.call.pause(True)
        await other.some(len(other.data) + 50)  # by now the pause has arrived
        held = len(reader.data)
        await other.some(len(other.data) + 50)
        assert len(reader.data) == held
        reader.call.pause(False)
        await reader.some(held + 10)
        assert reader.data == list(range(len(reader.data)))


async def test_kill_ends_an_action_that_nothing_else_ends_and_the_process_is_replaced(folder: Path):
    async with hosting(folder) as host:
        reader, neighbour = start(host, "stubborn"), start(host, "tick")
        await reader.some()
        await neighbour.some()
        reader.call.interrupt()
        reader.call.kill()
        outcomes = await reader.end(), await neighbour.end()
        assert {outcome.ending for outcome in outcomes} == {Ending.LOST}
        assert {outcome.error_class for outcome in outcomes} == {"resource"}
        assert "killed on request" in reader.message
        await gone(reader.data[0])
        assert (await start(host, "count", {"n": 1}).end()).ending is Ending.COMPLETED


async def test_kill_also_ends_a_process_that_ignores_signals_and_blocks(folder: Path):
    async with hosting(folder, patience=replace(QUICK, unresponsive_s=60)) as host:
        reader = start(host, "ignore_signals")
        await reader.some()
        reader.call.kill()
        assert (await reader.end()).ending is Ending.LOST
        await gone(reader.data[0])


@pytest.mark.parametrize("ask", ["cancel", "interrupt", "park", "kill"])
async def test_a_call_can_be_ended_before_it_has_a_process(folder: Path, ask: str):
    async with hosting(folder, patience=replace(QUICK, backoff_s=60, backoff_max_s=60)) as host:
        for _ in range(2):  # after the second time in a row the next process has to wait
            await start(host, "end", {"how": "kill"}).end()
        reader = start(host, "tick")
        getattr(reader.call, ask)(*(["enough"] if ask == "cancel" else []))
        expected = {"park": Ending.PARKED, "kill": Ending.LOST}.get(ask, Ending.CANCELLED)
        assert (await reader.end()).ending is expected
        assert reader.data == []


@pytest.mark.parametrize(
    ("how", "told", "error_class"),
    [
        ("exit", "exited with status 3", "plugin_bug"),
        ("segfault", "was ended by SIGSEGV", "plugin_bug"),
        ("abort", "was ended by SIGABRT", "plugin_bug"),
        ("kill", "was ended by SIGKILL", "resource"),
    ],
)
async def test_a_crash_costs_the_calls_of_that_process_and_a_new_one_takes_over(
    folder: Path, how: str, told: str, error_class: str
):
    async with hosting(folder, "other") as host:
        other = start(host, "tick", plugin="other")
        reader = start(host, "end", {"how": how})
        outcome = await reader.end()
        assert (outcome.ending, outcome.error_class) == (Ending.LOST, error_class)
        assert told in reader.message
        assert reader.data == [1]
        again = start(host, "count", {"n": 3})
        assert (await again.end()).ending is Ending.COMPLETED
        await other.some(len(other.data) + 5)


async def test_of_several_calls_in_a_crash_none_is_blamed(folder: Path):
    async with hosting(folder) as host:
        neighbour = start(host, "tick")
        await neighbour.some()
        reader = start(host, "end", {"how": "exit"})
        assert {(await reader.end()).error_class, (await neighbour.end()).error_class} == {"resource"}


async def test_a_leak_ends_at_the_limit_as_a_lack_of_resources(folder: Path):
    async with hosting(folder, memory_bytes=700 * MIB) as host:
        reader = start(host, "leak")
        outcome = await reader.end()
        assert (outcome.ending, outcome.error_class) == (Ending.FAILED, "resource")
        assert "MemoryError" in reader.message
        assert (await start(host, "count", {"n": 3}).end()).ending is Ending.COMPLETED


async def test_open_files_and_file_sizes_are_limited(folder: Path):
    async with hosting(folder, open_files=64, file_bytes=MIB) as host:
        assert (await start(host, "files").end()).error_class == "resource"
        assert (await start(host, "write", {"path": str(folder / "large")}).end()).error_class == "resource"


async def test_a_plugin_that_blocks_its_process_disturbs_no_other_plugin_and_is_found(folder: Path):
    async with hosting(folder, "other", patience=STRICT) as host:
        other = start(host, "tick", plugin="other")
        reader = start(host, "block", {"for_s": 60})
        await reader.some()
        before = len(other.data)
        outcome = await reader.end()
        assert (outcome.ending, outcome.error_class) == (Ending.LOST, "plugin_bug")
        assert "did not answer for 0.5 s" in reader.message
        assert len(other.data) > before + 20
        await gone(reader.data[0])


async def test_a_short_block_is_forgiven(folder: Path):
    async with hosting(folder, patience=replace(QUICK, unresponsive_s=3)) as host:
        reader = start(host, "block", {"for_s": 0.25})
        assert (await reader.end()).ending is Ending.COMPLETED


async def test_an_action_without_credit_waits(folder: Path):
    async with hosting(folder) as host:
        reader, other = start(host, "count", {"n": 5000, "size": 1000}, takes=False), start(host, "tick")
        await reader.until(lambda: sum(len(chunk.payload) for chunk in reader.chunks_) >= CREDIT_BYTES)
        await other.some(50)
        assert sum(len(chunk.payload) for chunk in reader.chunks_) < CREDIT_BYTES + 2000
        reader.take_all()
        assert (await reader.end()).ending is Ending.COMPLETED
        assert [number for number, _ in reader.data] == list(range(5000))


async def test_while_the_runner_is_full_nothing_is_read(folder: Path):
    async with hosting(folder, patience=STRICT) as host:
        reader = start(host, "tick")
        await reader.some(3)
        host.hold(True)
        held = len(reader.data)
        await asyncio.sleep(STRICT.unresponsive_s * 2)  # nor is a process that cannot be heard taken for dead
        assert len(reader.data) == held
        host.hold(False)
        await reader.some(held + 100)
        assert reader.data == list(range(len(reader.data)))


def framed(*body: Any) -> bytes:
    encoded = msgspec.msgpack.encode(body)
    return len(encoded).to_bytes(4, "little") + encoded


def batch(call: int = 1, payloads: Sequence[bytes] = (b"1",), **fields: Any) -> bytes:
    times = fields.get("times", [1] * len(payloads))
    rest = [fields.get("kinds", b""), fields.get("types", []), fields.get("checkpoint"), fields.get("covered", 0)]
    return framed(17, call, list(payloads), times, *rest)


LARGE = [b"x" * 60_000]
HOSTILE = {
    "garbage": b"\xff" * 100,
    "a huge frame": (1 << 31).to_bytes(4, "little"),
    "no msgpack": (5).to_bytes(4, "little") + b"\xc1\xc1\xc1\xc1\xc1",
    "nested without end": (50_003).to_bytes(4, "little") + b"\x93\x10\x91\x92" + b"\x91" * 49_999,
    "payloads that claim to be many": (8).to_bytes(4, "little") + b"\x97\x11\x01\xdd\xff\xff\xff\xff",
    "times that claim to be many": (9).to_bytes(4, "little") + b"\x97\x11\x01\x90\xdd\xff\xff\xff\xff",
    "a frame of the other direction": framed(0, "x", "y", {}),
    "another call": batch(call=77),
    "a negative call": batch(call=-1),
    "an empty batch": batch(payloads=[]),
    "times for others": batch(times=[1, 2]),
    "a negative time": batch(times=[-1]),
    "a fence": batch(kinds=b"\x05"),
    "an end of the stream": batch(kinds=b"\x02"),
    "kinds for others": batch(kinds=b"\x00\x00"),
    "types for others": batch(types=["a", "b"]),
    "a content type without end": batch(types=["x" * 5000]),
    "a chunk too large": batch(payloads=[b"x" * (512 * 1024 + 1)]),
    "a batch of too many": batch(payloads=[b"1"] * 257),
    "a batch of too many bytes": batch(payloads=LARGE * 3),
    "a checkpoint too large": batch(checkpoint=b"x" * (256 * 1024 + 1), covered=1),
    "a checkpoint of nothing": batch(checkpoint=b"x", covered=0),
    "a checkpoint of more": batch(checkpoint=b"x", covered=2),
    "without credit": batch(payloads=LARGE) * 6,
    "small chunks without credit": batch(payloads=[b"1"] * 256) * 10,
    "checkpoints without credit": batch(checkpoint=b"x" * 200_000, covered=1) * 3,
    "an end that does not exist": framed(18, 1, "vanished", None, ""),
    "parked without being asked": framed(18, 1, "parked", None, ""),
    "lost by its own word": framed(18, 1, "lost", None, ""),
    "failed without an error": framed(18, 1, "failed", None, "permanent"),
    "an error without failing": framed(18, 1, "completed", {"code": "x"}, ""),
    "an unknown class": framed(18, 1, "failed", {"code": "x"}, "sabotage"),
    "an error without end": framed(18, 1, "failed", {"code": "x", "message": "y" * 5000}, "permanent"),
    "an answer to nothing": framed(19, 99),
    "a second introduction": framed(16, [], ""),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_process_that_breaks_a_rule_is_killed_and_its_calls_end(folder: Path, data: bytes):
    async with hosting(folder, patience=replace(QUICK, ping_s=30)) as host:
        pid = host.pids()["subject"][0]
        reader = start(host, "raw", {"data": data.hex()}, takes=False)
        outcome = await reader.end()
        assert outcome.ending in {Ending.LOST, Ending.FAILED}
        assert outcome.error_class == "plugin_bug"
        assert "sent" in reader.message
        await gone(pid)
        assert (await start(host, "count", {"n": 3}).end()).ending is Ending.COMPLETED


async def test_neighbours_of_a_call_that_broke_a_rule_are_lost_but_not_blamed(folder: Path):
    async with hosting(folder) as host:
        neighbour = start(host, "tick")
        await neighbour.some()
        reader = start(host, "raw", {"data": batch(call=2, kinds=b"\x05").hex()})
        outcome, other = await reader.end(), await neighbour.end()
        assert (outcome.ending, outcome.error_class) == (Ending.FAILED, "plugin_bug")
        assert (other.ending, other.error_class) == (Ending.LOST, "resource")


async def test_a_plugin_process_knows_nothing_of_the_runner(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KAFKA_PASSWORD", "secret")
    with (folder / "a file of the runner").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        async with hosting(folder, environment={"TZ": "UTC"}) as host:
            reader = start(host, "world")
            await reader.end()
    (world,) = reader.data
    assert world["environ"] == {"TZ": "UTC"}
    assert not any("runner" in name for name in world["files"])
    assert len(set(world["group"])) == 1
    assert world["loop"] == "uvloop"
    assert world["kafka"] == []


async def test_what_a_plugin_started_is_killed_with_it(folder: Path):
    async with hosting(folder) as host:
        reader = start(host, "spawn")
        await reader.some()
        reader.call.kill()
        await reader.end()
        await gone(reader.data[0])


async def test_what_made_a_session_of_its_own_outlives_it_but_holds_nothing_up(folder: Path):
    async with hosting(folder) as host:
        reader = start(host, "daemon")
        await reader.some()
        try:
            reader.call.kill()
            assert (await reader.end()).ending is Ending.LOST
            os.kill(reader.data[0], 0)  # it is still there: see the module's docstring
        finally:
            os.kill(reader.data[0], signal.SIGKILL)


@pytest.mark.parametrize("how", ["close", "shutdown"])
async def test_a_process_that_closes_its_socket_and_stays_is_ended(folder: Path, how: str):
    async with hosting(folder, patience=STRICT) as host:
        reader = start(host, "close", {"how": how})
        assert (await reader.end()).ending is Ending.LOST
        await gone(reader.data[0])


async def test_closing_the_host_ends_every_process_and_call(folder: Path):
    async with hosting(folder) as host:
        pids = [pid for own in host.pids().values() for pid in own]
        reader, busy = start(host, "tick"), start(host, "thread")
        await reader.some()
        await busy.end()
    assert (await reader.end()).ending is Ending.LOST
    assert "stopped with the runner" in reader.message
    for pid in pids:
        await gone(pid)


ORPHAN_MAKER = """
import asyncio, json, sys
from apexstream.runner.host.confinement import Confinement
from apexstream.runner.host.port import Call
from apexstream.runner.host.process import ProcessHost

class Sink:
    def chunks(self, chunks, checkpoint):
        print(chunks[0].payload.decode(), flush=True)
    def ended(self, outcome):
        print(outcome, flush=True)

async def main():
    async with ProcessHost({"subject": "host_subject:plugin"}, confinement=Confinement(import_paths=(sys.argv[1],))) as host:
        host.start(Call(task_id="t", attempt=1, plugin="subject", action=sys.argv[2], params=sys.argv[3].encode()), Sink())
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("action", "params"), [("stubborn", "{}"), ("block", '{"for_s": 600}'), ("ignore_signals", "{}")]
)
async def test_a_plugin_process_dies_with_a_runner_that_was_killed(folder: Path, action: str, params: str):
    runner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ORPHAN_MAKER, str(folder), action, params), stdout=subprocess.PIPE
    )
    assert runner.stdout is not None
    async with asyncio.timeout(TIMEOUT_S):
        child = int(await runner.stdout.readline())
    runner.kill()
    await runner.wait()
    await gone(child)


async def test_a_plugin_that_cannot_be_imported_is_broken_and_says_why(folder: Path):
    (folder / "host_broken.py").write_text("import json\nraise RuntimeError('no licence')\n")
    (folder / "host_fatal.py").write_text("import os\nos._exit(9)\n")
    (folder / "host_slow.py").write_text("import time\ntime.sleep(600)\n")
    plugins = {
        "broken": "host_broken:plugin",
        "fatal": "host_fatal:plugin",
        "slow": "host_slow:plugin",
        "other": "host_other:plugin",
    }
    confinement = Confinement(import_paths=(str(folder),))
    patience = replace(QUICK, start_timeout_s=2.0, backoff_s=60)
    async with ProcessHost(plugins, confinement=confinement, patience=patience) as host:
        catalogue = host.describe()
        assert {offer.plugin for offer in catalogue.offers} == {"other"}
        assert catalogue.broken["broken"] == "RuntimeError: no licence (host_broken.py:2)"
        assert "exited with status 9 while it loaded" in catalogue.broken["fatal"]
        assert "did not load within 2 s" in catalogue.broken["slow"]
        with pytest.raises(PluginFailed, match="no licence"):
            catalogue.find("broken", "x")
        reader = start(host, "x", plugin="broken")
        assert (await reader.end()).ending is Ending.FAILED
        assert "no licence" in reader.message


async def test_a_process_that_is_killed_while_it_loads_is_no_fault_of_the_plugin(folder: Path):
    module = folder / "host_victim.py"
    module.write_text(
        "import os, pathlib, signal\n"
        "mark = pathlib.Path(__file__).with_suffix('.mark')\n"
        "if not mark.exists():\n    mark.touch()\n    os.kill(os.getpid(), signal.SIGKILL)\n" + OTHER
    )
    confinement = Confinement(import_paths=(str(folder),))
    async with ProcessHost({"victim": "host_victim:plugin"}, confinement=confinement, patience=QUICK) as host:
        assert host.describe().broken == {}
        reader = start(host, "tick", plugin="victim")
        await reader.some(3)


async def test_a_plugin_that_is_mended_works_again(folder: Path):
    module = folder / "host_mended.py"
    module.write_text("raise RuntimeError('not yet')\n")
    confinement = Confinement(import_paths=(str(folder),))
    async with ProcessHost({"mended": "host_mended:plugin"}, confinement=confinement, patience=QUICK) as host:
        assert "not yet" in host.describe().broken["mended"]
        module.write_text(OTHER.replace('"other"', '"mended"'))
        async with asyncio.timeout(TIMEOUT_S):
            while host.describe().broken:
                await asyncio.sleep(0.05)
        reader = start(host, "tick", plugin="mended")
        await reader.some(3)


async def test_what_a_plugin_prints_is_logged_within_bounds(folder: Path, capsys: pytest.CaptureFixture[str]):
    async with hosting(folder) as host:
        await start(host, "say", {"lines": 20_000}).end()
    shown = capsys.readouterr().out
    assert "line 0 " in shown
    assert shown.count("line ") < 5000
    assert "lines of a plugin were dropped" in shown


def test_the_same_under_uvloop(folder: Path):
    async def scenario() -> None:
        async with hosting(folder) as host:
            pid = host.pids()["subject"][0]
            counted, ticking = start(host, "count", {"n": 5000}), start(host, "tick")
            assert (await counted.end()).ending is Ending.COMPLETED
            await ticking.some(5)
            assert "SIGSEGV" in await failure(start(host, "end", {"how": "segfault"}))
            await gone(pid)
            stubborn = start(host, "stubborn")
            await stubborn.some()
            stubborn.call.kill()
            assert "killed on request" in await failure(stubborn)
            assert (await start(host, "count", {"n": 3}).end()).ending is Ending.COMPLETED
            pid = host.pids()["subject"][0]
        await gone(pid)

    async def failure(reader: Reader) -> str:
        assert (await reader.end()).ending is Ending.LOST
        return reader.message

    uvloop.run(scenario())


def test_installed_plugins_are_found_without_loading_them(tmp_path: Path):
    information = tmp_path / "some_plugin-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plugin\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[apexstream.plugins]\nsome = does_not_exist:plugin\n")
    assert installed_plugins([str(tmp_path)])["some"] == "does_not_exist:plugin"
