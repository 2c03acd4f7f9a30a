"""Actions that meet other tasks; part of the probe plugin."""

import asyncio
import pathlib
from collections.abc import AsyncIterator
from typing import Any

from apexstream.plugin import ActionContext, NotCoordinated, Plugin


def add(plugin: Plugin) -> None:
    """Add the actions to ``plugin``."""
    for action in (meet, resumed, told, waits, counts):
        plugin.action(action)


async def meet(ctx: ActionContext, parties: int, me: str, scope: str = "") -> AsyncIterator[Any]:
    """Meet, and say who came; the first of them signals, and all say what."""
    members = await ctx.barrier("start", parties, me, scope=scope)
    yield sorted(members.values())
    if members[ctx.task_id] == min(members.values()):
        await ctx.signal("chosen", me, scope=scope)
    yield await ctx.wait_for("chosen", scope=scope)


async def resumed(ctx: ActionContext, here: str, scope: str) -> AsyncIterator[Any]:
    """Read a value that others change, leave the attempt's number in the file `here`, meet one other, and say all of it."""
    seen = await ctx.shared.get("count", scope=scope)
    mine = await ctx.shared.update("visits", lambda so_far: (so_far or 0) + 1, scope=scope)
    yield {"seen": seen.value, "version": seen.version, "visits": mine.value}
    await asyncio.to_thread(pathlib.Path(here).write_text, str(ctx.attempt))
    members = await ctx.barrier("both", 2, "resumed", scope=scope)
    yield sorted(members.values())


async def told(ctx: ActionContext, scope: str) -> AsyncIterator[Any]:
    """Say what the value is now, meet the other, and say how often it visited."""
    yield (await ctx.shared.get("count", scope=scope)).value
    yield sorted((await ctx.barrier("both", 2, "told", scope=scope)).values())
    yield (await ctx.shared.get("visits", scope=scope)).value


async def waits(ctx: ActionContext, what: str, scope: str = "", timeout_s: float = 0.2) -> AsyncIterator[Any]:
    """Wait for what does not come, twice, and say what it was told."""
    for _ in range(2):
        try:
            if what == "signal":
                await ctx.wait_for("never", timeout_s=timeout_s, scope=scope)
            else:
                await ctx.barrier("alone", 2, timeout_s=timeout_s, scope=scope)
        except NotCoordinated as problem:
            yield problem.code


async def counts(ctx: ActionContext, times: int, scope: str) -> AsyncIterator[Any]:
    """Count together with others."""
    for _ in range(times):
        done = await ctx.shared.update("count", lambda so_far: (so_far or 0) + 1, scope=scope)
    yield done.value
