"""Builds a runner from settings; the only place of this service that constructs adapters."""

import asyncio
import os
from collections.abc import Callable

from apexstream.contracts.codec import Codec
from apexstream.core.events import TaskSubmitted
from apexstream.core.fold import StreamFold
from apexstream.core.ids import new_id
from apexstream.log.chunks import ChunkLog
from apexstream.log.fetcher import LogReader, Tail
from apexstream.log.group import GroupReader
from apexstream.log.writer import Writer
from apexstream.plugin import PluginManager
from apexstream.runner.attempt import Attempt
from apexstream.runner.service import Runner
from apexstream.runtime.clock import SystemClock
from apexstream.runtime.settings import Settings
from apexstream.runtime.supervise import run_until


class _StreamLog(ChunkLog):
    """The chunk log as attempts see it."""

    async def fold_task(self, task: TaskSubmitted, *, end: int | None) -> StreamFold:
        """Fold the task's stream; it cannot be older than the task."""
        return await self.fold(task.task_id, since_us=task.submitted_us, end=end)


async def serve(settings: Settings, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Run until ``stop``; ``ready`` is called once assignments are taken."""
    clock = SystemClock()
    runner_id = settings.instance_name("runner")
    # One process, one life: a runner that restarts under the same name is another writer.
    writer_id = f"{runner_id}.{new_id(clock.now_us() // 1000, os.urandom(10))[-10:]}"
    bootstrap, codec, plugins = settings.bootstrap_servers, Codec(), PluginManager()
    chunks, events, states = (settings.topic(name) for name in ("chunks", "task-events", "runners"))
    assignments, control = settings.topic("assignments"), settings.topic("control")
    async with (
        Writer(bootstrap, client_id=runner_id, timeout_s=settings.append_timeout_s) as writer,
        LogReader(bootstrap, client_id=f"{runner_id}-scan") as scans,
        LogReader(bootstrap, client_id=f"{runner_id}-control") as controls,
    ):
        await writer.prepare(chunks, events, states)
        log = _StreamLog(chunks, codec, scans, writer, writer_id)
        runner = Runner(
            runner_id,
            capacity=settings.runner_capacity,
            plugins=plugins,
            codec=codec,
            clock=clock,
            make_attempt=lambda task: Attempt(task, plugins, log, writer_id, clock),
            publish_event=lambda key, value: writer.append(events, key.encode(), value),
            publish_state=lambda key, value: writer.append(states, key.encode(), value),
            log_reader=scans,
        )
        control_tail = Tail(controls, await controls.ends(await controls.partitions(control)), runner.on_control)
        await scans.partitions(assignments)
        group = GroupReader(
            bootstrap,
            [assignments],
            group=f"{settings.topic_prefix}runners",
            client_id=runner_id,
            on_assigned=runner.on_assigned,
            on_revoked=runner.on_revoked,
        )
        async with group:
            ready(f"{runner_id}: {sum(1 for _ in plugins.actions())} actions")
            await run_until(stop, control_tail.run(), runner.run(group))
