"""Builds the dispatcher from settings; the only place of this service that constructs adapters."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

from apexstream.core.ids import new_id
from apexstream.dispatcher.configured import policy_of
from apexstream.dispatcher.service import Dispatcher
from apexstream.log.chunks import ChunkLog
from apexstream.log.connection import connection
from apexstream.log.fetcher import LogReader
from apexstream.log.registry import codec_of
from apexstream.log.sole import SoleReader
from apexstream.log.tiered import tier_topics
from apexstream.log.view import View
from apexstream.log.writer import Writer
from apexstream.runtime.clock import SystemClock
from apexstream.runtime.settings import Settings
from apexstream.runtime.supervise import run_until


async def serve(settings: Settings, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Dispatch, or stand by while another dispatcher does, until ``stop``. ``ready`` is called once all that earlier
    dispatchers did is known."""
    clock, codec, kafka = SystemClock(), await codec_of(settings), connection(settings)
    name = settings.instance_name("dispatcher")
    # One process, one life: a dispatcher that restarts under the same name is another one.
    life = f"{name}.{new_id(clock.now_us() // 1000, os.urandom(10))[-10:]}"
    policy = policy_of(settings)
    chunks, events, assignments, control, queue = (
        settings.topic(topic) for topic in ("chunks", "task-events", "assignments", "control", "queue")
    )
    async with (
        Writer(kafka, client_id=name, timeout_s=settings.append_timeout_s) as writer,
        LogReader(kafka, client_id=f"{name}-view") as reader,
        LogReader(kafka, client_id=f"{name}-scan") as scans,
    ):
        await writer.prepare(chunks, events, assignments, control, queue)
        await scans.partitions(chunks)
        tiers = await tier_topics(reader, settings.topic("tasks."), policy.tiers)
        dispatcher = Dispatcher(
            life,
            codec=codec,
            clock=clock,
            policy=policy,
            tier_topics=tiers,
            assignment_partitions=[number for _, number in await reader.partitions(assignments)],
            assign=lambda partition, key, value, headers=(): writer.append(
                assignments, key, value, partition=partition, headers=headers
            ),
            send_assignment=lambda partition, key, value, listener, headers: writer.put(
                assignments, partition, key, value, listener, headers=headers
            ),
            send_event=lambda key, value, listener: writer.put(
                events, writer.partition_of(events, key), key, value, listener
            ),
            publish_event=lambda key, value: writer.append(events, key.encode(), value),
            publish_command=lambda key, value: writer.append(control, key.encode(), value),
            publish_state=lambda key, value: writer.append(queue, key.encode(), value),
            chunks=ChunkLog(chunks, codec, scans, writer, life),
            silent_s_max=settings.dispatcher_silent_s,
            sole_of=name if settings.sole_instance else "",
        )
        view = await View.open(
            reader,
            {
                assignments: dispatcher.on_assignments,
                events: dispatcher.on_task_events,
                settings.topic("runners"): dispatcher.on_runners,
                control: dispatcher.on_control,
                queue: dispatcher.on_queue,
            },
        )
        submissions = [partition for topic in tiers for partition in await reader.partitions(topic)]

        async def serve_terms() -> None:
            await view.caught_up.wait()
            ready(name)
            while True:
                await dispatcher.stand_by()
                await _until(dispatcher.deposed, serve_term())

        async def serve_term() -> None:
            try:
                if await dispatcher.begin():
                    group = f"{settings.topic_prefix}dispatchers"
                    async with SoleReader(kafka, submissions, group=group, client_id=name) as taken:
                        await dispatcher.run(taken)
            finally:
                await dispatcher.end()

        await run_until(stop, view.run(), serve_terms())


async def _until(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Do ``work`` until it ends, which raises what it raised, or until ``event`` is set."""
    working, waiting = asyncio.create_task(work, name="term"), asyncio.create_task(event.wait(), name="deposed")
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
