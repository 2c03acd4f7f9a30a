"""Turns what an action yields into runs of chunks, one run in flight a stream.

A run is what was yielded while the run before it flew: one chunk at low rates, many under load, so that the cost of a
record is shared exactly when it matters and a lone chunk never waits.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from apexstream.core.chunk import RUN_BYTES_MAX, RUN_CHUNKS_MAX, Chunk
from apexstream.core.errors import Unavailable
from apexstream.runner.buffer import CHUNK_OVERHEAD_BYTES, Buffer

Put = Callable[[bytes, "StreamAppender"], None]
"""Sends one encoded run towards the log and reports to the appender what became of it."""
OnTaken = Callable[[int, int], None]
"""Told how many payload bytes, in how many chunks, are in the log now, so that the action may yield as many more."""


class RunEncoder(Protocol):
    """Encodes runs of one attempt of one stream (see ``contracts.run_codec``)."""

    def encode(
        self, first_seq: int, chunks: Sequence[Chunk], checkpoint: bytes | None, previous_hash: bytes
    ) -> tuple[bytes, bytes]: ...


class StreamAppender:
    """The writing end of one attempt, from ``next_seq`` and ``previous_hash`` on. Used from the event loop only.

    What waits here is bounded by the credit that ``on_taken`` gives back, and over all streams by ``buffer``.
    """

    __slots__ = (
        "_buffer",
        "_checkpoints",
        "_encoder",
        "_error",
        "_flying_bytes",
        "_flying_chunks",
        "_flying_state_bytes",
        "_hash",
        "_on_taken",
        "_pending",
        "_put",
        "_taken",
        "_waiting_bytes",
        "_wake",
        "next_seq",
    )

    def __init__(
        self,
        encoder: RunEncoder,
        put: Put,
        *,
        next_seq: int,
        previous_hash: bytes,
        buffer: Buffer,
        on_taken: OnTaken = lambda _, __: None,
    ) -> None:
        self.next_seq = next_seq  # of the next chunk to be put
        self._encoder = encoder
        self._put = put
        self._buffer = buffer
        self._on_taken = on_taken
        self._hash = previous_hash
        self._taken = next_seq  # of the next chunk to fly
        self._pending: list[Chunk] = []
        self._checkpoints: deque[tuple[int, bytes]] = deque()  # (seq after the chunk that it covers, state)
        self._flying_bytes = -1  # of the run in flight; -1: none
        self._flying_chunks = 0
        self._flying_state_bytes = 0  # of all checkpoints that fell into it
        self._waiting_bytes = 0  # in the buffer, in flight or not
        self._error: Unavailable | None = None
        self._wake: asyncio.Event | None = None

    def put(self, chunks: Sequence[Chunk], checkpoint: bytes | None = None) -> None:
        """Append ``chunks``; ``checkpoint`` is the action's state after the last of them. Raises the error that ended this
        attempt, if one did."""
        if self._error is not None:
            raise self._error
        self._pending.extend(chunks)
        self.next_seq += len(chunks)
        if checkpoint is not None:
            self._checkpoints.append((self.next_seq, checkpoint))
        self._fill(_cost(sum(len(chunk.payload) for chunk in chunks), len(chunks), len(checkpoint or b"")))
        if self._flying_bytes < 0:
            self._ship()

    async def flush(self) -> None:
        """Wait until all that was put is acknowledged; raises the error that ended this attempt, if one did."""
        while self._error is None and (self._flying_bytes >= 0 or self._pending):
            if self._wake is None:
                self._wake = asyncio.Event()
            self._wake.clear()
            await self._wake.wait()
        if self._error is not None:
            raise self._error

    def appended(self, offset: int) -> None:  # noqa: ARG002 - the listener's signature
        """The run in flight is in the log."""
        if self._error is not None:
            return
        taken, count = self._flying_bytes, self._flying_chunks
        landed_bytes = _cost(taken, count, self._flying_state_bytes)
        self._flying_bytes = -1
        if self._pending:
            self._ship()
        self._fill(-landed_bytes)
        self._on_taken(taken, count)
        self._notify()

    def failed(self, error: Unavailable) -> None:
        """The run in flight may or may not be in the log: this attempt is over."""
        self._error = error
        self._flying_bytes = -1
        self._pending.clear()
        self._checkpoints.clear()
        self._fill(-self._waiting_bytes)
        self._notify()

    def _ship(self) -> None:
        chunks, checkpoint, size = self._take()
        value, self._hash = self._encoder.encode(self._taken, chunks, checkpoint, self._hash)
        self._taken += len(chunks)
        self._flying_bytes, self._flying_chunks = size, len(chunks)
        self._put(value, self)

    def _take(self) -> tuple[Sequence[Chunk], bytes | None, int]:
        """The next run. If checkpoints fall into it, it ends with the last of them: the ones before can never be resumed
        from, because the record is in the log as a whole or not at all."""
        count = size = state_bytes = 0
        checkpoint = None
        checkpointed = (0, 0)  # chunks and bytes up to the last checkpoint
        for number, chunk in enumerate(self._pending[:RUN_CHUNKS_MAX], 1):
            length = len(chunk.payload)
            if count and size + length > RUN_BYTES_MAX:
                break
            count = number
            size += length
            while self._checkpoints and self._checkpoints[0][0] == self._taken + count:
                _, checkpoint = self._checkpoints.popleft()
                state_bytes += len(checkpoint)
                checkpointed = count, size
        if checkpoint is not None:
            count, size = checkpointed
        taken = self._pending[:count]
        del self._pending[:count]
        self._flying_state_bytes = state_bytes
        return taken, checkpoint, size

    def _fill(self, size_bytes: int) -> None:
        """Account for so much more that waits; less if negative."""
        self._waiting_bytes += size_bytes
        if size_bytes >= 0:
            self._buffer.fill(size_bytes)
        else:
            self._buffer.free(-size_bytes)

    def _notify(self) -> None:
        if self._wake is not None:
            self._wake.set()


def _cost(payload_bytes: int, count: int, state_bytes: int) -> int:
    """What it takes to hold so many chunks."""
    return payload_bytes + CHUNK_OVERHEAD_BYTES * count + state_bytes
