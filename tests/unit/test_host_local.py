"""The engine, driven in this process: batches, modes of resuming, and all that may happen at a yield."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from apexstream.core.chunk import RUN_CHUNKS_MAX, Chunk, Kind
from apexstream.plugin import ActionContext, Plugin, PluginManager, RateLimited, TransientError
from apexstream.plugin import Chunk as Yielded
from apexstream.runner.host.local import LocalCall, LocalHost
from apexstream.runner.host.port import CREDIT_BYTES, Call, CallOutcome, Ending, Resume
from apexstream.runtime.clock import SystemClock

TIMEOUT_S = 5.0
FRESH = Resume()


class Reader:
    """A sink that keeps all it is given, and takes it at once or when told."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.call: LocalCall
        self.batches: list[tuple[list[Chunk], bytes | None]] = []
        self.outcome: CallOutcome | None = None
        self.changed = asyncio.Event()

    def chunks(self, chunks: Sequence[Chunk], checkpoint: bytes | None) -> None:
        assert self.outcome is None
        assert chunks
        self.batches.append((list(chunks), checkpoint))
        if self.takes:
            self.call.credit(sum(len(chunk.payload) for chunk in chunks))
        self.changed.set()

    def ended(self, outcome: CallOutcome) -> None:
        assert self.outcome is None
        self.outcome = outcome
        self.changed.set()

    @property
    def all(self) -> list[Chunk]:
        return [chunk for chunks, _ in self.batches for chunk in chunks]

    @property
    def data(self) -> list[Any]:
        return [json.loads(chunk.payload) for chunk in self.all if chunk.kind is Kind.DATA]

    @property
    def checkpoints(self) -> list[tuple[int, Any]]:
        """(data chunks so far, state)"""
        found, count = [], 0
        for chunks, checkpoint in self.batches:
            count += sum(chunk.kind is Kind.DATA for chunk in chunks)
            if checkpoint is not None:
                found.append((count, msgspec.msgpack.decode(checkpoint)))
        return found

    def take_all(self) -> None:
        self.call.credit(sum(len(chunk.payload) for chunk in self.all))

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def end(self) -> CallOutcome:
        await self.until(lambda: self.outcome is not None)
        assert self.outcome is not None
        return self.outcome


plugin = Plugin("p")
gate: dict[str, asyncio.Event] = {}
hold: dict[str, threading.Event] = {}


@plugin.action
async def count(n: int) -> AsyncIterator[int]:
    """Count without ever waiting."""
    for number in range(n):
        yield number


@plugin.action(resume="deterministic")
async def again(ctx: ActionContext, n: int) -> AsyncIterator[list[Any]]:
    for number in range(n):
        await ctx.progress(number, f"before {number}")
        yield [number, ctx.idempotency_key()]


@plugin.action(resume="checkpointed")
async def tally(ctx: ActionContext, n: int, every: int = 1) -> AsyncIterator[list[int]]:
    ctx.persistence.every(chunks=every)
    start = ctx.restored(int) or 0
    for number in range(start, n):
        ctx.persistence.state = number + 1
        yield [number, ctx.attempt]


@plugin.action
async def wait(ctx: ActionContext, name: str) -> AsyncIterator[str]:
    """One chunk, then wait for the gate, then more."""
    yield "before"
    gate[f"{name} reached"].set()
    try:
        await gate[name].wait()
    finally:
        gate[f"{name} left"].set()
    yield "after"
    yield "end"


@plugin.action
async def obstinate(name: str) -> AsyncIterator[str]:
    """Care for no cancellation."""
    yield "before"
    gate[f"{name} reached"].set()
    with suppress(asyncio.CancelledError):
        await gate[name].wait()
    yield "after"
    yield "end"


