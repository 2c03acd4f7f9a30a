"""The stream index: the newest valid state of every stream, read from ``apex.streams`` and kept in a temporary SQLite file.

Which states are valid is decided by their place in the log, as with attempts and chunks: an archiver claims a partition
with an epoch higher than any before, and from the claim's place on, what archivers of lower epochs write does not count.
Every reader that has read the same prefix of a partition therefore knows the same, and :meth:`StreamIndex.sealed_to`
belongs to the same prefix as the states.
"""

import asyncio
import sqlite3
from collections import OrderedDict
from collections.abc import Callable

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import Kind
from apexstream.core.errors import ChunkDecodeError, Erased, Expired
from apexstream.core.events import ArchiveProgress, StreamState, StreamStatus
from apexstream.core.fold import StreamFold
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.view import View

_CACHE_KIB = 4096
_DECODED_MAX = 256  # states kept as objects: who subscribes to a stream has its state looked up three times
_CLOSED_BY = {
    StreamStatus.COMPLETE: Kind.COMPLETE,
    StreamStatus.ERROR: Kind.ERROR,
    StreamStatus.CANCELLED: Kind.CANCELLED,
}
_GONE = {StreamStatus.EXPIRED, StreamStatus.ERASED}
_log = structlog.get_logger(__name__)

_TABLE = """
CREATE TABLE streams (
    stream_id TEXT PRIMARY KEY, partition INTEGER NOT NULL, expires_us INTEGER NOT NULL, value BLOB NOT NULL
);
CREATE INDEX expiry ON streams (partition, expires_us) WHERE expires_us > 0;
"""


def progress_key(partition: int) -> bytes:
    """The key of a partition's :class:`ArchiveProgress`; no stream's id starts like this."""
    return f"!{partition}".encode()


def fold_of(state: StreamState) -> StreamFold:
    """The fold of the stream at ``state.offset`` of its chunk partition."""
    return StreamFold(
        next_seq=state.next_seq,
        hash=state.hash,
        attempt=state.attempt,
        writer=state.writer,
        fenced=state.fenced,
        closed=_CLOSED_BY.get(state.status),
        data_count=state.data_count,
        checkpoint=state.checkpoint,
        checkpoint_seq=state.checkpoint_seq,
        checkpoint_hash=state.checkpoint_hash,
        checkpoint_data_count=state.checkpoint_data_count,
        checkpoint_attempt=state.checkpoint_attempt,
        claims=tuple((said.attempt, said.payload) for said in state.claims),
        rewinds=state.rewinds,
        rewound=_rewound(state),
        rewound_from=state.rewound_from,
    )


def _rewound(state: StreamState) -> tuple[tuple[int, int], ...]:
    if state.rewinds and not state.rewound:  # written before version 3
        return ((state.rewinds, state.rewound_to),)
    return tuple((rewound.number, rewound.seq) for rewound in state.rewound)


def check_readable(state: StreamState, now_us: int) -> None:
    """Raise :class:`Erased` or :class:`Expired` if the content of the stream is gone, or its time is over."""
    if state.status is StreamStatus.ERASED:
        raise Erased("the stream was erased", where=state.stream_id)
    if state.status is StreamStatus.EXPIRED or 0 < state.expires_us <= now_us:
        raise Expired("the stream has expired", where=state.stream_id, hint="Set ttl_s or keep when submitting a task")


_Read = tuple[bytes, int, StreamStatus]  # value, when it expires, status


