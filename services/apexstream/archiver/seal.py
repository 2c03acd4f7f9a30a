"""The writing hand of one partition, under one claim: segments, then states, each acknowledged before the next.

What is in ``apex.segments`` is always accounted for: its own records come back with consecutive offsets, so a gap is what
a deposed archiver wrote, and what a dead one left unfinished lies behind its last progress. Either gets a tombstone.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from apexstream.archiver.claim import Archive, Deposed
from apexstream.archiver.refs import cut_at, overfull
from apexstream.archiver.stream import OpenStream, Snapshot
from apexstream.core.errors import DataCorruption
from apexstream.core.events import ArchiveProgress, SegmentRef, StreamState, StreamStatus
from apexstream.log.fetcher import Record
from apexstream.log.segments import (
    epoch_of,
    number_of,
    pack_chunks,
    pack_page,
    read_segment_key,
    segment_key,
    split,
)
from apexstream.runtime import meters

WAVE_BYTES_MAX = 32 * 1024  # of segments in one batch: who wants one of them is given the whole batch

_log = structlog.get_logger(__name__)

Append = tuple[bytes, bytes | None]
"""Key and value of a record to be appended; no value: a tombstone."""
End = tuple[str, StreamStatus, str]
"""A stream that ends for good, its last status, and whose it is if nothing sealed says so."""


@dataclass(slots=True)
class _Plan:
    """A stream's segments on their way: where they lie, what is erased before its new state counts, and what after."""

    stream: OpenStream
    snapshot: Snapshot
    segments: list[SegmentRef]
    erased: list[int] = field(default_factory=list)
    erased_after: list[int] = field(default_factory=list)