@plugin.action
async def fail(how: str) -> AsyncIterator[int]:
    yield 1
    if how == "transient":
        raise TransientError("in a moment")
    if how == "rate":
        raise RateLimited(7)
    if how == "bug":
        raise KeyError("x")
    if how == "exit":
        raise SystemExit(3)
    if how == "cancelled":
        raise asyncio.CancelledError
    if how == "object":
        yield object()  # type: ignore[misc]
    if how == "checkpoint":
        yield Yielded(2, checkpoint=1)  # type: ignore[misc]


@plugin.action
async def talk(ctx: ActionContext, n: int) -> AsyncIterator[str]:
    for number in range(n):
        await ctx.progress(None, str(number))
    yield "data"
    await ctx.progress(100.0, "done")


@plugin.action
async def types() -> AsyncIterator[Any]:
    yield {"a": 1}
    yield Yielded("# Hi", "text/markdown")
    yield b"\x00"


@plugin.action
async def large(n: int, size: int) -> AsyncIterator[bytes]:
    for _ in range(n):
        yield b"x" * size


@plugin.action
def blocking(n: int) -> Iterator[int]:
    yield from range(n)


@plugin.action(resume="deterministic")
def blocking_again(ctx: ActionContext, n: int) -> Iterator[Any]:
    for number in range(n):
        ctx.report(number, f"before {number}")
        yield [number, ctx.idempotency_key()]


@plugin.action(resume="checkpointed")
def blocking_tally(ctx: ActionContext, n: int) -> Iterator[int]:
    ctx.persistence.every(chunks=10)
    for number in range(ctx.restored(int) or 0, n):
        ctx.persistence.state = number + 1
        yield number


@plugin.action
def blocking_hold(name: str) -> Iterator[str]:
    """A chunk, and then a step that takes as long as the test wants."""
    yield "one"
    yield "two"
    assert hold[name].wait(TIMEOUT_S)
    yield "three"


@plugin.action
def blocking_fail(how: str) -> Iterator[int]:
    yield from range(1000)
    if how == "bug":
        raise KeyError("x")
    if how == "exit":
        raise SystemExit(3)
    raise asyncio.CancelledError


@plugin.action
async def messy() -> AsyncIterator[int]:
    try:
        while True:
            yield 1
            await asyncio.sleep(0)
    finally:
        raise OSError("cannot clean up")


@plugin.action
def blocking_messy() -> Iterator[int]:
    try:
        while True:
            yield 1
    finally:
        raise OSError("cannot clean up")


@plugin.action
async def unending() -> AsyncIterator[int]:
    while True:
        try:
            while True:
                yield 1
                await asyncio.sleep(0)
        except GeneratorExit:
            yield 2


@plugin.action
async def single() -> str:
    return "result"


def start(
    action: str,
    params: dict[str, Any] | None = None,
    *,
    resume: Resume = FRESH,
    takes: bool = True,
    attempt: int = 1,
) -> Reader:
    plugins = PluginManager([])
    plugins.add("p", plugin)
    reader = Reader(takes=takes)
    call = Call(
        task_id="t1",
        attempt=attempt,
        plugin="p",
        action=action,
        params=json.dumps(params or {}).encode(),
        resume=resume,
    )
    reader.call = LocalHost(plugins, SystemClock()).start(call, reader)
    assert not reader.batches
    return reader


def gates(name: str) -> str:
    gate.update({key: asyncio.Event() for key in (name, f"{name} reached", f"{name} left")})
    return name


async def test_an_action_that_never_waits_gives_everything_in_large_batches():
    reader = start("count", {"n": 2000})
    assert await reader.end() == CallOutcome(ending=Ending.COMPLETED)
    assert reader.data == list(range(2000))
    assert max(len(chunks) for chunks, _ in reader.batches) == RUN_CHUNKS_MAX
    times = [chunk.event_time_us for chunk in reader.all]
    assert times == sorted(times)


@pytest.mark.parametrize(("action", "data"), [("blocking", [0, 1, 2]), ("single", ["result"])])
async def test_every_form_of_action_runs(action: str, data: list[Any]):
    reader = start(action, {"n": 3} if action == "blocking" else {})
    assert (await reader.end()).ending is Ending.COMPLETED
    assert reader.data == data


