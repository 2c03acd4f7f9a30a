"""Actions whose streams the checker can predict to the last byte that matters, one for every way to resume.

Where a plan says so they report progress, fail, or behave as no plugin should. ``nonce`` marks one execution: a stream in
restart mode must hold one of them only.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
from fault_payload import SEED, digest_after

from apexstream.plugin import ActionContext, Chunk, Plugin, TransientError

TOO_LARGE_BYTES = 1_100_000  # more than Kafka takes in one record
BLOCK_S = 8.0
ORPHAN_S = 20.0  # how long a process that escaped lives: only a container can end it

plugin = Plugin("fault", summary="a workload whose result is known beforehand")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """``n`` data chunks, ``burst`` of them every ``interval_s``; ``pad`` more bytes in each; a progress report before every
    ``progress_every``-th (0: none); an exception before data chunk ``fail_at`` (-1: none). With ``gate``, a directory, it says
    there that it runs, and waits until there is a file ``open``."""

    key: str
    n: int
    interval_s: float = 0.0
    burst: int = 1
    pad: int = 0
    progress_every: int = 0
    fail_at: int = -1
    gate: str = ""


class State(msgspec.Struct, frozen=True):
    """What a checkpointed execution goes on from: the next data index and the digest before it."""

    index: int
    digest: str


class PlannedFailure(Exception):
    """The failure that a plan asks for."""


def _value(plan: Plan, state: State, nonce: str) -> dict[str, Any]:
    return {"k": plan.key, "i": state.index, "d": state.digest, "r": nonce, "x": "x" * plan.pad}


def _after(plan: Plan, state: State) -> State:
    return State(state.index + 1, digest_after(state.digest, plan.key, state.index))


async def _pace(ctx: ActionContext, plan: Plan, index: int) -> None:
    if index == plan.fail_at:
        raise PlannedFailure(f"as planned at {index}")
    if plan.gate and index == 0:
        (Path(plan.gate) / plan.key).touch()
        while not (Path(plan.gate) / "open").exists():
            await asyncio.sleep(0.02)
    if plan.progress_every and index % plan.progress_every == 0:
        await ctx.progress(100 * index / plan.n, f"at {index}")
    if index % plan.burst == 0:
        await asyncio.sleep(plan.interval_s)


async def _steps(ctx: ActionContext, plan: Plan, state: State) -> AsyncIterator[State]:
    while state.index < plan.n:
        await _pace(ctx, plan, state.index)
        nonce_free = _after(plan, state)
        yield State(state.index, nonce_free.digest)
        state = nonce_free


@plugin.action(resume="restart")
async def restart(ctx: ActionContext, plan: Plan) -> AsyncIterator[dict[str, Any]]:
    """Begin again from nothing after every fault."""
    nonce = os.urandom(4).hex()
    async for state in _steps(ctx, plan, State(0, SEED)):
        yield _value(plan, state, nonce)


@plugin.action(resume="deterministic")
async def deterministic(ctx: ActionContext, plan: Plan) -> AsyncIterator[dict[str, Any]]:
    """Run again after a fault; what is published already is skipped."""
    async for state in _steps(ctx, plan, State(0, SEED)):
        yield _value(plan, state, "")


@plugin.action(resume="checkpointed")
async def checkpointed(ctx: ActionContext, plan: Plan, every: int = 1) -> AsyncIterator[Any]:
    """Go on from the state that travelled with the last checkpointed chunk; every ``every``-th has one."""
    nonce = os.urandom(4).hex()
    async for state in _steps(ctx, plan, ctx.restored(State) or State(0, SEED)):
        value = _value(plan, state, nonce)
        due = (state.index + 1) % every == 0
        yield Chunk(value, checkpoint=State(state.index + 1, state.digest)) if due else value


@plugin.action(resume="checkpointed")
async def persistent(ctx: ActionContext, plan: Plan, every: int = 10) -> AsyncIterator[dict[str, Any]]:
    """The same through ``ctx.persistence``, which decides which chunk carries the state."""
    nonce = os.urandom(4).hex()
    ctx.persistence.every(chunks=every)
    async for state in _steps(ctx, plan, ctx.restored(State) or State(0, SEED)):
        ctx.persistence.state = State(state.index + 1, state.digest)
        yield _value(plan, state, nonce)


@plugin.action(resume="restart")
def threaded(plan: Plan) -> Iterator[dict[str, Any]]:
    """A plain generator that blocks its thread, in restart mode."""
    nonce, state = os.urandom(4).hex(), State(0, SEED)
    for index in range(plan.n):
        if index % plan.burst == 0:
            time.sleep(plan.interval_s)
        state = _after(plan, state)
        yield _value(plan, State(index, state.digest), nonce)


@plugin.action(resume="restart")
async def misbehave(ctx: ActionContext, plan: Plan, how: str) -> AsyncIterator[dict[str, Any]]:
    """Yield the plan's chunks, then do what no plugin should: ``exit``, ``abort``, ``leak``, ``fork``, ``spin``, ``never``,
    ``large`` or ``block``; a run that survives that is complete."""
    async for state in _steps(ctx, plan, State(0, SEED)):
        yield _value(plan, state, "")
    if how == "large":
        yield _value(plan, State(plan.n, "x" * TOO_LARGE_BYTES), "")
    else:
        await _MISDEEDS[how]()


@plugin.action(resume="deterministic")
async def flaky(ctx: ActionContext, plan: Plan, failures: int) -> AsyncIterator[dict[str, Any]]:
    """What it depends on is down in the first ``failures`` attempts, each time a little later."""
    async for state in _steps(ctx, plan, State(0, SEED)):
        if ctx.attempt <= failures and state.index >= 3 * ctx.attempt:
            raise TransientError("503 from the service that it asks")
        yield _value(plan, state, "")
    if ctx.attempt <= failures:
        raise TransientError("503 from the service that it asks")


async def _exit() -> None:
    os._exit(3)


async def _abort() -> None:
    os.kill(os.getpid(), signal.SIGABRT)


async def _leak() -> None:
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 16)


async def _fork() -> None:
    if os.fork() == 0:
        os.setsid()
        time.sleep(ORPHAN_S)
    os._exit(0)


async def _spin() -> None:
    while True:
        pass


async def _block() -> None:
    time.sleep(BLOCK_S)


async def _never() -> None:
    await asyncio.sleep(3600)


_MISDEEDS = {
    "exit": _exit,
    "abort": _abort,
    "leak": _leak,
    "fork": _fork,
    "spin": _spin,
    "never": _never,
    "block": _block,
}
