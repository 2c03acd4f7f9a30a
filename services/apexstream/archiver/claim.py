"""Fencing a partition: a claim in the log, then everything up to it, and then nobody else's writing counts any more."""

import asyncio
from dataclasses import dataclass

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.errors import ApexError, Unavailable
from apexstream.core.events import ArchiveProgress
from apexstream.log.cipher import KeyProvider
from apexstream.log.fetcher import LogReader, Partition
from apexstream.log.index import StreamIndex, progress_key
from apexstream.log.segments import SegmentReader
from apexstream.log.writer import Writer
from apexstream.runtime.clock import Clock

CLAIM_TRIES_MAX = 5
INDEX_TIMEOUT_S = 30.0  # for our own records to come back to us

_log = structlog.get_logger(__name__)


class Deposed(ApexError):
    """Another archiver has claimed the partition: what this one wrote since does not count."""

    code = "deposed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What the partitions of one archiver share: its name, its topics, and the hands on them. ``keys`` is where the keys of
    streams are destroyed; None: streams are not encrypted."""

    name: str
    chunks: str
    segments: str
    streams: str
    control: str
    codec: Codec
    clock: Clock
    writer: Writer
    reader: LogReader
    segment_reader: SegmentReader
    index: StreamIndex
    keys: KeyProvider | None

    async def reached(self, partition: int, offset: int) -> None:
        """Return once this process has read its own record at ``offset`` of ``apex.streams``."""
        try:
            async with asyncio.timeout(INDEX_TIMEOUT_S):
                await self.index.reached(partition, offset + 1)
        except TimeoutError:
            raise Unavailable("stream states cannot be followed", where=f"{self.streams}/{partition}") from None

    def check_held(self, progress: ArchiveProgress) -> None:
        """Raise :class:`Deposed` if the claim that ``progress`` goes back to is not the newest."""
        held = self.index.progress(progress.partition)
        if held is None or (held.epoch, held.archiver) != (progress.epoch, progress.archiver):
            by = "an unknown archiver" if held is None else held.archiver
            raise Deposed(f"taken over by {by}", where=f"{self.chunks}/{progress.partition}")

    async def publish(self, progress: ArchiveProgress) -> None:
        """Say how far this archiver is (or that it is here at all), and return once that counts."""
        key, value = progress_key(progress.partition), self.codec.encode(progress)
        await self.reached(
            progress.partition, await self.writer.append(self.streams, key, value, partition=progress.partition)
        )
        self.check_held(progress)


async def claim(archive: Archive, partition: int) -> ArchiveProgress:
    """Claim a partition; once this returns, the index knows everything that counts of it and nothing else ever will but ours.

    The result says where to go on. Raise :class:`Unavailable` if others keep claiming it too.
    """
    for _ in range(CLAIM_TRIES_MAX):
        progress = await _next_claim(archive, partition)
        try:
            await archive.publish(progress)
        except Deposed as problem:
            _log.info("claim lost", partition=partition, epoch=progress.epoch, error=str(problem))
            continue
        _log.debug("partition claimed", partition=partition, epoch=progress.epoch, sealed_to=progress.sealed_to)
        return progress
    raise Unavailable(f"lost {CLAIM_TRIES_MAX} claims to other archivers", where=f"{archive.chunks}/{partition}")


async def _next_claim(archive: Archive, partition: int) -> ArchiveProgress:
    places: dict[str, Partition] = {
        topic: (topic, partition) for topic in (archive.chunks, archive.segments, archive.control)
    }
    starts = await archive.reader.starts(places.values())
    first = {topic: starts[place] for topic, place in places.items()}
    held = archive.index.progress(partition)
    sealed_to = 0 if held is None else held.sealed_to
    if held is not None and first[archive.chunks] > sealed_to:
        _log.error(
            "chunks were deleted before they were sealed; their streams have a hole",
            partition=partition,
            sealed_to=sealed_to,
            log_starts_at=first[archive.chunks],
        )
    return ArchiveProgress(
        partition=partition,
        epoch=archive.index.epoch(partition) + 1,
        archiver=archive.name,
        sealed_to=max(sealed_to, first[archive.chunks]),
        segments_to=max(0 if held is None else held.segments_to, first[archive.segments]),
        control_to=max(0 if held is None else held.control_to, first[archive.control]),
        at_us=archive.clock.now_us(),
    )
