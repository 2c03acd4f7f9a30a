"""One call of a tool: a stream is read, told of as it comes, and given back with the place where it was left."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import msgspec

from apexstream.client.frames import Cancelled, Complete, Error, Frame, Progress, Rewind, Update
from apexstream.client.problems import Problem
from apexstream.core.errors import ApexError
from apexstream.gateway.mcp.desk import Desk
from apexstream.gateway.mcp.tools import READ, Chunk, Outcome

RESULT_BYTES_MAX = 256 * 1024  # of the chunks in one result, as JSON; one chunk may be larger
PROGRESS_PER_S_MAX = 20  # what comes quicker is told of together

Tell = Callable[[float, str], Awaitable[None]]
"""Tells the client how far the call is: a number that grows, and words."""


class Call:
    """Reads ``stream_id`` behind ``cursor``."""

    def __init__(self, desk: Desk, stream_id: str, cursor: str, tell: Tell) -> None:
        self._desk = desk
        self._stream_id = stream_id
        self._cursor = cursor
        self._tell = tell
        self._chunks: list[Chunk] = []
        self._size_bytes = 0
        self._first_seq = None if cursor else 0
        self._forget_from: int | None = None
        self._end: Complete | Error | Cancelled | None = None
        self._told, self._told_at = 0.0, 0.0

    async def read(self, wait_s: float) -> Outcome:
        """Until the stream has ended, the result is full, or ``wait_s`` is over."""
        frames = self._desk.follow(self._stream_id, self._cursor)
        hint = f"The gateway stops: read on with {READ} and this cursor"
        try:
            async with asyncio.timeout(wait_s), aclosing(frames):
                async for frame in frames:
                    if not self._take(frame):
                        hint = f"There is more: read on with {READ} and this cursor"
                        break
                    if self._end is not None:
                        break
                    await self._report(frame)
        except TimeoutError:
            hint = f"The stream goes on: read on with {READ} and this cursor"
        except ApexError as problem:
            return self._outcome(error=Problem(**problem.as_dict()), hint="")
        return self._outcome(hint=hint)

    def _take(self, frame: Frame) -> bool:
        """False: there is no room for it."""
        if isinstance(frame, Rewind):
            self._rewind(frame.seq)
        else:
            if self._first_seq is None:
                self._first_seq = frame.seq
            if isinstance(frame, Update):
                size_bytes = len(msgspec.json.encode(frame.data))
                if self._chunks and self._size_bytes + size_bytes > RESULT_BYTES_MAX:
                    return False
                self._size_bytes += size_bytes
                self._chunks.append(
                    Chunk(seq=frame.seq, data=frame.data, content_type=frame.content_type, encoding=frame.encoding)
                )
            elif isinstance(frame, Complete | Error | Cancelled):
                self._end = frame
        self._cursor = frame.cursor or self._cursor
        return True

    def _rewind(self, seq: int) -> None:
        self._chunks = [chunk for chunk in self._chunks if chunk.seq < seq]
        self._size_bytes = sum(len(msgspec.json.encode(chunk.data)) for chunk in self._chunks)
        if self._first_seq is None or seq < self._first_seq:
            self._first_seq = self._forget_from = seq

    async def _report(self, frame: Frame) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._told_at < 1 / PROGRESS_PER_S_MAX:
            return
        self._told, self._told_at = max(self._told + 1, frame.seq + 1), now
        await self._tell(self._told, f"{_words(frame)} · stream {self._stream_id} · cursor {self._cursor}")

    def _outcome(self, *, error: Problem | None = None, hint: str) -> Outcome:
        end = self._end
        if end is not None:
            status = {Complete: "complete", Error: "error", Cancelled: "cancelled"}[type(end)]
        else:
            status = "unreadable" if error is not None else "open"
        return Outcome(
            stream_id=self._stream_id,
            address=self._desk.address(self._stream_id, self._cursor),
            cursor=self._cursor,
            finished=end is not None,
            status=status,  # type: ignore[arg-type]  # one of the words, by the table
            chunks=self._chunks,
            forget_from=self._forget_from,
            error=end.error if isinstance(end, Error) else error,
            receipt=end.data if isinstance(end, Cancelled) else None,
            hint="" if end is not None else hint,
        )


def _words(frame: Frame) -> str:
    if isinstance(frame, Progress):
        said = frame.progress
        percentage = "" if said.percentage is None else f"{said.percentage:g} %"
        return " ".join(word for word in (percentage, said.message or said.status) if word) or "progress"
    return f"back to {frame.seq}" if isinstance(frame, Rewind) else f"chunk {frame.seq}"