async def test_content_types_stay_with_their_chunks():
    reader = start("types")
    await reader.end()
    assert [(chunk.payload, chunk.content_type) for chunk in reader.all] == [
        (b'{"a":1}', ""),
        (b"# Hi", "text/markdown"),
        (b"\x00", "application/octet-stream"),
    ]


async def test_a_deterministic_action_runs_again_and_gives_only_what_is_new():
    whole = start("again", {"n": 6})
    await whole.end()
    resumed = start("again", {"n": 6}, resume=Resume(next_seq=8, data_count=4), attempt=2)
    await resumed.end()
    assert resumed.data == whole.data[4:] == [[4, "t1/4"], [5, "t1/5"]]
    messages = [json.loads(chunk.payload)["message"] for chunk in resumed.all if chunk.kind is Kind.PROGRESS]
    assert messages == ["before 4", "before 5"]


async def test_a_long_way_to_skip_leaves_room_for_others():
    reader = start("again", {"n": 3000}, resume=Resume(next_seq=3000, data_count=3000))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert reader.outcome is None
    reader.call.cancel("enough")
    assert (await reader.end()).ending is Ending.CANCELLED


async def test_a_deterministic_action_that_gives_less_than_before_is_told_so():
    reader = start("again", {"n": 2}, resume=Resume(next_seq=3, data_count=3))
    outcome = await reader.end()
    assert (outcome.ending, outcome.error_class) == (Ending.FAILED, "plugin_bug")
    assert "2 chunks where an earlier attempt gave at least 3" in outcome.error["message"]


async def test_a_checkpointed_action_goes_on_from_its_state():
    first = start("tally", {"n": 10, "every": 4})
    await first.end()
    assert first.checkpoints[-1] == (8, 8)
    count, state = first.checkpoints[-1]
    resumed = start(
        "tally",
        {"n": 10, "every": 4},
        resume=Resume(next_seq=count, data_count=count, checkpoint=msgspec.msgpack.encode(state)),
        attempt=2,
    )
    await resumed.end()
    assert resumed.data == [[8, 2], [9, 2]]


async def test_of_many_checkpoints_in_a_batch_the_last_is_kept_with_the_chunks_that_it_covers():
    reader = start("tally", {"n": 100, "every": 1})
    await reader.end()
    assert len(reader.batches) < 50
    assert all(count == state for count, state in reader.checkpoints)
    assert reader.checkpoints[-1] == (100, 100)


async def test_a_restarting_action_ignores_where_the_stream_was():
    reader = start("count", {"n": 3}, resume=Resume(next_seq=2, data_count=2))
    await reader.end()
    assert reader.data == [0, 1, 2]


async def test_a_plain_generator_gives_everything_in_large_batches():
    reader = start("blocking", {"n": 20_000})
    assert (await reader.end()).ending is Ending.COMPLETED
    assert reader.data == list(range(20_000))
    assert len(reader.batches) < 1000


async def test_what_a_plain_generator_yielded_is_not_kept_back_by_its_next_step():
    hold["slow"] = threading.Event()
    reader = start("blocking_hold", {"name": "slow"})
    try:
        await reader.until(lambda: reader.data == ["one", "two"])
    finally:
        hold["slow"].set()
    assert (await reader.end()).ending is Ending.COMPLETED
    assert reader.data == ["one", "two", "three"]


async def test_a_plain_generator_is_skipped_and_goes_on_with_progress_in_its_place():
    reader = start("blocking_again", {"n": 2000}, resume=Resume(next_seq=3600, data_count=1800), takes=False)
    reader.call.pause(True)
    await asyncio.sleep(0.01)
    reader.call.pause(False)
    reader.takes = True
    await reader.end()
    assert reader.data == [[number, f"t1/{number}"] for number in range(1800, 2000)]
    shown = [json.loads(chunk.payload) for chunk in reader.all]
    assert [item.get("message") if isinstance(item, dict) else item[0] for item in shown[:4]] == [
        "before 1800",
        1800,
        "before 1801",
        1801,
    ]


