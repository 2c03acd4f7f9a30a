"""The writing end of one output stream: claims it as an attempt does, and drops what it holds already.

Every claim says which inputs, after how many rewinds, the content comes from. Content from the same is the same content,
so a job that starts over writes on where the stream ends; otherwise its claim rewinds the stream, in that one record.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from apexstream.contracts.run_codec import RunEncoder
from apexstream.core.chunk import (
    FROM_UNKNOWN,
    GENESIS,
    Chunk,
    Kind,
)
from apexstream.core.errors import Unavailable
from apexstream.core.fold import StreamFold
from apexstream.processors.feeder import runs_of
from apexstream.processors.inputs import Sight

CLAIM_TRIES_MAX = 5

_log = structlog.get_logger(__name__)


class Streams(Protocol):
    """What an output needs of the log."""

    def encoder(self, stream_id: str, attempt: int, writer: str) -> RunEncoder: ...
    async def append(self, stream_id: str, value: bytes) -> int: ...


class Look(Protocol):
    """See :meth:`StreamReader.look`."""

    async def __call__(self, stream_id: str, end: int | None = None) -> Sight: ...


class Output:
    """One output stream. ``said`` is what its claims say; ``writer`` is the name in them, of this life of the job only."""

    def __init__(self, stream_id: str, said: bytes, *, streams: Streams, look: Look, writer: str, now_us: int) -> None:
        self.stream_id = stream_id
        self.next_seq = 0  # of what the job makes next …
        self._in_log = 0  # … and of what the log takes next
        self._said = said
        self._streams = streams
        self._look = look
        self._writer = writer
        self._now_us = now_us
        self._encoder: RunEncoder | None = None
        self._hash = GENESIS
        self.closed: Kind | None = None

    async def open(self) -> int:
        """Claim the stream; gives how many chunks it holds of what the job makes. Raises :class:`Unavailable` when others keep
        claiming it."""
        for _ in range(CLAIM_TRIES_MAX):
            before = (await self._look(self.stream_id)).fold
            if before.closed is not None:
                self.closed, self._in_log = before.closed, before.next_seq
                return before.next_seq
            if await self._claim(before):
                return self._in_log
        raise Unavailable(f"{CLAIM_TRIES_MAX} claims lost to others", where=self.stream_id)

    async def _claim(self, before: StreamFold) -> bool:
        attempt = before.attempt + 1
        encoder = self._streams.encoder(self.stream_id, attempt, self._writer)
        same = _said(before) == self._said
        claim = Chunk(Kind.CLAIM, self._said, self._now_us)
        value, _ = encoder.encode(FROM_UNKNOWN if same else 0, (claim,), None, GENESIS)
        offset = await self._streams.append(self.stream_id, value)
        fold = (await self._look(self.stream_id, offset + 1)).fold
        if (fold.attempt, fold.writer) != (attempt, self._writer) or fold.closed is not None:
            return False
        if same:
            if len(fold.claims) > 1 and fold.claims[-2][1] != self._said:
                return False  # somebody else's claim came in between
            resume = Chunk(Kind.RESUME, b"", self._now_us)
            await self._streams.append(self.stream_id, encoder.encode(fold.next_seq, (resume,), None, fold.hash)[0])
        self._encoder, self._hash, self._in_log = encoder, fold.hash, fold.next_seq
        return True

    async def write(self, chunks: Sequence[Chunk]) -> None:
        """Append what comes next, less what the stream holds; returns once it is acknowledged.

        Raises :class:`Unavailable` if that is not certain: this life of the job is over then.
        """
        fresh = chunks[max(0, self._in_log - self.next_seq) :]
        self.next_seq += len(chunks)
        if not fresh or self._encoder is None:
            return
        appends = []
        for run in runs_of(fresh):
            value, self._hash = self._encoder.encode(self._in_log, run, None, self._hash)
            self._in_log += len(run)
            appends.append(self._streams.append(self.stream_id, value))
        await asyncio.gather(*appends)
        if fresh[-1].kind.closes:
            self.closed = fresh[-1].kind


def _said(fold: StreamFold) -> bytes | None:
    return fold.claims[-1][1] if fold.claims else None
