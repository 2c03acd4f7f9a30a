"""Builds the dispatcher from settings; the only place of this service that constructs adapters."""

import asyncio
import os
from collections.abc import Callable

from apexstream.contracts.codec import Codec
from apexstream.core.ids import new_id
from apexstream.core.tiers import Tier
from apexstream.dispatcher.service import Dispatcher
from apexstream.log.chunks import ChunkLog
from apexstream.log.connection import connection
from apexstream.log.fetcher import LogReader
from apexstream.log.group import GroupReader
from apexstream.log.view import View
from apexstream.log.writer import Writer
from apexstream.runtime.clock import SystemClock
from apexstream.runtime.settings import Settings
from apexstream.runtime.supervise import run_until


async def serve(settings: Settings, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Dispatch until ``stop``; ``ready`` is called once all that earlier dispatchers did is known."""
    clock, codec, kafka = SystemClock(), Codec(), connection(settings)
    name = settings.instance_name("dispatcher")
    writer_id = f"{name}.{new_id(clock.now_us() // 1000, os.urandom(10))[-10:]}"
    tiers = {settings.topic(f"tasks.{tier}"): tier for tier in Tier}
    chunks, events, assignments = (settings.topic(topic) for topic in ("chunks", "task-events", "assignments"))
    async with (
        Writer(kafka, client_id=name, timeout_s=settings.append_timeout_s) as writer,
        LogReader(kafka, client_id=f"{name}-view") as reader,
    ):
        await writer.prepare(chunks, events, assignments)
        dispatcher = Dispatcher(
            name,
            codec=codec,
            clock=clock,
            tier_topics=tiers,
            assign=lambda partition, key, value: writer.append(assignments, key, value, partition=partition),
            publish_event=lambda key, value: writer.append(events, key.encode(), value),
            chunks=ChunkLog(chunks, codec, reader, writer, writer_id),
        )
        view = await View.open(
            reader,
            {
                assignments: dispatcher.on_assignments,
                events: dispatcher.on_task_events,
                settings.topic("runners"): dispatcher.on_runners,
                settings.topic("control"): dispatcher.on_control,
            },
        )
        group = GroupReader(
            kafka,
            tiers,
            group=f"{settings.topic_prefix}dispatchers",
            client_id=name,
            on_assigned=dispatcher.on_assigned,
            on_revoked=dispatcher.on_revoked,
        )

        async def dispatch() -> None:
            await view.caught_up.wait()
            async with group:
                ready(name)
                await dispatcher.run(group)

        await run_until(stop, view.run(), dispatch())
