"""The plugin: two streams that have no end of their own."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, TypeVar

from msgspec import Meta

from apexstream.plugin import ActionContext, Plugin
from apexstream_plugin_monitor.sample import Busiest, Sample, busiest, read_counters, sample

plugin = Plugin("monitor", summary="What this host is doing, sample by sample, until it is cancelled")

IntervalS = Annotated[float, Meta(ge=0.1, le=3600, description="Seconds between two samples.")]
Samples = Annotated[int, Meta(ge=0, description="Stop after so many; 0: go on until cancelled.")]
T = TypeVar("T")


@plugin.action(resume="checkpointed", max_attempts=20)
async def host(
    ctx: ActionContext, *, interval_s: IntervalS = 1.0, samples: Samples = 0
) -> AsyncGenerator[Sample, None]:
    """Stream CPU, load, memory, disk and network of the host that runs this.

    After a crash or a move it goes on with the next sample: what was seen is never taken back, and the pause shows in
    ``over_s`` and ``at``. The state that it keeps is how many samples there were.
    """
    before = read_counters()

    def look() -> Sample:
        nonlocal before
        now = read_counters()
        seen, before = sample(before, now), now
        return seen

    async for seen in _every(ctx, interval_s, samples, look):
        yield seen


@plugin.action(resume="checkpointed", max_attempts=20)
async def processes(
    ctx: ActionContext,
    *,
    interval_s: IntervalS = 2.0,
    top: Annotated[int, Meta(ge=1, le=100, description="How many processes.")] = 10,
    samples: Samples = 0,
) -> AsyncGenerator[Busiest, None]:
    """Stream the processes that use most CPU, as far as this user may see them."""
    await asyncio.to_thread(busiest, 0)
    async for seen in _every(ctx, interval_s, samples, lambda: busiest(top)):
        yield seen


async def _every(ctx: ActionContext, interval_s: float, samples: int, look: Callable[[], T]) -> AsyncGenerator[T, None]:
    """What ``look`` sees, on the beat: a slow look or a paused stream skips beats rather than catching them up."""
    done = ctx.restored(int) or 0
    ctx.persistence.every(chunks=1)
    due = time.monotonic() + interval_s
    while not samples or done < samples:
        await asyncio.sleep(due - time.monotonic())
        if ctx.cancellation_token.is_cancelled:
            return
        seen = await asyncio.to_thread(look)
        done += 1
        ctx.persistence.state = done
        yield seen
        missed = int((time.monotonic() - due) / interval_s)
        due += (missed + 1) * interval_s