async def test_a_plain_generator_that_gives_less_than_before_is_told_so():
    reader = start("blocking_again", {"n": 500}, resume=Resume(next_seq=600, data_count=600))
    assert "500 chunks where an earlier attempt gave at least 600" in (await reader.end()).error["message"]


async def test_a_plain_generator_keeps_the_state_of_each_chunk_with_it():
    reader = start("blocking_tally", {"n": 5000})
    await reader.end()
    assert reader.data == list(range(5000))
    assert reader.checkpoints
    assert all(count == state for count, state in reader.checkpoints)
    assert reader.checkpoints[-1] == (5000, 5000)


async def test_a_plain_generator_without_credit_waits():
    reader = start("blocking", {"n": 100_000}, takes=False)
    await reader.until(lambda: len(reader.all) >= 2000)
    await asyncio.sleep(0.05)
    assert len(reader.all) < 2000 + 2 * RUN_CHUNKS_MAX
    reader.takes = True
    reader.take_all()
    await reader.end()
    assert reader.data == list(range(100_000))


@pytest.mark.parametrize("how", ["bug", "exit", "cancelled"])
async def test_what_a_plain_generator_yielded_before_it_failed_is_kept(how: str):
    reader = start("blocking_fail", {"how": how})
    assert (await reader.end()).ending is Ending.FAILED
    assert reader.data == list(range(1000))


@pytest.mark.parametrize(
    ("ask", "ending"), [("park", Ending.PARKED), ("cancel", Ending.CANCELLED), ("interrupt", Ending.CANCELLED)]
)
async def test_a_plain_generator_is_ended_at_its_yield(ask: str, ending: Ending):
    reader = start("blocking", {"n": 10_000_000})
    await reader.until(lambda: len(reader.all) > 1000)
    getattr(reader.call, ask)(*(["enough"] if ask == "cancel" else []))
    assert (await reader.end()).ending is ending
    assert reader.data == list(range(len(reader.data)))


@pytest.mark.parametrize(
    ("how", "kind", "code"),
    [
        ("transient", "transient", "transient"),
        ("rate", "rate_limited", "rate_limited"),
        ("bug", "plugin_bug", "plugin_failed"),
        ("exit", "plugin_bug", "plugin_failed"),
        ("cancelled", "plugin_bug", "plugin_failed"),
        ("object", "permanent", "invalid_chunk"),
        ("checkpoint", "permanent", "invalid_chunk"),
    ],
)
async def test_a_failure_comes_after_what_was_yielded_and_has_its_class(how: str, kind: str, code: str):
    reader = start("fail", {"how": how})
    outcome = await reader.end()
    assert (outcome.ending, outcome.error_class, outcome.error["code"]) == (Ending.FAILED, kind, code)
    assert reader.data == [1]


async def test_a_rate_limit_names_its_time():
    reader = start("fail", {"how": "rate"})
    assert (await reader.end()).error["retry_after_s"] == 7


@pytest.mark.parametrize(("action", "params"), [("count", {"n": "x"}), ("nothing", {}), ("count", [1])])
async def test_a_call_that_cannot_run_fails_for_good(action: str, params: Any):
    outcome = await start(action, params).end()
    assert (outcome.ending, outcome.error_class) == (Ending.FAILED, "permanent")


async def test_progress_is_conflated_in_its_place():
    reader = start("talk", {"n": 1000})
    await reader.end()
    shown = [(chunk.kind, chunk.payload[:40]) for chunk in reader.all]
    assert [kind for kind, _ in shown] == [Kind.PROGRESS, Kind.DATA, Kind.PROGRESS]
    assert b'"999"' in shown[0][1]
    assert b"done" in shown[2][1]