class Sealer:
    """Writes segments, states and tombstones of the partition that ``claimed`` is a claim of."""

    def __init__(self, archive: Archive, claimed: ArchiveProgress, default_ttl_s: float) -> None:
        self.segments_to = claimed.segments_to
        self._archive = archive
        self._claimed = claimed
        self._default_ttl_s = default_ttl_s
        self._partition = claimed.partition
        self._count = 0

    async def write(self, streams: Iterable[OpenStream]) -> None:
        """Write the snapshots of ``streams``, and tell each of them.

        Raise :class:`Deposed` if none of it counts because the partition was claimed by another, and
        :class:`apexstream.core.errors.Unavailable` if it is unknown what of it counts: then only a new claim helps.
        """
        self._archive.check_held(self._claimed)
        plans = [await self._plan(stream, stream.snapshot) for stream in streams if stream.snapshot is not None]
        await self._seal(plans)
        while any([await self._fold_into_page(plan) for plan in plans]):
            pass
        await self._put_states(
            plan.snapshot.state(plan.stream.stream_id, self._claimed.epoch, tuple(plan.segments), self._default_ttl_s)
            for plan in plans
        )
        await self._erase((plan.stream.stream_id, number) for plan in plans for number in plan.erased_after)
        for plan in plans:
            plan.stream.written(tuple(plan.segments))

    async def end(self, streams: Iterable[End], at_us: int) -> None:
        """Erase everything that is sealed of ``streams``, destroy their keys, and give each its last state."""
        states = [self._archive.index.get(stream_id) or _unseen(stream_id) for stream_id, _, _ in streams]
        ends = [(status, tenant) for _, status, tenant in streams]
        numbers = [(state.stream_id, await self._numbers(state.stream_id, state.segments)) for state in states]
        await self._erase((stream_id, number) for stream_id, several in numbers for number in several)
        if self._archive.keys is not None:
            for state in states:
                await asyncio.to_thread(self._archive.keys.destroy, state.stream_id)
        await self._put_states(
            msgspec.structs.replace(
                state,
                status=status,
                epoch=self._claimed.epoch,
                checkpoint=None,
                claims=(),
                segments=(),
                updated_us=at_us,
                ended_us=state.ended_us or at_us,
                expires_us=0,
                tenant=state.tenant or tenant,
            )
            for state, (status, tenant) in zip(states, ends, strict=True)
        )

    async def restore(self, keys: Iterable[str]) -> None:
        """Write anew what the last record of a key hides, since it was written by a deposed archiver."""
        states = [self._archive.index.get(key) or _unseen(key) for key in keys]
        await self._put_states(msgspec.structs.replace(state, epoch=self._claimed.epoch) for state in states)

    async def sweep(self, end: int) -> None:
        """Give tombstones to segments before offset ``end`` that no state refers to. Raise :class:`Deposed` if a later
        archiver wrote there."""
        at, place = self.segments_to, (self._archive.segments, self._partition)
        sealed: dict[str, frozenset[int]] = {}
        while at < end:
            before, orphans = at, []
            async for records, next_offset in self._archive.reader.scan(place, before, end):
                at = next_offset
                orphans += [key for record in records if (key := await self._orphan(record, sealed)) is not None]
            if at == before:
                await self._archive.reader.retry_after(TimeoutError("nothing was read"))
            elif orphans:
                _log.info("erasing segments that nothing refers to", partition=self._partition, count=len(orphans))
                await self._append_waves((key, None) for key in orphans)
        self.segments_to = end

    async def _orphan(self, record: Record, sealed: dict[str, frozenset[int]]) -> bytes | None:
        """The key of ``record`` if it is a segment that nothing refers to. ``sealed`` remembers what is referred to."""
        if record.value is None or record.key is None:
            return None
        stream_id, number = read_segment_key(record.key)
        epoch = epoch_of(number)
        if epoch > self._claimed.epoch:
            raise Deposed(f"epoch {epoch} writes here", where=f"{self._archive.segments}/{self._partition}")
        if epoch == self._claimed.epoch:
            return None
        if stream_id not in sealed:
            state = self._archive.index.get(stream_id)
            sealed[stream_id] = frozenset(await self._numbers(stream_id, state.segments) if state else ())
        return None if number in sealed[stream_id] else record.key

    # Segments.

    async def _plan(self, stream: OpenStream, snapshot: Snapshot) -> _Plan:
        plan = _Plan(stream, snapshot, list(stream.segments))
        if snapshot.cut is not None:
            await self._cut(plan, snapshot.cut)
        return plan

    async def _cut(self, plan: _Plan, seq: int) -> None:
        stream_id = plan.stream.stream_id
        cut = cut_at(plan.segments, seq)
        kept, dropped = list(cut.kept), list(cut.dropped)
        while cut.torn is not None:
            plan.erased_after.append(cut.torn.number)  # until the new state counts, what it lists is needed
            below = await self._archive.segment_reader.page(self._partition, stream_id, cut.torn)
            cut = cut_at(below, seq)
            kept += cut.kept
            dropped += cut.dropped
        plan.segments = kept
        plan.erased += await self._numbers(stream_id, dropped)

    async def _seal(self, plans: Sequence[_Plan]) -> None:
        await self._erase((plan.stream.stream_id, number) for plan in plans for number in plan.erased)
        packed = [(plan, ref, value) for plan in plans for ref, value in self._packed(plan)]
        offsets = await self._append(
            (segment_key(plan.stream.stream_id, ref.number), value) for plan, ref, value in packed
        )
        meters.SEALED_SEGMENTS.of().value += len(packed)
        for (plan, ref, value), offset in zip(packed, offsets, strict=True):
            meters.SEALED_CHUNKS.of().value += ref.count
            meters.SEALED_BYTES.of().value += len(value)
            plan.segments.append(msgspec.structs.replace(ref, offset=offset))

    def _packed(self, plan: _Plan) -> Iterator[tuple[SegmentRef, bytes]]:
        for part in plan.snapshot.parts:
            seq = part.first_seq
            for chunks in split(part.chunks):
                number = self._number()
                value = pack_chunks(self._archive.codec, plan.stream.stream_id, number, seq, chunks)
                yield (
                    SegmentRef(offset=0, number=number, first_seq=seq, count=len(chunks), size_bytes=len(value)),
                    value,
                )
                seq += len(chunks)

    async def _fold_into_page(self, plan: _Plan) -> bool:
        chosen = overfull(plan.segments)
        if chosen is None:
            return False
        below, stream_id, number = plan.segments[chosen], plan.stream.stream_id, self._number()
        value = pack_page(self._archive.codec, stream_id, number, below)
        (offset,) = await self._append([(segment_key(stream_id, number), value)])
        meters.SEALED_SEGMENTS.of().value += 1
        meters.SEALED_BYTES.of().value += len(value)
        plan.segments[chosen] = [
            SegmentRef(
                offset=offset,
                number=number,
                first_seq=below[0].first_seq,
                count=sum(ref.count for ref in below),
                size_bytes=len(value),
                index=True,
            )
        ]
        return True

    async def _numbers(self, stream_id: str, segments: Iterable[SegmentRef]) -> list[int]:
        """The numbers of ``segments`` and of everything below, what a page lists before the page."""
        numbers = []
        for ref in segments:
            if ref.index:
                try:
                    below = await self._archive.segment_reader.page(self._partition, stream_id, ref)
                except DataCorruption as problem:  # erased by a predecessor, and what it listed before it
                    _log.warning("a page is not there; what it listed should not be either", error=str(problem))
                else:
                    numbers += await self._numbers(stream_id, below)
            numbers.append(ref.number)
        return numbers

    async def _erase(self, segments: Iterable[tuple[str, int]]) -> None:
        await self._append((segment_key(stream_id, number), None) for stream_id, number in segments)

    def _number(self) -> int:
        self._count += 1
        return number_of(self._claimed.epoch, self._count)

    async def _append(self, appends: Iterable[Append]) -> list[int]:
        """Append to the segments in order, account for what others wrote in between, and return the offsets."""
        offsets = await self._append_waves(appends)
        if offsets:
            end = offsets[-1] + 1
            if end - self.segments_to != len(offsets):
                await self.sweep(end)
            self.segments_to = end
        return offsets

    async def _append_waves(self, appends: Iterable[Append]) -> list[int]:
        offsets: list[int] = []
        for wave in _waves(appends):
            offsets += await self._append_all(self._archive.segments, wave)
        return offsets

    async def _append_all(self, topic: str, appends: Sequence[Append]) -> list[int]:
        append = self._archive.writer.append
        return await asyncio.gather(*(append(topic, key, value, partition=self._partition) for key, value in appends))

    # States.

    async def _put_states(self, states: Iterable[StreamState]) -> None:
        appends = [(state.stream_id.encode(), self._archive.codec.encode(state)) for state in states]
        if appends:
            # Only what comes back to us from the log before anybody else's claim counts.
            await self._archive.reached(self._partition, max(await self._append_all(self._archive.streams, appends)))
        self._archive.check_held(self._claimed)


def _waves(appends: Iterable[Append]) -> Iterator[list[Append]]:
    wave: list[Append] = []
    size = 0
    for key, value in appends:
        size += len(key) + len(value or b"")
        if wave and size > WAVE_BYTES_MAX:
            yield wave
            wave, size = [], len(key) + len(value or b"")
        wave.append((key, value))
    if wave:
        yield wave


def _unseen(stream_id: str) -> StreamState:
    """The state of a stream of which nothing was ever sealed."""
    stream = OpenStream(stream_id, None)
    stream.seal()
    assert stream.snapshot is not None  # noqa: S101 - what seal() is for
    return stream.snapshot.state(stream_id, 0, (), 0)
