"""One stream between two of its states: folded, collected, sealed when there is enough of it. Pure.

A state may be written only where nothing accepted is left out of the segments: then they hold exactly the chunks before its
``next_seq``, and a reader goes on in the log from its ``offset``. :meth:`OpenStream.seal` makes such a place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from apexstream.core.chunk import Chunk, ChunkRun, Kind
from apexstream.core.claims import tenant_of
from apexstream.core.events import ClaimSaid, Rewound, SegmentRef, StreamState, StreamStatus
from apexstream.core.fold import Outcome, StreamFold, Verdict
from apexstream.log.index import fold_of
from apexstream.log.segments import SEGMENT_BYTES_MAX, SEGMENT_CHUNKS_MAX

STREAM_COST = 2_000  # bytes of memory that an open stream takes before it holds anything
CHUNK_COST = 120  # and each chunk besides its payload
TTL_MAX_S = 3_000_000_000  # a hundred years

STATUS_OF = {
    None: StreamStatus.OPEN,
    Kind.COMPLETE: StreamStatus.COMPLETE,
    Kind.ERROR: StreamStatus.ERROR,
    Kind.CANCELLED: StreamStatus.CANCELLED,
}


class Retention(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a task's options say about keeping its stream. They travel in the payload of its claims (JSON)."""

    ttl_s: float | None = None
    keep: bool | None = None

    def expires_us(self, ended_us: int, default_ttl_s: float) -> int:
        """When a stream that ended at ``ended_us`` expires; 0: never. A ``default_ttl_s`` of 0 keeps streams."""
        ttl_s = default_ttl_s if self.ttl_s is None else self.ttl_s
        return 0 if self.keep or ttl_s <= 0 else ended_us + int(min(ttl_s, TTL_MAX_S) * 1e6)


def retention_of(claims: Sequence[tuple[int, bytes]]) -> Retention:
    """The retention that the newest claim asks for, of those that ask for any; the default where none is readable."""
    for _, payload in reversed(claims):
        try:
            retention = msgspec.json.decode(payload, type=Retention)
        except msgspec.DecodeError:
            continue
        if retention != Retention():
            return retention
    return Retention()


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive chunks to be sealed."""

    first_seq: int
    chunks: Sequence[Chunk]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Where a state may be written: all that it says, but for the positions of what is sealed with it.

    ``cut`` is the seq from which segments that are sealed already do not count any more, None if all do.
    """

    fold: StreamFold
    offset: int
    payload_bytes: int
    created_us: int
    updated_us: int
    parts: tuple[Part, ...]
    cut: int | None

    def state(self, stream_id: str, epoch: int, segments: tuple[SegmentRef, ...], default_ttl_s: float) -> StreamState:
        """The state, given where its content lies."""
        fold, retention = self.fold, retention_of(self.fold.claims)
        ended_us = 0 if fold.closed is None else self.updated_us
        return StreamState(
            stream_id=stream_id,
            status=STATUS_OF[fold.closed],
            epoch=epoch,
            offset=self.offset,
            attempt=fold.attempt,
            writer=fold.writer,
            fenced=fold.fenced,
            next_seq=fold.next_seq,
            data_count=fold.data_count,
            hash=fold.hash,
            checkpoint=None if fold.closed else fold.checkpoint,  # nothing resumes a stream that has ended
            checkpoint_seq=fold.checkpoint_seq,
            checkpoint_hash=fold.checkpoint_hash,
            checkpoint_data_count=fold.checkpoint_data_count,
            checkpoint_attempt=fold.checkpoint_attempt,
            claims=tuple(ClaimSaid(attempt=attempt, payload=payload) for attempt, payload in fold.claims),
            rewinds=fold.rewinds,
            rewound_to=fold.rewound[0][1] if fold.rewound else 0,
            rewound_from=fold.rewound_from,
            rewound=tuple(Rewound(number=number, seq=seq) for number, seq in fold.rewound),
            segments=segments,
            payload_bytes=self.payload_bytes,
            created_us=self.created_us,
            updated_us=self.updated_us,
            ended_us=ended_us,
            expires_us=0 if fold.closed is None else retention.expires_us(ended_us, default_ttl_s),
            options=msgspec.json.encode(retention),
            tenant=tenant_of(fold.claims),
        )


@dataclass(slots=True)
class _Since:
    """The oldest record with an effect that no state has: its offset, and when it was read (monotonic seconds)."""

    offset: int
    at: float


