"""The loop of one partition: read, fold, seal what is full or old, obey, expire, trim, say how far it is.

Everything a :class:`Tenure` knows begins with its claim and is given up with it. Whatever goes wrong in between has one
remedy: claim again and go on from what the log says, exactly as another process would.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import structlog

from apexstream.archiver.claim import Archive, Deposed, claim
from apexstream.archiver.seal import Sealer
from apexstream.archiver.stream import OpenStream
from apexstream.core.errors import ApexError, ChunkDecodeError, Unavailable
from apexstream.core.events import ArchiveProgress, ControlCommand, ControlVerb, StreamStatus
from apexstream.core.fold import Verdict
from apexstream.log.fetcher import Record
from apexstream.log.index import progress_key
from apexstream.log.pull import Pull
from apexstream.runtime import meters

FETCH_WAIT_MS = 500
RETRY_DELAY_S = 1.0
DEPOSED_DELAY_S = 5.0  # longer than a member needs to notice that the group went on without it
EXPIRED_AT_ONCE_MAX = 200

_log = structlog.get_logger(__name__)

Trim = Callable[[int, int], Awaitable[None]]
"""Deletes the chunks of a partition before an offset."""
OnSealed = Callable[[int, int], None]
"""Takes a partition and the offset of ``apex.chunks`` before which all is in its states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When to seal, how long to keep, how much to hold. ``default_ttl_s`` 0: streams are kept unless they say otherwise."""

    seal_after_s: float
    default_ttl_s: float
    trim_after_s: float
    memory_bytes: int
    tick_s: float = 1.0
    expire_every_s: float = 30.0
    trim_every_s: float = 600.0


@dataclass(slots=True)
class Held:
    """Bytes that all partitions of this process hold in open streams, about."""

    bytes: int = 0


class PartitionArchive:
    """Partition ``number`` of the archive, for as long as this process owns it."""

    def __init__(
        self, number: int, archive: Archive, limits: Limits, held: Held, *, trim: Trim, on_sealed: OnSealed
    ) -> None:
        self._number = number
        self._archive = archive
        self._limits = limits
        self._held = held
        self._trim = trim
        self._on_sealed = on_sealed

    async def run(self) -> None:
        """Archive until cancelled. Raises what no new claim can mend."""
        while True:
            try:
                claimed = await claim(self._archive, self._number)
                tenure = Tenure(
                    self._archive, claimed, self._limits, self._held, trim=self._trim, on_sealed=self._on_sealed
                )
                await tenure.run()
            except Deposed as problem:
                # The group will say that this partition has another owner. If it does not, the other one was wrong.
                await self._wait(DEPOSED_DELAY_S, problem)
            except Unavailable as problem:
                await self._wait(RETRY_DELAY_S, problem)

    async def _wait(self, delay_s: float, problem: ApexError) -> None:
        meters.ARCHIVER_DEPOSED.of(problem.code).value += 1
        _log.warning("archiving interrupted", partition=self._number, error=str(problem), again_in_s=delay_s)
        await asyncio.sleep(delay_s)


class Tenure:
    """One partition from a claim to its loss."""

    def __init__(
        self,
        archive: Archive,
        claimed: ArchiveProgress,
        limits: Limits,
        held: Held,
        *,
        trim: Trim,
        on_sealed: OnSealed,
    ) -> None:
        self._archive = archive
        self._progress = claimed
        self._limits = limits
        self._held = held
        self._trim = trim
        self._on_sealed = on_sealed
        self._number = claimed.partition
        self._sealer = Sealer(archive, claimed, limits.default_ttl_s)
        self._chunks = Pull(archive.reader, (archive.chunks, self._number), claimed.sealed_to)
        self._control = Pull(archive.reader, (archive.control, self._number), claimed.control_to)
        self._open: dict[bytes, OpenStream] = {}
        self._bytes = 0
        self._expire_at = self._trim_at = 0.0

    async def run(self) -> None:
        """Archive until cancelled or deposed."""
        segments = (self._archive.segments, self._number)
        monotonic = self._archive.clock.monotonic
        tick_at = 0.0
        forget = meters.ARCHIVER_BEHIND.read(
            lambda: self._archive.reader.lag({self._chunks.partition: self._progress.sealed_to})
        )
        try:
            await self._sealer.sweep((await self._archive.reader.ends([segments]))[segments])
            while True:
                full = self._fold_all(await self._chunks.next(self._wait_ms(tick_at - monotonic())))
                if self._held.bytes > self._limits.memory_bytes:
                    full += self._largest()
                await self._write(full)
                if monotonic() >= tick_at:
                    await self._tick()
                    tick_at = monotonic() + self._limits.tick_s
        finally:
            forget()
            self._held.bytes -= self._bytes

    def _wait_ms(self, until_tick_s: float) -> int:
        return max(0, min(FETCH_WAIT_MS, int(until_tick_s * 1000)))

    # Folding.

    def _fold_all(self, records: list[Record]) -> list[OpenStream]:
        """Fold ``records`` in and return the streams that have something to be written."""
        now = self._archive.clock.monotonic()
        full: dict[bytes, OpenStream] = {}
        for record in records:
            stream = self._fold(record, now)
            if stream is not None and stream.snapshot is not None:
                full[record.key or b""] = stream
        return list(full.values())

    def _fold(self, record: Record, now: float) -> OpenStream | None:
        key = record.key or b""
        stream = self._open.get(key) or self._load(key)
        if stream is None:
            return None  # ended before: whatever comes late, a claim even, opens it no more
        try:
            run = self._archive.codec.decode_run(record.value)
        except ChunkDecodeError as problem:
            _log.error("skipped a record that cannot be read", at=self._at(record), error=str(problem))
            return None
        if run.stream_id.encode() != key:
            _log.error("skipped a record under the key of another stream", at=self._at(record), stream=run.stream_id)
            return None
        outcome = stream.take(run, record.offset, record.timestamp * 1000, now)
        if outcome is not None and outcome.verdict is Verdict.VIOLATION:
            meters.VIOLATIONS.of("archiver").value += 1
            _log.error("the log breaks a rule of the stream record", reason=outcome.reason, at=self._at(record))
        if stream.since is not None:
            self._open[key] = stream
            self._charge(stream)
        return stream

    def _load(self, key: bytes) -> OpenStream | None:
        stream_id = key.decode("utf-8", "replace")
        state = self._archive.index.get(stream_id)
        if state is not None and state.status is not StreamStatus.OPEN:
            return None
        return OpenStream(stream_id, state)

    def _at(self, record: Record) -> tuple[str, int, int]:
        return (*self._chunks.partition, record.offset)

    # Writing.

    async def _write(self, streams: list[OpenStream]) -> None:
        """Write what there is to be written of ``streams``, and let go of those that have nothing left."""
        if not streams:
            return
        await self._sealer.write(streams)
        for stream in streams:
            if stream.since is None:
                self._let_go(stream.stream_id)
            else:
                self._charge(stream)

    def _largest(self) -> list[OpenStream]:
        """Too much is held: seal the streams that hold most, half of what this partition has."""
        chosen, freed = [], 0
        for stream in sorted(self._open.values(), key=lambda each: each.cost, reverse=True):
            if freed * 2 >= self._bytes:
                break
            freed += stream.charged
            stream.seal()
            chosen.append(stream)
        return chosen

    def _charge(self, stream: OpenStream) -> None:
        more, stream.charged = stream.cost - stream.charged, stream.cost
        self._bytes += more
        self._held.bytes += more

    def _let_go(self, stream_id: str) -> None:
        stream = self._open.pop(stream_id.encode(), None)
        if stream is not None:
            self._bytes -= stream.charged
            self._held.bytes -= stream.charged

    # Once a second.

    async def _tick(self) -> None:
        now = self._archive.clock.monotonic()
        await self._seal_old(now)
        await self._obey()
        if now >= self._expire_at and not await self._expire():
            self._expire_at = now + self._limits.expire_every_s
        await self._restore()
        await self._publish()
        if now >= self._trim_at:
            self._trim_at = now + self._limits.trim_every_s
            await self._trim_sealed()

    async def _seal_old(self, now: float) -> None:
        late = now - self._limits.seal_after_s
        old = [stream for stream in self._open.values() if stream.since is not None and stream.since[1] <= late]
        for stream in old:
            stream.seal()
        await self._write(old)

    async def _obey(self) -> None:
        """Erase the streams that somebody wants to be forgotten."""
        records = await self._control.next(0)
        commands = [command for record in records if (command := self._command(record)) is not None]
        await self._end({command.task_id: (StreamStatus.ERASED, command.tenant) for command in commands})

    def _command(self, record: Record) -> ControlCommand | None:
        try:
            command = self._archive.codec.decode(record.value, ControlCommand)
        except ChunkDecodeError as problem:
            _log.error("skipped a command that cannot be read", offset=record.offset, error=str(problem))
            return None
        return command if command.verb is ControlVerb.FORGET else None

    async def _expire(self) -> bool:
        """Erase streams whose time is over; True if there may be more."""
        now_us = self._archive.clock.now_us()
        expired = self._archive.index.expired(self._number, now_us, EXPIRED_AT_ONCE_MAX)
        await self._end(dict.fromkeys(expired, (StreamStatus.EXPIRED, "")))
        return len(expired) == EXPIRED_AT_ONCE_MAX

    async def _end(self, streams: dict[str, tuple[StreamStatus, str]]) -> None:
        for stream_id in streams:
            self._let_go(stream_id)
        if streams:
            ends = [(stream_id, status, tenant) for stream_id, (status, tenant) in streams.items()]
            await self._sealer.end(ends, self._archive.clock.now_us())
            for _, status, _ in ends:
                meters.STREAMS_GONE.of(status.value).value += 1
            _log.info("streams erased", partition=self._number, streams=sorted(streams))

    async def _restore(self) -> None:
        outranked = self._archive.index.outranked(self._number)
        if outranked:
            _log.warning("writing anew what a deposed archiver hides", partition=self._number, keys=sorted(outranked))
            await self._sealer.restore(key for key in outranked if not key.startswith("!"))

    async def _publish(self) -> None:
        """Say how far everything is, if that has changed or is hidden."""
        oldest = [stream.since[0] for stream in self._open.values() if stream.since is not None]
        progress = msgspec.structs.replace(
            self._progress,
            sealed_to=min(oldest, default=self._chunks.position),
            segments_to=self._sealer.segments_to,
            control_to=self._control.position,
            at_us=self._progress.at_us,
        )
        hidden = progress_key(self._number).decode() in self._archive.index.outranked(self._number)
        if progress != self._progress or hidden:
            self._progress = msgspec.structs.replace(progress, at_us=self._archive.clock.now_us())
            await self._archive.publish(self._progress)
            self._on_sealed(self._number, progress.sealed_to)

    async def _trim_sealed(self) -> None:
        """Delete chunks that are sealed and old enough. Trouble with it costs disk, nothing else."""
        at_ms = self._archive.clock.now_us() // 1000 - int(self._limits.trim_after_s * 1000)
        chunks = self._chunks.partition
        try:
            old = await self._archive.reader.offset_at(chunks, at_ms)
            start = (await self._archive.reader.starts([chunks]))[chunks]
            before = min(old, self._progress.sealed_to)
            if before > start:
                await self._trim(self._number, before)
                meters.TRIMMED.of().value += before - start
                _log.info("trimmed", partition=self._number, before=before, records=before - start)
        except ApexError as problem:
            _log.warning("chunks were not trimmed", partition=self._number, error=str(problem))