async def test_an_action_without_credit_waits_at_its_yield():
    reader = start("large", {"n": 100, "size": 30_000}, takes=False)
    await reader.until(lambda: len(reader.all) * 30_000 >= CREDIT_BYTES)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(reader.all) * 30_000 < CREDIT_BYTES + 30_000
    assert reader.outcome is None
    reader.takes = True
    reader.take_all()
    await reader.end()
    assert len(reader.all) == 100


async def test_small_chunks_cost_what_it_takes_to_hold_them():
    reader = start("count", {"n": 100_000}, takes=False)
    await reader.until(lambda: len(reader.all) >= 2000)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(reader.all) < 2000 + RUN_CHUNKS_MAX
    reader.takes = True
    reader.take_all()
    await reader.end()
    assert reader.data == list(range(100_000))


async def test_empty_chunks_do_not_run_ahead_for_ever():
    reader = start("large", {"n": 10_000, "size": 0}, takes=False)
    await reader.until(lambda: len(reader.all) >= 2000)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(reader.all) < 2000 + RUN_CHUNKS_MAX
    reader.takes = True
    reader.take_all()
    await reader.end()
    assert len(reader.all) == 10_000


async def test_cancel_ends_an_action_at_its_next_yield():
    reader = start("wait", {"name": gates("c")})
    await gate["c reached"].wait()
    reader.call.cancel("enough")
    gate["c"].set()
    assert await reader.end() == CallOutcome(ending=Ending.CANCELLED)
    assert reader.data == ["before", "after"]


async def test_interrupt_ends_an_action_where_it_waits_and_lets_it_clean_up():
    reader = start("wait", {"name": gates("i")})
    await gate["i reached"].wait()
    reader.call.cancel("enough")
    reader.call.interrupt()
    assert await reader.end() == CallOutcome(ending=Ending.CANCELLED)
    assert gate["i left"].is_set()


async def test_an_action_that_ignores_an_interrupt_ends_at_its_next_yield():
    reader = start("obstinate", {"name": gates("o")})
    await gate["o reached"].wait()
    reader.call.interrupt()
    assert (await reader.end()).ending is Ending.CANCELLED
    assert reader.data == ["before", "after"]


async def test_interrupt_before_the_first_step_still_gives_an_end():
    reader = start("count", {"n": 3})
    reader.call.interrupt()
    assert (await reader.end()).ending is Ending.CANCELLED


async def test_park_ends_at_the_next_yield_with_a_checkpoint_that_was_not_due():
    reader = start("tally", {"n": 1_000_000, "every": 500_000}, takes=False)
    await reader.until(lambda: reader.batches)
    reader.call.park()
    reader.takes = True
    reader.take_all()
    outcome = await reader.end()
    assert outcome.ending is Ending.PARKED
    assert all(count == state for count, state in reader.checkpoints)


async def test_park_of_an_action_that_is_about_to_yield_keeps_its_state():
    plugins = PluginManager([])
    own = Plugin("p")
    opened = asyncio.Event()

    @own.action(resume="checkpointed")
    async def slow(ctx: ActionContext) -> AsyncIterator[int]:
        ctx.persistence.every(chunks=1000)
        yield 0
        await opened.wait()
        ctx.persistence.state = 2
        yield 1
        yield 2

    plugins.add("p", own)
    reader = Reader()
    call = Call(task_id="t", attempt=1, plugin="p", action="slow", params=b"{}")
    reader.call = LocalHost(plugins, SystemClock()).start(call, reader)
    await reader.until(lambda: reader.data)
    reader.call.park()
    opened.set()
    assert (await reader.end()).ending is Ending.PARKED
    assert reader.data == [0, 1]
    assert reader.checkpoints == [(2, 2)]


async def test_an_action_that_ends_by_itself_after_park_has_completed():
    reader = start("single")
    await asyncio.sleep(0)
    reader.call.park()
    assert (await reader.end()).ending in {Ending.PARKED, Ending.COMPLETED}