class OpenStream:
    """A stream that is not closed in any state that was written, from ``state`` (None: from its beginning) on."""

    __slots__ = (
        "_bytes", "_created_us", "_cut", "_fold", "_offset", "_parts", "_payload_bytes", "_pending", "_pending_seq",
        "_rest", "_since", "_snapshot", "_updated_us", "charged", "segments", "stream_id",
    )  # fmt: skip

    def __init__(self, stream_id: str, state: StreamState | None) -> None:
        self.stream_id = stream_id
        self.charged = 0  # of its cost, what whoever keeps it has reckoned with
        self.segments: tuple[SegmentRef, ...] = () if state is None else state.segments
        self._fold = StreamFold() if state is None else fold_of(state)
        self._offset = 0 if state is None else state.offset
        self._payload_bytes = self._created_us = self._updated_us = 0
        if state is not None:
            self._payload_bytes = state.payload_bytes
            self._created_us, self._updated_us = state.created_us, state.updated_us
        self._pending: list[Chunk] = []
        self._pending_seq = self._fold.next_seq
        self._bytes = 0
        self._parts: list[Part] = []
        self._cut: int | None = None
        self._snapshot: Snapshot | None = None
        self._since: _Since | None = None
        self._rest: _Since | None = None

    @property
    def cost(self) -> int:
        """Bytes of memory that this stream takes, about."""
        return STREAM_COST + self._bytes + CHUNK_COST * len(self._pending) + len(self._fold.checkpoint or b"")

    @property
    def since(self) -> tuple[int, float] | None:
        """Offset of the oldest record that no written state has, and when it was read; None if states have all."""
        return None if self._since is None else (self._since.offset, self._since.at)

    @property
    def snapshot(self) -> Snapshot | None:
        """What is to be written, if anything is."""
        return self._snapshot

    def take(self, run: ChunkRun, offset: int, time_us: int, now: float) -> Outcome | None:
        """Fold in the record at ``offset``, appended at ``time_us``; seal if that makes a segment full or closes the stream.

        None for a record that the state has already. ``now`` is monotonic time in seconds.
        """
        if offset < self._offset:
            return None
        if self._pending and self._overfills(run):
            self.seal()  # before this record: a state can only be between two
        outcome = self._fold.apply(run)
        if outcome.verdict in {Verdict.DEAD, Verdict.VIOLATION}:
            return outcome
        self._note(offset, time_us, now)
        if outcome.verdict is Verdict.ACCEPTED:
            self._collect(run.chunks)
        elif outcome.verdict is Verdict.REWOUND:
            self._rewind(outcome.seq)
        return outcome

    def seal(self) -> None:
        """Make a place for a state here: what is collected becomes segments."""
        if self._pending:
            self._parts.append(Part(self._pending_seq, self._pending))
        self._pending, self._bytes = [], 0
        self._pending_seq = self._fold.next_seq
        self._snapshot = Snapshot(
            fold=replace(self._fold),
            offset=self._offset,
            payload_bytes=self._payload_bytes,
            created_us=self._created_us,
            updated_us=self._updated_us,
            parts=tuple(self._parts),
            cut=self._cut,
        )
        self._rest = None

    def written(self, segments: tuple[SegmentRef, ...]) -> None:
        """The snapshot's state, with ``segments``, is in the log for good."""
        self.segments = segments
        self._snapshot, self._parts, self._cut = None, [], None
        self._since, self._rest = self._rest, None

    def _note(self, offset: int, time_us: int, now: float) -> None:
        self._offset = offset + 1
        self._updated_us = time_us
        self._created_us = self._created_us or time_us
        if self._since is None:
            self._since = _Since(offset, now)
        elif self._snapshot is not None and self._rest is None:
            self._rest = _Since(offset, now)

    def _overfills(self, run: ChunkRun) -> bool:
        return (
            len(self._pending) + len(run.chunks) > SEGMENT_CHUNKS_MAX
            or self._bytes + _payload_bytes(run.chunks) > SEGMENT_BYTES_MAX
        )

    def _collect(self, chunks: Sequence[Chunk]) -> None:
        size = _payload_bytes(chunks)
        self._pending.extend(chunks)
        self._bytes += size
        self._payload_bytes += size
        if (
            len(self._pending) >= SEGMENT_CHUNKS_MAX
            or self._bytes >= SEGMENT_BYTES_MAX
            or self._fold.closed is not None
        ):
            self.seal()

    def _rewind(self, seq: int) -> None:
        if seq >= self._pending_seq:
            del self._pending[seq - self._pending_seq :]
            self._bytes = _payload_bytes(self._pending)
            return
        # Further back than what is only collected: parts and segments lose their ends, and only a new state may say so.
        self._pending, self._bytes = [], 0
        self._parts = [
            Part(part.first_seq, part.chunks[: seq - part.first_seq]) for part in self._parts if part.first_seq < seq
        ]
        self._cut = seq if self._cut is None else min(self._cut, seq)
        self.seal()


def _payload_bytes(chunks: Sequence[Chunk]) -> int:
    return sum(len(chunk.payload) for chunk in chunks)
