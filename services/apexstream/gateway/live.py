"""A stream that is being written: its fold, its newest chunks in memory, and the viewers that get them as they come.

A chunk is encoded once for each encoding that somebody watches with, and kept so for those who come later. All streams
together keep at most ``bytes_max``; what came first goes first. A viewer is attached only where it has everything that
was folded, so those attached to one stream are all at the same place and get the same bytes.
"""

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Protocol

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import Chunk, ChunkRun
from apexstream.core.errors import ApexError, ChunkDecodeError
from apexstream.core.fold import StreamFold, Verdict
from apexstream.gateway.cursors import Position
from apexstream.gateway.encoding import Encoder, encode
from apexstream.gateway.measures import StreamMeasures
from apexstream.log.cipher import StreamOpener
from apexstream.log.fetcher import Partition, Record
from apexstream.runtime import meters

TAIL_BYTES_MAX = 64 * 1024 * 1024
DROPPED_MAX = 4096  # of runs that are kept no longer, before they are swept out
PART_BYTES = 256 * 1024  # what a viewer that catches up is sent at once
PART_RUNS = 1024  # of which it comes at most
CHUNK_COST_BYTES = 150  # of a chunk in memory, besides its payload and its encoded forms
_log = structlog.get_logger(__name__)


class Attached(Protocol):
    """What a live stream knows of a subscription."""

    viewer: Any  # its send takes the subscription and the data

    def rewind(self, position: Position) -> None: ...
    def end(self, data: bytes = b"") -> None: ...
    def fail(self, problem: ApexError) -> None: ...


class Run:
    """Chunks that came together, and what encodings made of them."""

    __slots__ = ("chunks", "encoded", "encoded_bytes", "first_seq", "size_bytes", "stream")

    def __init__(self, stream: "LiveStream", first_seq: int, chunks: Sequence[Chunk]) -> None:
        self.stream: LiveStream | None = stream  # None: no longer part of it
        self.first_seq = first_seq
        self.chunks = chunks
        self.encoded: dict[str, list[bytes]] = {}
        self.encoded_bytes = 0
        self.size_bytes = sum(len(chunk.payload) for chunk in chunks) + CHUNK_COST_BYTES * len(chunks)

    @property
    def next_seq(self) -> int:
        """The seq after the last one."""
        return self.first_seq + len(self.chunks)


class TailMemory:
    """What all live streams keep, in the order in which it came."""

    def __init__(self, bytes_max: int = TAIL_BYTES_MAX) -> None:
        self.size_bytes = 0
        self._bytes_max = bytes_max
        self._dropped = 0  # of those in _runs, about
        self._runs: deque[Run] = deque()

    def keep(self, run: Run) -> None:
        """A run has come."""
        self._runs.append(run)
        self._add(run.size_bytes)

    def grow(self, run: Run, size_bytes: int) -> None:
        """A run that is kept takes more."""
        run.encoded_bytes += size_bytes
        self._add(size_bytes)

    def shrink(self, run: Run) -> None:
        """Nothing encoded is kept of a run any longer."""
        run.encoded.clear()
        self.size_bytes -= run.encoded_bytes
        run.encoded_bytes = 0

    def drop(self, run: Run) -> None:
        """A run is not kept any longer."""
        self.shrink(run)
        run.stream, run.chunks = None, ()
        self.size_bytes -= run.size_bytes
        self._dropped += 1
        if self._dropped > DROPPED_MAX and self._dropped > len(self._runs) // 2:
            self._runs = deque(kept for kept in self._runs if kept.stream is not None)
            self._dropped = 0

    def _add(self, size_bytes: int) -> None:
        self.size_bytes += size_bytes
        while self.size_bytes > self._bytes_max and self._runs:
            stream = self._runs.popleft().stream
            if stream is not None:
                stream.drop_first()


