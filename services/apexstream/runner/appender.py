"""Turns what an action yields into runs of chunks.

A run is what was yielded while the run before it flew: one chunk at low rates, many under load, so that the cost of a
record is shared exactly when it matters and a lone chunk never waits. What fills a whole run waits for nothing: a few such
runs may fly behind one another, in the order of the partition that they go to.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

from apexstream.core.chunk import RUN_BYTES_MAX, RUN_CHUNKS_MAX, Chunk
from apexstream.core.errors import Unavailable
from apexstream.runner.buffer import CHUNK_OVERHEAD_BYTES, Buffer

RUNS_IN_FLIGHT_MAX = 4  # of one stream; as much as the credit of one action comes to

_payload = attrgetter("payload")

Put = Callable[[bytes, "StreamAppender"], None]
"""Sends one encoded run towards the log and reports to the appender what became of it."""
OnTaken = Callable[[int, int], None]
"""Told how many payload bytes, in how many chunks, are in the log now, so that the action may yield as many more."""


class RunEncoder(Protocol):
    """Encodes runs of one attempt of one stream (see ``contracts.run_codec``)."""

    def encode(
        self, first_seq: int, chunks: Sequence[Chunk], checkpoint: bytes | None, previous_hash: bytes
    ) -> tuple[bytes, bytes]: ...


@dataclass(frozen=True, slots=True)
class _Flight:
    """What a run that is not acknowledged yet takes up."""

    payload_bytes: int
    chunks: int
    state_bytes: int  # of all checkpoints that fell into it

    @property
    def cost_bytes(self) -> int:
        return _cost(self.payload_bytes, self.chunks, self.state_bytes)


class StreamAppender:
    """The writing end of one attempt, from ``next_seq`` and ``previous_hash`` on. Used from the event loop only.

    What waits here is bounded by the credit that ``on_taken`` gives back, and over all streams by ``buffer``.
    """

    __slots__ = (
        "_buffer",
        "_checkpoints",
        "_encoder",
        "_error",
        "_flying",
        "_hash",
        "_on_taken",
        "_pending",
        "_pending_bytes",
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
        self._pending_bytes = 0  # payloads
        self._checkpoints: deque[tuple[int, bytes]] = deque()  # (seq after the chunk that it covers, state)
        self._flying: deque[_Flight] = deque()
        self._waiting_bytes = 0  # in the buffer, in flight or not
        self._error: Unavailable | None = None
        self._wake: asyncio.Event | None = None

    def put(self, chunks: Sequence[Chunk], checkpoint: bytes | None = None) -> None:
        """Append ``chunks``; ``checkpoint`` is the action's state after the last of them. Raises the error that ended this
        attempt, if one did."""
        if self._error is not None:
            raise self._error
        size_bytes = _payload_bytes(chunks)
        self._pending.extend(chunks)
        self._pending_bytes += size_bytes
        self.next_seq += len(chunks)
        if checkpoint is not None:
            self._checkpoints.append((self.next_seq, checkpoint))
        self._fill(_cost(size_bytes, len(chunks), len(checkpoint or b"")))
        self._ship_ready()

    async def flush(self) -> None:
        """Wait until all that was put is acknowledged; raises the error that ended this attempt, if one did."""
        while self._error is None and (self._flying or self._pending):
            if self._wake is None:
                self._wake = asyncio.Event()
            self._wake.clear()
            await self._wake.wait()
        if self._error is not None:
            raise self._error

    def appended(self, offset: int) -> None:  # noqa: ARG002 - the listener's signature
        """The first run in flight is in the log."""
        if self._error is not None:
            return
        landed = self._flying.popleft()
        self._ship_ready()
        self._fill(-landed.cost_bytes)
        self._on_taken(landed.payload_bytes, landed.chunks)
        self._notify()

    def failed(self, error: Unavailable) -> None:
        """What is in flight may or may not be in the log: this attempt is over."""
        self._error = error
        self._flying.clear()
        self._pending.clear()
        self._checkpoints.clear()
        self._fill(-self._waiting_bytes)
        self._notify()

    def _ship_ready(self) -> None:
        while self._pending and (not self._flying or (self._fills_a_run and len(self._flying) < RUNS_IN_FLIGHT_MAX)):
            self._ship()

    @property
    def _fills_a_run(self) -> bool:
        return len(self._pending) >= RUN_CHUNKS_MAX or self._pending_bytes >= RUN_BYTES_MAX

    def _ship(self) -> None:
        first_seq = self._taken
        chunks, checkpoint, flight = self._take()
        value, self._hash = self._encoder.encode(first_seq, chunks, checkpoint, self._hash)
        self._flying.append(flight)
        self._put(value, self)

    def _take(self) -> tuple[Sequence[Chunk], bytes | None, _Flight]:
        """The next run, and the last of the checkpoints that fall into it, with which it ends. Those before can never be
        resumed from, because the record is in the log as a whole or not at all."""
        count, size_bytes = self._fitting()
        checkpoint, state_bytes = None, 0
        end = self._taken
        while self._checkpoints and self._checkpoints[0][0] <= self._taken + count:
            end, checkpoint = self._checkpoints.popleft()
            state_bytes += len(checkpoint)
        if checkpoint is not None and end - self._taken < count:
            count = end - self._taken
            size_bytes = _payload_bytes(self._pending[:count])
        taken = self._pending[:count]
        del self._pending[:count]
        self._pending_bytes -= size_bytes
        self._taken += count
        return taken, checkpoint, _Flight(size_bytes, count, state_bytes)

    def _fitting(self) -> tuple[int, int]:
        """How many of the pending chunks fit into a run, at least one, and the bytes of their payloads."""
        count = min(len(self._pending), RUN_CHUNKS_MAX)
        size_bytes = self._pending_bytes if count == len(self._pending) else _payload_bytes(self._pending[:count])
        while count > 1 and size_bytes > RUN_BYTES_MAX:
            count -= 1
            size_bytes -= len(self._pending[count].payload)
        return count, size_bytes

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


def _payload_bytes(chunks: Sequence[Chunk]) -> int:
    return sum(map(len, map(_payload, chunks)))


def _cost(payload_bytes: int, count: int, state_bytes: int) -> int:
    """What it takes to hold so many chunks."""
    return payload_bytes + CHUNK_OVERHEAD_BYTES * count + state_bytes
