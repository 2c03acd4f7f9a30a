"""Actions that behave in every way a test needs."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import meeting

from apexstream.plugin import ActionContext, BasePlugin, Chunk, PermanentError, Plugin, TransientError, operators

plugin = Plugin("probe", summary="behaves as told")


@plugin.action
async def count(ctx: ActionContext, n: int = 5, interval_s: float = 0.0, pad: int = 0) -> AsyncIterator[dict[str, Any]]:
    """Yield n numbered chunks, each with the time of its yield in nanoseconds."""
    padding, due = "x" * pad, time.perf_counter()
    for number in range(n):
        if interval_s:
            due += interval_s
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
        elif number % 64 == 0:
            await asyncio.sleep(0)
        yield {"i": number, "t": time.time_ns(), "pad": padding}


@plugin.action
async def gated(ctx: ActionContext, gate: str, n: int = 3) -> AsyncIterator[int]:
    """Yield n chunks, wait until the file `gate` exists, yield n more."""
    import pathlib

    for number in range(2 * n):
        while number == n and not pathlib.Path(gate).exists():
            await asyncio.sleep(0.01)
        yield number


@plugin.action
async def fail(after: int = 2) -> AsyncIterator[int]:
    """Yield some chunks, then raise."""
    for number in range(after):
        yield number
    raise OSError("the disk is on fire")


@plugin.action
async def total(value: int, others: tuple[int, ...] = ()) -> AsyncIterator[dict[str, Any]]:
    """Yield what it was given, and the sum."""
    yield {"value": value, "others": others, "sum": value + sum(others)}


@plugin.action
async def odd(what: str) -> AsyncIterator[Any]:
    """Yield one good chunk and one that cannot be one."""
    yield "good"
    yield {"object": object(), "huge": "x" * 600_000, "surrogate": "\ud800"}[what]


@plugin.action
async def kinds() -> AsyncIterator[Any]:
    """Yield a chunk of every content type."""
    yield {"json": True}
    yield Chunk("# title", "text/markdown")
    yield b"\x00\xff"
    yield None


@plugin.action
async def report(ctx: ActionContext, n: int = 3) -> AsyncIterator[int]:
    """Report progress before each chunk."""
    for number in range(n):
        await ctx.progress(100 * number / n, f"step {number}")
        yield number


@plugin.action
async def deaf(ctx: ActionContext) -> AsyncIterator[int]:
    """Ignore the cancellation token for ever."""
    number = 0
    while True:
        yield number
        number += 1
        await asyncio.sleep(0.02)
        if ctx.cancellation_token.is_cancelled:
            await asyncio.sleep(3600)


@plugin.action
def blocking(n: int = 3) -> Iterator[int]:
    """A plain generator that blocks its thread."""
    for number in range(n):
        time.sleep(0.01)
        yield number


@plugin.action
async def traced(ctx: ActionContext) -> AsyncIterator[str]:
    """Yield the trace context of this attempt."""
    yield ctx.traceparent


@plugin.action
async def stuck(seconds: float) -> AsyncIterator[int]:
    """Block the event loop that it runs in."""
    yield 0
    time.sleep(seconds)
    yield 1


@plugin.action(resume="checkpointed")
async def flaky(
    ctx: ActionContext, n: int = 10, fail_at: tuple[int, ...] = (), error: str = "transient"
) -> AsyncIterator[int]:
    """Yield 0 to n-1 with a checkpoint each; fail once at each number of fail_at, counted by attempts."""
    start = ctx.restored(int) or 0
    for number in range(start, n):
        if ctx.attempt <= len(fail_at) and number == fail_at[ctx.attempt - 1]:
            raise {"transient": TransientError, "permanent": PermanentError, "bug": KeyError}[error](f"at {number}")
        yield Chunk(number, checkpoint=number + 1)


@plugin.action(resume="deterministic")
async def again(ctx: ActionContext, n: int = 10, fail_at: int = -1) -> AsyncIterator[Any]:
    """Yield 0 to n-1 with progress between them; the first attempt fails at fail_at."""
    for number in range(n):
        if ctx.attempt == 1 and number == fail_at:
            raise TransientError(f"at {number}")
        await ctx.progress(100 * number / n)
        yield number


@plugin.action(resume="checkpointed")
async def steady(ctx: ActionContext, n: int = 100, interval_s: float = 0.02, gate: str = "") -> AsyncIterator[int]:
    """Yield 0 to n-1, one each interval, a checkpoint with every fifth; the last one once the file `gate` exists."""
    import pathlib

    persistence = ctx.persistence
    persistence.every(chunks=5)
    for number in range(ctx.restored(int) or 0, n):
        persistence.state = number + 1
        while gate and number == n - 1 and not pathlib.Path(gate).exists():
            await asyncio.sleep(interval_s)
        yield number
        await asyncio.sleep(interval_s)


@plugin.action(resume="checkpointed")
async def saved(ctx: ActionContext, n: int = 5, interval_s: float = 0.0, pad: int = 0) -> AsyncIterator[Chunk]:
    """Like count, with the number to go on from after every chunk."""
    padding, due = "x" * pad, time.perf_counter()
    for number in range(ctx.restored(int) or 0, n):
        due += interval_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        yield Chunk({"i": number, "t": time.time_ns(), "pad": padding}, checkpoint=number + 1)


@plugin.action
async def silent(ctx: ActionContext, before: int = 0) -> AsyncIterator[int]:
    """Yield some chunks, then nothing for ever."""
    for number in range(before):
        yield number
    await ctx.cancellation_token.wait()


@plugin.action
async def readings(times: tuple[int, ...] = (), watermark: int = 0) -> AsyncIterator[Any]:
    """Yield an element for each time, then a watermark."""
    for at in times:
        yield {"t": at}
    if watermark:
        yield operators.Watermark(watermark)


@plugin.function
def trouble(text: str) -> Any:
    """Do what the text says."""
    if text == "raise":
        raise ValueError("as told")
    if text == "hang":
        time.sleep(3600)
    if text == "die":
        os._exit(3)
    return object() if text == "nonsense" else text.upper()


@plugin.function
async def double_i(value: dict[str, Any]) -> dict[str, Any]:
    """Twice the value of i."""
    print("this must not be taken for an answer")
    return {**value, "i": 2 * value["i"]}


class Whole(BasePlugin):
    """A plugin that only has execute_action."""

    def get_actions(self) -> list[str]:
        return ["add"]

    async def execute_action(self, action_name: str, params: Any = None) -> Any:
        return {"sum": params["a"] + params["b"]}


@plugin.action
async def rewinding(ctx: ActionContext, gate: str) -> AsyncIterator[int]:
    """Yield three chunks, wait for the file `gate`, fail; yield other ones the next time."""
    import pathlib

    for number in range(3):
        yield number + 10 * ctx.attempt
    while ctx.attempt == 1:
        if pathlib.Path(gate).exists():
            raise TransientError("once more")
        await asyncio.sleep(0.01)


@plugin.action
async def converse(
    ctx: ActionContext,
    messages: list[dict[str, Any]],
    extra: tuple[dict[str, Any], ...] = (),
    gate: str = "",
    falter: bool = False,
) -> AsyncIterator[Any]:
    """Answer a chat: words, the objects of extra, a number, the last word once the file `gate` exists; falter before it."""
    import pathlib

    yield f"attempt {ctx.attempt}: "
    yield "you said "
    for each in extra:
        yield each
    yield {"answers": len(messages)}
    while gate and not pathlib.Path(gate).exists():
        await asyncio.sleep(0.01)
    if falter and ctx.attempt == 1:
        raise TransientError("as told")
    await ctx.progress(90)
    yield "enough"


meeting.add(plugin)


@plugin.function
def slowly(value: Any) -> Any:
    """The value, after a while."""
    time.sleep(0.008)
    return value


@plugin.action
async def until_told(gate: str, pad: int = 0) -> AsyncIterator[dict[str, Any]]:
    """Yield numbers, as fast as it may, until the file `gate` exists."""
    import pathlib

    number, padding = 0, "x" * pad
    while not pathlib.Path(gate).exists():
        yield {"i": number, "pad": padding}
        number += 1