class StreamIndex:
    """States by stream, progress by partition. Use as an async context manager, and let :meth:`run` run.

    Lookups take tens of microseconds and are made on the event loop. After the first reading ``on_gone`` is called with the id
    of every stream whose content is found to be gone, and ``on_sealed`` with that of every other whose state was read.
    """

    def __init__(
        self,
        reader: LogReader,
        topic: str,
        codec: Codec,
        on_gone: Callable[[str], None] = lambda _: None,
        on_sealed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._reader = reader
        self._topic = topic
        self._codec = codec
        self._on_gone = on_gone
        self._on_sealed = on_sealed
        self._view: View | None = None
        self._progress: dict[int, ArchiveProgress] = {}
        self._epochs: dict[int, int] = {}
        self._outranked: dict[int, set[str]] = {}
        self._positions: dict[int, int] = {}
        self._waiting: dict[int, list[tuple[int, asyncio.Future[None]]]] = {}
        self._decoded: OrderedDict[str, StreamState] = OrderedDict()
        # A private file in the system's folder for temporary files, gone with this process however it ends.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{_CACHE_KIB};")
        self._db.executescript(_TABLE)

    async def __aenter__(self) -> "StreamIndex":
        self._view = await View.open(self._reader, {self._topic: self.on_records})
        return self

    async def __aexit__(self, *_: object) -> None:
        self._db.close()

    async def run(self) -> None:
        """Read and follow the topic until cancelled."""
        await self._opened().run()

    @property
    def caught_up(self) -> asyncio.Event:
        """Set once everything has been read that was there when the index was opened."""
        return self._opened().caught_up

    def _opened(self) -> View:
        if self._view is None:
            raise RuntimeError("the index is not open")
        return self._view

    # Questions.

    def get(self, stream_id: str) -> StreamState | None:
        """The newest state of a stream; None if nothing of it was ever sealed."""
        state = self._decoded.get(stream_id)
        if state is None:
            row = self._db.execute("SELECT value FROM streams WHERE stream_id = ?", (stream_id,)).fetchone()
            if row is None:
                return None
            state = self._decoded[stream_id] = self._codec.decode(row[0], StreamState)
            if len(self._decoded) > _DECODED_MAX:
                self._decoded.popitem(last=False)
        return state

    def progress(self, partition: int) -> ArchiveProgress | None:
        """How far the archiver of a partition is, and who that is; None if there never was one."""
        return self._progress.get(partition)

    def sealed_to(self, partition: int) -> int | None:
        """The offset of ``apex.chunks`` before which every record is in some stream's state; None if nothing is known."""
        progress = self._progress.get(partition)
        return None if progress is None else progress.sealed_to

    def epoch(self, partition: int) -> int:
        """The highest epoch seen in a partition; 0 if there is none."""
        return self._epochs.get(partition, 0)

    def outranked(self, partition: int) -> frozenset[str]:
        """Keys whose last record does not count. Until its owner writes them anew, compaction may drop the one that does."""
        return frozenset(self._outranked.get(partition, ()))

    def expired(self, partition: int, now_us: int, limit: int) -> list[str]:
        """At most ``limit`` streams of a partition whose time is over, and whose content may still be there."""
        query = "SELECT stream_id FROM streams WHERE partition = ? AND expires_us BETWEEN 1 AND ? LIMIT ?"
        return [row[0] for row in self._db.execute(query, (partition, now_us, limit))]

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM streams").fetchone()[0])

    async def reached(self, partition: int, offset: int) -> None:
        """Return once everything before ``offset`` of a partition has been read."""
        if self._positions.get(partition, 0) < offset:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(partition, []).append((offset, future))
            await future

    # Feeding.

    def on_records(self, at: Partition, records: list[Record]) -> None:
        """Take the next records of a partition."""
        partition = at[1]
        newest: dict[str, _Read] = {}
        for record in records:
            try:
                self._take(partition, record, newest)
            except (ChunkDecodeError, UnicodeDecodeError) as problem:
                _log.error("skipped a state that cannot be read", at=(*at, record.offset), error=str(problem))
        if newest:
            self._store(partition, newest)
            if self._view is not None and self._view.caught_up.is_set():
                for key, (_, _, status) in newest.items():
                    (self._on_gone if status in _GONE else self._on_sealed)(key)
        self._positions[partition] = records[-1].offset + 1
        self._wake(partition)

    def _take(self, partition: int, record: Record, newest: dict[str, _Read]) -> None:
        key = (record.key or b"").decode()
        if key.startswith("!"):
            if not self._counts(partition, key, self._codec.decode(record.value, ArchiveProgress)):
                return
        else:
            state = self._codec.decode(record.value, StreamState)
            if state.epoch < self._epochs.get(partition, 0):
                self._outrank(partition, key)
                return
            self._epochs[partition] = state.epoch
            newest[key] = record.value or b"", state.expires_us, state.status
        if partition in self._outranked:
            self._outranked[partition].discard(key)

    def _counts(self, partition: int, key: str, progress: ArchiveProgress) -> bool:
        """Of two claims of one epoch the first in the log wins."""
        held = self._progress.get(partition)
        tied = held is not None and held.epoch == progress.epoch and held.archiver != progress.archiver
        if progress.epoch < self._epochs.get(partition, 0) or tied:
            self._outrank(partition, key)
            return False
        self._epochs[partition] = progress.epoch
        self._progress[partition] = progress
        return True

    def _outrank(self, partition: int, key: str) -> None:
        self._outranked.setdefault(partition, set()).add(key)

    def _store(self, partition: int, newest: dict[str, _Read]) -> None:
        rows = [(key, partition, expires_us, value) for key, (value, expires_us, _) in newest.items()]
        self._db.execute("BEGIN")
        self._db.executemany("INSERT OR REPLACE INTO streams VALUES (?, ?, ?, ?)", rows)
        self._db.execute("COMMIT")
        for key in newest:
            self._decoded.pop(key, None)

    def _wake(self, partition: int) -> None:
        waiting = self._waiting.pop(partition, None)
        if waiting is None:
            return
        position = self._positions[partition]
        still: list[tuple[int, asyncio.Future[None]]] = []
        for offset, future in waiting:
            if future.done():
                continue
            if offset <= position:
                future.set_result(None)
            else:
                still.append((offset, future))
        if still:
            self._waiting[partition] = still
