"""Builds an archiver from settings; the only place of this service that constructs adapters."""

import asyncio
import os
from collections.abc import Callable

from apexstream.archiver.claim import Archive, Deposed
from apexstream.archiver.partition import Held, Limits, PartitionArchive
from apexstream.archiver.service import Archiver
from apexstream.core.errors import InvalidConfiguration, Unavailable
from apexstream.core.events import StreamStatus
from apexstream.core.ids import new_id
from apexstream.log.cipher import key_provider
from apexstream.log.connection import connection
from apexstream.log.fetcher import LogReader
from apexstream.log.former import remove_members
from apexstream.log.group import GroupReader
from apexstream.log.index import StreamIndex
from apexstream.log.registry import codec_of
from apexstream.log.segments import SegmentReader
from apexstream.log.trim import delete_before
from apexstream.log.writer import Writer
from apexstream.runtime import meters
from apexstream.runtime.clock import SystemClock
from apexstream.runtime.settings import Settings
from apexstream.runtime.supervise import run_until


async def serve(settings: Settings, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Archive until ``stop``; ``ready`` is called once all states are known and this member has joined the group."""
    clock, codec, kafka = SystemClock(), await codec_of(settings), connection(settings)
    name = settings.instance_name("archiver")
    group_id = settings.topic_prefix + "archivers"
    if settings.sole_instance:
        await remove_members(kafka, group=group_id, client_id=name)
    chunks, segments, streams, control = (
        settings.topic(topic) for topic in ("chunks", "segments", "streams", "control")
    )
    limits = Limits(
        seal_after_s=settings.seal_after_s,
        default_ttl_s=settings.stream_ttl_s,
        trim_after_s=settings.trim_after_s,
        memory_bytes=settings.archiver_memory_mb << 20,
    )
    held = Held()
    meters.ARCHIVER_HELD.read(lambda: held.bytes)
    _show_zeros()
    async with (
        Writer(kafka, client_id=name, timeout_s=settings.append_timeout_s) as writer,
        LogReader(kafka, client_id=f"{name}-view") as views,
        LogReader(kafka, client_id=f"{name}-read") as reads,
        StreamIndex(views, streams, codec) as index,
    ):
        await _check_alike(reads, chunks, segments, streams, control)
        archive = Archive(
            # One process, one life: an archiver that restarts under the same name makes claims of its own.
            name=f"{name}.{new_id(clock.now_us() // 1000, os.urandom(10))[-10:]}",
            chunks=chunks,
            segments=segments,
            streams=streams,
            control=control,
            codec=codec,
            clock=clock,
            writer=writer,
            reader=reads,
            segment_reader=SegmentReader(reads, segments, codec),
            index=index,
            keys=key_provider(settings),
        )

        async def trim(partition: int, offset: int) -> None:
            await delete_before(kafka, {(chunks, partition): offset}, client_id=f"{name}-trim")

        def make_partition(number: int) -> PartitionArchive:
            return PartitionArchive(number, archive, limits, held, trim=trim, on_sealed=archiver.on_sealed)

        archiver = Archiver(chunks, make_partition)
        group = GroupReader(
            kafka,
            [chunks],
            group=group_id,
            client_id=name,
            session_timeout_s=settings.session_timeout_s,
            on_assigned=archiver.on_assigned,
            on_revoked=archiver.on_revoked,
        )
        archiver.join(group)

        async def work() -> None:
            await index.caught_up.wait()
            async with group:
                ready(name)
                await archiver.run()

        await run_until(stop, index.run(), work())


async def _check_alike(reader: LogReader, *topics: str) -> None:
    """A stream's chunks, segments, state and commands must lie in partitions of the same number."""
    counts = {topic: len(await reader.partitions(topic)) for topic in topics}
    if len(set(counts.values())) > 1:
        raise InvalidConfiguration(
            f"the topics of streams differ in their number of partitions: {counts}",
            where="schemas/topics",
            hint="Give all of them as many as the chunks have; partitions can be added, not taken away",
        )


def _show_zeros() -> None:
    """What has not happened yet is 0, not absent: a rate needs something to begin from."""
    meters.VIOLATIONS.of("archiver")
    for counter in (meters.SEALED_CHUNKS, meters.SEALED_SEGMENTS, meters.SEALED_BYTES, meters.TRIMMED):
        counter.of()
    for status in (StreamStatus.EXPIRED, StreamStatus.ERASED):
        meters.STREAMS_GONE.of(status.value)
    for problem in (Deposed, Unavailable):
        meters.ARCHIVER_DEPOSED.of(problem.code)