@pytest.mark.parametrize("form", ["messy", "blocking_messy", "unending"])
async def test_an_action_that_stumbles_on_its_way_out_was_stopped_all_the_same(form: str):
    reader = start(form)
    await reader.until(lambda: len(reader.all) > 10)
    reader.call.park()
    assert (await reader.end()).ending is Ending.PARKED


async def test_a_paused_action_waits_at_its_yield_until_it_may_go_on():
    reader = start("wait", {"name": gates("p")})
    await gate["p reached"].wait()
    reader.call.pause(True)
    gate["p"].set()
    await gate["p left"].wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert reader.data == ["before"]
    reader.call.pause(False)
    assert (await reader.end()).ending is Ending.COMPLETED
    assert reader.data == ["before", "after", "end"]


@pytest.mark.parametrize("action", ["count", "blocking"])
async def test_a_full_runner_holds_the_actions_in_its_own_process_too(action: str):
    plugins = PluginManager([])
    plugins.add("p", plugin)
    host, reader = LocalHost(plugins, SystemClock()), Reader()
    host.hold(True)
    call = Call(task_id="t1", attempt=1, plugin="p", action=action, params=b'{"n": 5000}')
    reader.call = host.start(call, reader)
    await reader.until(lambda: reader.batches)
    first = len(reader.data)
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert len(reader.data) == first <= RUN_CHUNKS_MAX
    host.hold(False)
    assert (await reader.end()).ending is Ending.COMPLETED
    assert reader.data == list(range(5000))


@pytest.mark.parametrize(("how", "ending"), [("park", Ending.PARKED), ("cancel", Ending.CANCELLED)])
async def test_a_paused_action_can_be_ended(how: str, ending: Ending):
    reader = start("count", {"n": 1_000_000}, takes=False)
    await reader.until(lambda: reader.batches)
    reader.call.pause(True)
    await asyncio.sleep(0)
    if how == "park":
        reader.call.park()
    else:
        reader.call.cancel("enough")
    assert (await reader.end()).ending is ending


async def test_kill_reports_at_once_and_nothing_after():
    reader = start("obstinate", {"name": gates("k")})
    await gate["k reached"].wait()
    reader.call.kill()
    assert reader.outcome is None
    outcome = await reader.end()
    assert (outcome.ending, outcome.error_class) == (Ending.LOST, "resource")
    for _ in range(20):
        await asyncio.sleep(0)
    assert reader.data == ["before"]


async def test_a_sink_that_raises_interrupts_its_own_action_and_is_told_the_end():
    class Broken(Reader):
        def chunks(self, chunks: Sequence[Chunk], checkpoint: bytes | None) -> None:
            raise RuntimeError("the log is gone")

    plugins = PluginManager([])
    plugins.add("p", plugin)
    reader = Broken()
    call = Call(task_id="t", attempt=1, plugin="p", action="count", params=b'{"n": 100000}')
    reader.call = LocalHost(plugins, SystemClock()).start(call, reader)
    assert (await reader.end()).ending is Ending.CANCELLED


async def test_closing_the_host_ends_every_call():
    plugins = PluginManager([])
    plugins.add("p", plugin)
    host = LocalHost(plugins, SystemClock())
    reader = Reader()
    name = gates("x")
    call = Call(task_id="t", attempt=1, plugin="p", action="wait", params=json.dumps({"name": name}).encode())
    reader.call = host.start(call, reader)
    await gate["x reached"].wait()
    await host.close()
    assert (await reader.end()).ending is Ending.LOST
    assert gate["x left"].is_set()


async def test_the_catalogue_says_how_actions_resume():
    plugins = PluginManager([])
    plugins.add("p", plugin)
    catalogue = LocalHost(plugins, SystemClock()).describe()
    assert catalogue.find("p", "tally").spec.resume == "checkpointed"
    assert not catalogue.find("p", "single").streams
