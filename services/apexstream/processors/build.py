"""Builds processors from settings; the only place of this service that constructs adapters.

Pipelines load Faust, and join their group, when the first one appears; statistics do so at once, if they are kept here.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from time import monotonic

import structlog

from apexstream.contracts.codec import Codec
from apexstream.contracts.run_codec import RunEncoder
from apexstream.core.errors import InvalidConfiguration
from apexstream.core.ids import new_id
from apexstream.log.connection import Connection, connection
from apexstream.log.fetcher import LogReader
from apexstream.log.former import remove_members
from apexstream.log.index import StreamIndex
from apexstream.log.pressure import report_pressure
from apexstream.log.registry import codec_of
from apexstream.log.segments import SegmentReader
from apexstream.log.view import View
from apexstream.log.writer import Writer
from apexstream.processors import watchdog as watching
from apexstream.processors.functions import Functions
from apexstream.processors.inputs import StreamReader
from apexstream.processors.job import Hands, Job
from apexstream.processors.service import Known, Processors
from apexstream.processors.table import TableRows
from apexstream.processors.watchdog import Stalled, Watchdog
from apexstream.runtime import meters
from apexstream.runtime.clock import SystemClock
from apexstream.runtime.health import HEALTH
from apexstream.runtime.settings import Settings
from apexstream.runtime.supervise import run_until

_log = structlog.get_logger(__name__)


async def serve(settings: Settings, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Process until ``stop``; ``ready`` is called once all pipelines are known."""
    if settings.encryption != "off":
        raise InvalidConfiguration(
            "pipelines keep what they hold unencrypted",
            where="APEX_ENCRYPTION",
            hint="Run without processors, or without encryption",
        )
    clock, codec, kafka = SystemClock(), await codec_of(settings), connection(settings)
    name = settings.instance_name("processors")
    group = f"{settings.topic_prefix}processors"
    chunks, work, state = (settings.topic(topic) for topic in ("chunks", "pipeline-work", "pipeline-state"))
    async with (
        Writer(kafka, client_id=name, timeout_s=settings.append_timeout_s) as writer,
        LogReader(kafka, client_id=f"{name}-view") as views,
        LogReader(
            kafka, client_id=f"{name}-pipelines"
        ) as commands,  # one connection each: a long poll holds up the next
        LogReader(kafka, client_id=f"{name}-read") as reads,
        StreamIndex(views, settings.topic("streams"), codec) as index,
    ):
        await writer.prepare(chunks, work, state, settings.topic("stats"), settings.topic("control"))
        await reads.partitions(chunks)
        await reads.partitions(settings.topic("segments"))
        partitions = len(await reads.partitions(work))
        if partitions != len(await reads.partitions(state)):
            raise InvalidConfiguration(
                f"{work} and {state} differ in their number of partitions",
                where="schemas/topics",
                hint="Give both as many; partitions can be added, not taken away",
            )

        def partition_of(job_id: str) -> int:
            return writer.partition_of(work, job_id.encode())

        async def send(job_id: str, value: bytes) -> int:
            return await writer.append(work, job_id.encode(), value)

        def make_job(job_id: str, part: int, known: Known) -> Job:
            return Job(job_id, known.definition, known.fingerprint, hands, part=part, tenant=known.pipeline.tenant)

        processors = Processors(codec, partition_of, make_job, clock.now_us)
        reader = StreamReader(
            reads,
            index,
            SegmentReader(reads, settings.topic("segments"), codec),
            codec,
            partition_of=lambda stream_id: (chunks, writer.partition_of(chunks, stream_id.encode())),
            now_us=clock.now_us,
        )
        rows = TableRows(state, codec, writer, partition_of)
        hands = Hands(
            # One process, one life: who starts again under the same name makes claims of its own.
            name=f"{name}.{new_id(clock.now_us() // 1000, os.urandom(10))[-10:]}",
            reader=reader,
            streams=ChunkStreams(codec, writer, chunks),
            rows=rows,
            functions=Functions,
            fall=_fall,
            clock=clock,
            send=send,
        )
        view = await View.open(commands, {settings.topic("pipelines"): processors.on_pipelines})

        watchdog, counting = Watchdog(), Watchdog()
        for metric in (meters.PIPELINE_RESTARTS, meters.PIPELINE_RESTORE):
            metric.of()  # shown from the beginning, so that the first change is seen as one

        async def work_on() -> None:
            await view.caught_up.wait()
            await index.caught_up.wait()
            ready(name)
            await processors.wanted.wait()
            from apexstream.processors.agents import Topics, run_faust  # Faust takes a second to load

            if settings.sole_instance:
                await remove_members(kafka, group=group, client_id=name)
            await _started_again(
                lambda: run_faust(
                    kafka,
                    Topics(work=work, state=state, partitions=partitions),
                    group=group,
                    client_id=name,
                    codec=codec,
                    standby=settings.processors_standby,
                    session_timeout_s=settings.session_timeout_s,
                    take=processors.take,
                    settle=processors.settle,
                    rows=rows,
                    watchdog=watchdog,
                    ends=reads.ends,
                ),
                watchdog,
                lambda: processors.settle(frozenset()),
            )

        count = _count(settings, kafka, codec, reads, writer, name=name, watchdog=counting)
        pressure = report_pressure(
            processors.behind,
            lambda key, value: writer.append(settings.topic("control"), key, value),
            codec,
            clock,
            reader=name,
        )
        unchecked = HEALTH.check("consumer", lambda: watchdog.trouble or counting.trouble)
        try:
            await run_until(stop, view.run(), index.run(), processors.run(), pressure, work_on(), count)
        finally:
            unchecked()


