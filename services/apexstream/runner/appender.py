"""Turns what an action yields into runs of chunks, one run in flight a stream.

A run is what was yielded while the run before it flew: one chunk at low rates, many under load, so that the cost of a
record is shared exactly when it matters and a lone chunk never waits.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from apexstream.core.chunk import RUN_BYTES_MAX, RUN_CHUNKS_MAX, Chunk, Kind
from apexstream.core.errors import Unavailable

PENDING_BYTES_MAX = 512 * 1024  # yielded and not yet in flight; past this the action waits
PENDING_CHUNKS_MAX = 4 * RUN_CHUNKS_MAX

Put = Callable[[bytes, "StreamAppender"], None]
"""Sends one encoded run towards the log and reports to the appender what became of it."""


class RunEncoder(Protocol):
    """Encodes runs of one attempt of one stream (see ``contracts.codec``)."""

    def encode(
        self, first_seq: int, chunks: tuple[Chunk, ...], checkpoint: bytes | None, previous_hash: bytes
    ) -> tuple[bytes, bytes]: ...


class StreamAppender:
    """The writing end of one attempt, from ``next_seq`` and ``hash`` on. Used from the event loop only."""

    __slots__ = ("_bytes", "_encoder", "_error", "_flying", "_hash", "_pending", "_put", "_taken", "_wake", "next_seq")

    def __init__(self, encoder: RunEncoder, put: Put, *, next_seq: int, previous_hash: bytes) -> None:
        self.next_seq = next_seq  # of the next chunk to be put
        self._encoder = encoder
        self._put = put
        self._hash = previous_hash
        self._taken = next_seq  # of the next chunk to fly
        self._pending: list[Chunk] = []
        self._bytes = 0
        self._flying = False
        self._error: Unavailable | None = None
        self._wake: asyncio.Event | None = None

    @property
    def has_room(self) -> bool:
        """Whether the action may go on without waiting."""
        return self._bytes < PENDING_BYTES_MAX and len(self._pending) < PENDING_CHUNKS_MAX

    def put(self, chunk: Chunk) -> None:
        """Append ``chunk``; raises the error that ended this attempt, if one did."""
        if self._error is not None:
            raise self._error
        self._pending.append(chunk)
        self._bytes += len(chunk.payload)
        self.next_seq += 1
        if not self._flying:
            self._ship()

    def put_progress(self, chunk: Chunk) -> None:
        """Append a progress chunk, or let it replace one that still waits directly before it."""
        if self._flying and self._pending and self._pending[-1].kind is Kind.PROGRESS:
            self._bytes += len(chunk.payload) - len(self._pending[-1].payload)
            self._pending[-1] = chunk
        else:
            self.put(chunk)

    async def room(self) -> None:
        """Wait until the action may go on."""
        while not self.has_room:
            await self._changed()

    async def flush(self) -> None:
        """Wait until all that was put is acknowledged."""
        while self._flying or self._pending:
            await self._changed()

    def appended(self, offset: int) -> None:  # noqa: ARG002 - the listener's signature
        """The run in flight is in the log."""
        self._flying = False
        if self._pending:
            self._ship()
        self._notify()

    def failed(self, error: Unavailable) -> None:
        """The run in flight may or may not be in the log: this attempt is over."""
        self._error = error
        self._flying = False
        self._pending.clear()
        self._notify()

    def _ship(self) -> None:
        chunks = self._take()
        value, self._hash = self._encoder.encode(self._taken, chunks, None, self._hash)
        self._taken += len(chunks)
        self._flying = True
        self._put(value, self)

    def _take(self) -> tuple[Chunk, ...]:
        pending = self._pending
        if self._bytes <= RUN_BYTES_MAX and len(pending) <= RUN_CHUNKS_MAX:
            self._pending, self._bytes = [], 0
            return tuple(pending)
        count = size = 0
        for chunk in pending[:RUN_CHUNKS_MAX]:
            size += len(chunk.payload)
            if count and size > RUN_BYTES_MAX:
                size -= len(chunk.payload)
                break
            count += 1
        taken = tuple(pending[:count])
        del pending[:count]
        self._bytes -= size
        return taken

    async def _changed(self) -> None:
        if self._error is not None:
            raise self._error
        if self._wake is None:
            self._wake = asyncio.Event()
        self._wake.clear()
        await self._wake.wait()
        if self._error is not None:
            raise self._error

    def _notify(self) -> None:
        if self._wake is not None:
            self._wake.set()
