"""``apexstream queue``, ``why`` and ``reschedule``: what waits, why, and other terms for a task that does."""

import asyncio
from collections.abc import Sequence

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import write_data, write_json
from apexstream.cli.running import gateway_url
from apexstream.cli.table import write_table
from apexstream.client import Client, EnhancedTaskQueue, Queue, Task, Why
from apexstream.client.model import QueueRunner, QueueTier
from apexstream.runtime.settings import load_settings

_TIERS = ("tier", "waiting", "ready", "oldest", "wait p50", "wait p99", "at most", "runs one of")
_RUNNERS = ("runner", "tasks", "of", "used", "labels")


def show_queue(output: str, url: str) -> ExitCode:
    """Show the tiers, the runners, and what cannot start."""
    queue = asyncio.run(_queue(gateway_url(load_settings(), url)))
    if output == "json":
        write_json(queue)
        return ExitCode.OK
    write_table(_TIERS, map(_tier, queue.tiers))
    write_data(f"{queue.active} given out, {queue.held} wait for others or for their time")
    write_table(_RUNNERS, map(_runner, queue.runners))
    for tier in queue.tiers:
        for stuck in tier.stuck:
            whose = f" of {stuck.tenant}" if stuck.tenant else ""
            write_data(f"{stuck.tasks} x {stuck.action}{whose} ({tier.tier}), first {stuck.first}: {stuck.reason}")
    return ExitCode.OK


def show_why(task_id: str, output: str, url: str) -> ExitCode:
    """Say why a task waits, or why it waited."""
    why = asyncio.run(_why(gateway_url(load_settings(), url), task_id))
    write_json(why) if output == "json" else write_data(why.why)
    return ExitCode.OK


def reschedule(task_id: str, tier: str | None, in_s: float | None, output: str, url: str) -> ExitCode:
    """Move a waiting task to another tier or time."""
    task = asyncio.run(_reschedule(gateway_url(load_settings(), url), task_id, tier, in_s))
    write_json(task) if output == "json" else write_data(task.status)
    return ExitCode.OK


async def _queue(url: str) -> Queue:
    async with Client(url) as client:
        return await client.queue()


async def _why(url: str, task_id: str) -> Why:
    async with Client(url) as client:
        return await client.why(task_id)


async def _reschedule(url: str, task_id: str, tier: str | None, in_s: float | None) -> Task:
    async with Client(url) as client:
        not_before_us = None if in_s is None else client.now_us() + int(in_s * 1e6)
        return await EnhancedTaskQueue(client).reschedule(task_id, priority=tier, not_before_us=not_before_us)


def _tier(tier: QueueTier) -> Sequence[str]:
    waits = (f"{seconds:.3f} s" for seconds in (tier.age_s, tier.wait_p50_s, tier.wait_p99_s))
    return (
        tier.tier,
        str(tier.depth),
        str(tier.ready),
        *waits,
        f"{tier.worst_wait_slots} starts",
        str(tier.one_of_slots),
    )


def _runner(runner: QueueRunner) -> Sequence[str]:
    used = ", ".join(f"{name} {runner.used.get(name, 0):g}/{has:g}" for name, has in sorted(runner.amounts.items()))
    return (runner.runner_id, str(runner.tasks), str(runner.capacity), used, ", ".join(runner.labels))