async def _count(
    settings: Settings,
    kafka: Connection,
    codec: Codec,
    reads: LogReader,
    writer: Writer,
    *,
    name: str,
    watchdog: Watchdog,
) -> None:
    """Keep statistics, if they are kept here."""
    if settings.stats == "off":
        await asyncio.Event().wait()
    from apexstream.processors.stats.agent import Topics, run_statistics

    group, client_id = f"{settings.topic_prefix}processors-stats", f"{name}-stats"
    chunks, events, stats = (settings.topic(topic) for topic in ("chunks", "task-events", "stats"))
    counts = {topic: len(await reads.partitions(topic)) for topic in (chunks, events, stats)}
    if len(set(counts.values())) > 1:
        raise InvalidConfiguration(
            f"statistics need as many partitions of each, there are {counts}",
            where="schemas/topics",
            hint="Add partitions where there are fewer, or set APEX_STATS=off",
        )
    if settings.sole_instance:
        await remove_members(kafka, group=group, client_id=client_id)
    await _started_again(
        lambda: run_statistics(
            kafka,
            Topics(chunks=chunks, events=events, stats=stats, partitions=counts[chunks]),
            group=group,
            client_id=client_id,
            codec=codec,
            writer=writer,
            session_timeout_s=settings.session_timeout_s,
            watchdog=watchdog,
            ends=reads.ends,
        ),
        watchdog,
        _nothing,
    )


async def _started_again(
    run: Callable[[], Awaitable[None]], watchdog: Watchdog, settle: Callable[[], Awaitable[None]]
) -> None:
    """Run an application, again when its agent has stopped consuming, up to ``RESTARTS_MAX`` times without anything taken."""
    while True:
        try:
            await run()
        except Stalled as problem:
            meters.PIPELINE_RESTARTS.of().value += 1
            watchdog.restarts += 1
            watchdog.own(None, monotonic())
            await settle()
            _log.error("the agent had stopped consuming", error=str(problem), restarts=watchdog.restarts)
            if watchdog.restarts > watching.RESTARTS_MAX:
                raise


async def _nothing() -> None:
    """The application forgets by itself."""


class ChunkStreams:
    """Appends to ``apex.chunks``; see :class:`output.Streams`."""

    def __init__(self, codec: Codec, writer: Writer, topic: str) -> None:
        self._codec = codec
        self._writer = writer
        self._topic = topic

    def encoder(self, stream_id: str, attempt: int, writer: str) -> RunEncoder:
        """An encoder of the runs of ``writer``."""
        return self._codec.run_encoder(stream_id, attempt, writer)

    async def append(self, stream_id: str, value: bytes) -> int:
        """Append a run; its offset once it is acknowledged."""
        return await self._writer.append(self._topic, stream_id.encode(), value)


def _fall(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")
