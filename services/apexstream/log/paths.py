"""Which stream each path of the Durable Streams protocol names: read from ``apex.paths``, kept in a temporary SQLite file, and
changed by compare-and-append.

A change is made from a state and has the next version; of two made from the same state, the first in the log counts, for every
reader alike. What lost is repaired: whoever sees it writes the state that counts anew, so that compaction, which keeps the last
record of a key, keeps the right one.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import msgspec
import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.errors import ChunkDecodeError, Unavailable
from apexstream.core.events import PathState, PathStatus
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.view import View

CHANGE_TRIES_MAX = 16  # lost to other gateways in a row
REACHED_TIMEOUT_S = 30.0  # for our own record to come back to us
DELETED_KEPT_S = 7 * 86_400  # the trace of a deleted path, so that nothing late brings it back
SLACK = 16  # an access is written down if it is this part of the time to live after the last one that was: paths live that longer
REPAIR_AFTER_S = 1.0  # somebody else may be faster, which saves a record

_CACHE_KIB = 4096
_log = structlog.get_logger(__name__)

_TABLE = """
CREATE TABLE paths (
    path TEXT PRIMARY KEY, stream_id TEXT NOT NULL, status TEXT NOT NULL, parent TEXT NOT NULL,
    deadline_us INTEGER NOT NULL, changed_us INTEGER NOT NULL, value BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX streams ON paths (stream_id);
CREATE INDEX parents ON paths (parent) WHERE parent <> '';
CREATE INDEX deadlines ON paths (deadline_us) WHERE deadline_us > 0;
CREATE INDEX lingering ON paths (status, changed_us);
"""


class AppendTo(Protocol):
    """Appends to the topic of paths."""

    def __call__(self, key: bytes, value: bytes | None) -> Awaitable[int]:
        """Append and return the offset, once acknowledged."""


def deadline_us(state: PathState) -> int:
    """When the path expires unless it is used before; 0: never."""
    if state.status is not PathStatus.LIVE:
        return 0
    ends = [state.expires_us] if state.expires_us else []
    if state.ttl_s >= 0:
        ends.append(state.accessed_us + state.ttl_s * 1_000_000 * (SLACK + 1) // SLACK)
    return min(ends, default=0)


class PathIndex:
    """The states that count. Use as an async context manager, and let :meth:`run` run. Lookups take tens of microseconds.

    ``on_change`` is called with every state that begins to count after the first reading. ``asks`` must not be ``reader``:
    questions would wait behind its long poll.
    """

    def __init__(
        self,
        reader: LogReader,
        asks: LogReader,
        topic: str,
        codec: Codec,
        on_change: Callable[[PathState], None] = lambda _: None,
    ) -> None:
        self.on_change = on_change
        self.outranked: dict[str, int] = {}  # paths whose last record lost, and the version that counts
        self.awaited: dict[str, bool] = {}  # changes of this process on their way: whether they count
        self._reader = reader
        self._asks = asks
        self._partition: Partition = (topic, 0)
        self._codec = codec
        self._view: View | None = None
        self._position = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        # A private file in the system's folder for temporary files, gone with this process however it ends.
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{_CACHE_KIB};")
        self._db.executescript(_TABLE)

    async def __aenter__(self) -> "PathIndex":
        await self._asks.partitions(self._partition[0])
        self._view = await View.open(self._reader, {self._partition[0]: self.on_records})
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

    def get(self, path: str) -> PathState | None:
        """The state of a path, whatever its status; None if it never was, or long ago."""
        return self._one("SELECT value FROM paths WHERE path = ?", path)

    def of_stream(self, stream_id: str) -> PathState | None:
        """The state of the path that names a stream."""
        return self._one("SELECT value FROM paths WHERE stream_id = ?", stream_id)

    def has_forks(self, stream_id: str) -> bool:
        """Whether anything that is not deleted was forked from a stream."""
        query = "SELECT 1 FROM paths WHERE parent = ? AND status <> ? LIMIT 1"
        return self._db.execute(query, (stream_id, PathStatus.DELETED.value)).fetchone() is not None

    def expired(self, now_us: int, limit: int) -> list[PathState]:
        """At most ``limit`` live paths whose deadline has passed."""
        query = "SELECT value FROM paths WHERE deadline_us BETWEEN 1 AND ? LIMIT ?"
        return list(self._all(query, now_us, limit))

    def gone(self, limit: int) -> list[PathState]:
        """At most ``limit`` paths that are gone."""
        return list(self._all("SELECT value FROM paths WHERE status = ? LIMIT ?", PathStatus.GONE.value, limit))

    def deleted(self, since_us: int, until_us: int, limit: int) -> list[PathState]:
        """At most ``limit`` paths that were deleted in that time."""
        query = "SELECT value FROM paths WHERE status = ? AND changed_us BETWEEN ? AND ? LIMIT ?"
        return list(self._all(query, PathStatus.DELETED.value, since_us, until_us, limit))

    def _one(self, query: str, key: str) -> PathState | None:
        return next(self._all(query, key), None)

    def _all(self, query: str, *values: object) -> Iterator[PathState]:
        for row in self._db.execute(query, values).fetchall():
            yield self._codec.decode(row[0], PathState)

    async def reached(self, offset: int) -> None:
        """Return once everything before ``offset`` has been read."""
        if self._position < offset:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((offset, future))
            try:
                async with asyncio.timeout(REACHED_TIMEOUT_S):
                    await future
            except TimeoutError:
                raise Unavailable("the paths cannot be followed", where=self._partition[0]) from None

    async def refresh(self) -> None:
        """Return once everything has been read that is in the topic now."""
        await self.reached((await self._asks.ends([self._partition]))[self._partition])

    # Feeding.

    def on_records(self, _: Partition, records: list[Record]) -> None:
        """Take the next records."""
        self._db.execute("BEGIN")
        changed = [state for record in records if (state := self._take(record)) is not None]
        self._db.execute("COMMIT")
        self._position = records[-1].offset + 1
        if self._view is not None and self.caught_up.is_set():
            for state in changed:
                self.on_change(state)
        waiting, self._waiting = self._waiting, []
        for offset, future in waiting:
            if future.done():
                continue
            if offset <= self._position:
                future.set_result(None)
            else:
                self._waiting.append((offset, future))

    def _take(self, record: Record) -> PathState | None:
        path = (record.key or b"").decode("utf-8", "replace")
        if record.value is None:
            self._db.execute("DELETE FROM paths WHERE path = ?", (path,))
            self.outranked.pop(path, None)
            return None
        try:
            state = self._codec.decode(record.value, PathState)
        except ChunkDecodeError as problem:
            _log.error("skipped a path that cannot be read", offset=record.offset, error=str(problem))
            return None
        held = self.get(path)
        if held is not None and state.version <= held.version:
            if state != held:
                self.outranked[path] = held.version
            return None
        self.outranked.pop(path, None)
        if state.change_id in self.awaited:
            self.awaited[state.change_id] = True
        row = (path, state.stream_id, state.status.value, state.parent_stream_id, deadline_us(state), state.changed_us)
        self._db.execute("INSERT OR REPLACE INTO paths VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, record.value))
        return state


Change = Callable[[PathState | None], PathState | None]
"""Takes the state that counts and gives what it is to become (its version and change_id are filled in); None: nothing."""


class Paths:
    """Changes paths. Changes of one path by this process are made one after the other."""

    def __init__(self, index: PathIndex, codec: Codec, append: AppendTo, new_change_id: Callable[[], str]) -> None:
        self.index = index
        self._codec = codec
        self._append = append
        self._new_change_id = new_change_id
        self._locks: dict[str, asyncio.Lock] = {}

    async def change(self, path: str, change: Change) -> PathState | None:
        """Make ``change`` of the state that counts, again if another gateway was faster; what it raises is raised.

        Returns the state that was made, or the one that stays. Raise :class:`Unavailable` if others are faster
        ``CHANGE_TRIES_MAX`` times.
        """
        lock = self._locks.setdefault(path, asyncio.Lock())
        try:
            async with lock:
                return await self._change(path, change)
        finally:
            if not lock.locked():
                self._locks.pop(path, None)

    async def _change(self, path: str, change: Change) -> PathState | None:
        for _ in range(CHANGE_TRIES_MAX):
            held = self.index.get(path)
            wanted = change(held)
            if wanted is None:
                return held
            version = 1 if held is None else held.version + 1
            state = msgspec.structs.replace(wanted, path=path, version=version, change_id=self._new_change_id())
            if await self._counts(state):
                return state
        raise Unavailable(f"lost {CHANGE_TRIES_MAX} changes of the path to other gateways", where=path)

    async def _counts(self, state: PathState) -> bool:
        self.index.awaited[state.change_id] = False
        try:
            await self._put(state)
        finally:
            counts = self.index.awaited.pop(state.change_id)
        return counts

    async def forget(self, path: str) -> None:
        """Remove the last trace of a path."""
        await self._append(path.encode(), None)

    async def repair(self) -> None:
        """Until cancelled: write anew what a record that lost hides."""
        while True:
            await asyncio.sleep(REPAIR_AFTER_S)
            for path, version in list(self.index.outranked.items()):
                held = self.index.get(path)
                if held is None or held.version != version:
                    self.index.outranked.pop(path, None)
                    continue
                # Whoever else repairs it writes the very same record.
                again = msgspec.structs.replace(held, version=version + 1, change_id=f"{held.change_id}+")
                try:
                    await self._put(again)
                except Unavailable as problem:
                    _log.warning("a path was not repaired yet", path=path, error=str(problem))

    async def _put(self, state: PathState) -> None:
        await self.index.reached(await self._append(state.path.encode(), self._codec.encode(state)) + 1)