class _Group:
    """The viewers of one encoding, and what they have yet to be sent of the records that are being taken."""

    __slots__ = ("delivered", "delivered_bytes", "encoder", "name", "pieces", "viewers")

    def __init__(self, name: str, encoder: Encoder) -> None:
        self.name = name
        self.encoder = encoder
        label = name.partition("|")[0]  # what follows has values without end
        self.delivered = meters.DELIVERED.of(label)
        self.delivered_bytes = meters.DELIVERED_BYTES.of(label)
        self.pieces: list[bytes] = []
        self.viewers: dict[Attached, None] = {}  # a set that keeps its order


class LiveStream:
    """``offset`` is of the stream's partition: the first record that is not folded in. ``position`` is where those are
    who have been sent everything."""

    __slots__ = (
        "_groups", "_grown", "_measures", "_memory", "_reached", "_runs", "codec", "fold", "loaded", "loading", "offset",
        "opener", "partition", "position", "problem", "release", "stream_id", "users", "watching",
    )  # fmt: skip

    def __init__(
        self,
        stream_id: str,
        partition: Partition,
        *,
        codec: Codec,
        opener: StreamOpener,
        memory: TailMemory,
        measures: StreamMeasures,
        fold: StreamFold,
        offset: int,
    ) -> None:
        self.stream_id = stream_id
        self.partition = partition
        self.codec = codec
        self.opener = opener
        self.fold = fold
        self.offset = offset
        self.position = self._reached = Position(fold.next_seq, fold.rewinds)
        self.users = 0  # who needs it to be kept up to date
        self.problem: ApexError | None = None  # why nothing more of it can be shown
        self.watching = False
        self.loading: asyncio.Task[None] | None = None
        self.release: asyncio.TimerHandle | None = None
        self.loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._memory = memory
        self._measures = measures
        self._runs: deque[Run] = deque()
        self._groups: dict[str, _Group] = {}
        self._grown: asyncio.Future[None] | None = None

    @property
    def first_seq(self) -> int:
        """The first seq that is in memory; the next one if none is."""
        return self._runs[0].first_seq if self._runs else self.fold.next_seq

    @property
    def watched(self) -> bool:
        """True if somebody gets what comes."""
        return bool(self._groups)

    def take(self, records: Iterable[Record]) -> None:
        """Fold records in, in order, and send what they changed. Raises what :meth:`StreamOpener.open` does."""
        for record in records:
            if record.offset >= self.offset:
                self.offset = record.offset + 1
                self._feed(record)
        self._flush()
        self.wake()

    def wake(self) -> None:
        """Let those go on who wait for :meth:`grown`."""
        if self._grown is not None:
            self._grown.set_result(None)
            self._grown = None

    def _feed(self, record: Record) -> None:
        run = read_run(self.codec, record)
        if run is None:
            return
        outcome = self.fold.apply(run)
        if outcome.verdict is Verdict.ACCEPTED:
            self._accept(outcome.seq, run)
        elif outcome.verdict is Verdict.REWOUND:
            self._rewind(outcome.seq)
        elif outcome.verdict is Verdict.VIOLATION:
            meters.VIOLATIONS.of("gateway").value += 1
            _log.error("the log breaks a rule of the stream record", reason=outcome.reason, offset=record.offset)

    def _accept(self, seq: int, accepted: ChunkRun) -> None:
        run = Run(self, seq, self.opener.open(self.fold.claims, seq, accepted.chunks))
        self._reached = Position(run.next_seq, self.fold.rewinds)
        self._keep(run)
        for group in self._groups.values():
            group.pieces += self._encoded(run, group.name, group.encoder)
        if self._groups:  # somebody gets it live; what is read to catch up says nothing of latency
            self._measures.handed_over(run.chunks[-1].event_time_us)

    def _encoded(self, run: Run, name: str, encoder: Encoder) -> list[bytes]:
        pieces = run.encoded.get(name)
        if pieces is None:
            pieces = encode(encoder, run.first_seq, self.fold.rewinds, run.chunks)
            if run.stream is not None:
                run.encoded[name] = pieces
                self._memory.grow(run, sum(map(len, pieces)))
        return pieces

    def _rewind(self, seq: int) -> None:
        self._flush()
        while self._runs and self._runs[-1].next_seq > seq:
            run = self._runs.pop()
            left = run.chunks[: max(seq - run.first_seq, 0)]
            self._memory.drop(run)
            if left:
                self._keep(Run(self, run.first_seq, left))
        for run in self._runs:
            self._memory.shrink(run)  # what is encoded may say how often the stream was rewound
        self._reached = self.position = Position(seq, self.fold.rewinds)
        for group in self._groups.values():
            for viewer in list(group.viewers):
                viewer.rewind(self.position)

    def _keep(self, run: Run) -> None:
        self._runs.append(run)
        self._memory.keep(run)

    def _flush(self) -> None:
        self.position = self._reached
        ended = self.fold.closed is not None
        for group in list(self._groups.values()):
            if not group.pieces and not ended:
                continue
            data = group.encoder.join(group.pieces)
            group.delivered.value += sum(map(bool, group.pieces)) * len(group.viewers)
            group.delivered_bytes.value += len(data) * len(group.viewers)
            group.pieces = []
            if ended:
                for viewer in list(group.viewers):
                    viewer.end(data)
            elif data:
                for viewer in list(group.viewers):
                    viewer.viewer.send(viewer, data)

    def since(self, seq: int, name: str, encoder: Encoder, chunks_max: int) -> tuple[bytes, int]:
        """What is in memory from ``seq`` on, some of it, and the seq after that."""
        pieces: list[bytes] = []
        size_bytes = 0
        first = bisect_right(self._runs, seq, key=lambda run: run.next_seq)
        for run in list(
            islice(self._runs, first, first + PART_RUNS)
        ):  # a copy: what is encoded here may push out what is kept
            if run.stream is None:
                break
            part = self._encoded(run, name, encoder)[seq - run.first_seq :][: chunks_max - len(pieces)]
            pieces += part
            seq += len(part)
            size_bytes += sum(map(len, part))
            if size_bytes >= PART_BYTES or len(pieces) == chunks_max:
                break
        return encoder.join(pieces) if pieces else b"", seq

    def seq_at(self, time_us: int) -> int:
        """The first seq in memory whose event time is ``time_us`` or later; the next one if there is none."""
        for run in self._runs:
            for seq, chunk in enumerate(run.chunks, run.first_seq):
                if chunk.event_time_us >= time_us:
                    return seq
        return self.fold.next_seq

    def attach(self, viewer: "Attached", name: str, encoder: Encoder) -> None:
        """Send ``viewer``, which is at ``position``, what comes."""
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(name, encoder)
        group.viewers[viewer] = None

    def detach(self, viewer: "Attached") -> None:
        """Send it nothing more."""
        for name, group in list(self._groups.items()):
            if group.viewers.pop(viewer, viewer) is None and not group.viewers:
                del self._groups[name]

    def viewers(self) -> list["Attached"]:
        """All that are attached."""
        return [viewer for group in self._groups.values() for viewer in group.viewers]

    def grown(self) -> asyncio.Future[None]:
        """Done when the next records have been taken."""
        if self._grown is None:
            self._grown = asyncio.get_running_loop().create_future()
        return self._grown

    def drop_first(self) -> None:
        """Keep the oldest run no longer."""
        self._memory.drop(self._runs.popleft())

    def drop_all(self) -> None:
        """Keep nothing."""
        while self._runs:
            self.drop_first()


def read_run(codec: Codec, record: Record) -> ChunkRun | None:
    """The run in a record; None, and a line in the log, if there is none in it."""
    try:
        return codec.decode_run(record.value or b"")
    except ChunkDecodeError as problem:
        _log.error("skipped a record that cannot be read", offset=record.offset, error=str(problem))
        return None
