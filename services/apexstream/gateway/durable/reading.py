"""What a reader of Durable Streams is given: messages from the delivery engine, collected for an answer or as they come.

A stream that was forked is read in parts: its source's content up to the fork, then its own. Positions count messages from
the beginning of the whole.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.errors import ApexError, Unavailable
from apexstream.gateway.cursors import Position
from apexstream.gateway.encoding import Encoder, Encoding
from apexstream.gateway.frames import chunk_message, stream_head
from apexstream.gateway.subscription import FromTail, Start, Subscription, Viewer

READ_BYTES_MAX = 1024 * 1024  # of one answer, about: the part that reaches it is still in it
READ_TIMEOUT_S = 30.0  # for what is there already
BEHIND_BYTES_MAX = 4 * 1024 * 1024  # not taken by a live reader; past this it is closed, and may come back and resume

_SIZE_BYTES = 4
_REWOUND = b"\xff" * _SIZE_BYTES


class Rewound(ApexError):
    """A new attempt of the task took back what the reader has from ``position`` on."""

    code = "rewound"

    def __init__(self, position: Position) -> None:
        super().__init__("a part of what was read no longer counts", where="offset", hint="Read again from there")
        self.position = position


class Engine(Protocol):
    """The delivery engine, as far as it is needed here; see :class:`apexstream.gateway.hub.Hub`."""

    def subscribe(
        self, stream_id: str, start: Start, viewer: Viewer, encoding: Encoding, *, tenant: str
    ) -> Subscription: ...
    def unsubscribe(self, subscription: Subscription) -> None: ...
    def draining(self, stop: Callable[[], None]) -> AbstractContextManager[None]: ...


class _Messages:
    """Writes the messages of a stream that is written from outside, each preceded by its size."""

    def chunk(self, seq: int, rewinds: int, chunk: Chunk) -> bytes:  # noqa: ARG002 - the encoder's signature
        return _sized(chunk.payload) if chunk.kind is Kind.DATA else b""

    def rewind(self, seq: int, rewinds: int) -> bytes:  # noqa: ARG002 - the encoder's signature
        return _REWOUND

    def join(self, pieces: Sequence[bytes]) -> bytes:
        return b"".join(pieces)

    def plain(self, first_seq: int, sizes: Sequence[int], payloads: str) -> list[str]:  # noqa: ARG002 - as above
        texts, start = [], 0
        for size in sizes:
            head = size.to_bytes(_SIZE_BYTES, "big").decode("latin-1")
            texts.append(head + payloads[start : start + size])
            start += size
        return texts


class _TaskMessages:
    """Writes what a task's stream shows, as the JSON messages that a WebSocket carries: nothing of it is lost."""

    def __init__(self, stream_id: str) -> None:
        self._head = stream_head(stream_id)

    def chunk(self, seq: int, rewinds: int, chunk: Chunk) -> bytes:  # noqa: ARG002 - the encoder's signature
        return _sized(chunk_message(self._head, seq, chunk))

    def rewind(self, seq: int, rewinds: int) -> bytes:  # noqa: ARG002 - the encoder's signature
        return _REWOUND

    def join(self, pieces: Sequence[bytes]) -> bytes:
        return b"".join(pieces)


class Messages:
    """The encoding of streams that are written from outside."""

    name = "durable"

    def open(self, stream_id: str) -> Encoder:  # noqa: ARG002 - the encoding's signature
        return _Messages()


class TaskMessages:
    """The encoding of tasks' streams."""

    name = "durable-task"

    def open(self, stream_id: str) -> Encoder:
        return _TaskMessages(stream_id)


def _sized(message: bytes) -> bytes:
    return len(message).to_bytes(_SIZE_BYTES, "big") + message


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A stretch of the whole: the stream that holds it, the position of that stream's seq 0, and where it ends (None: it is
    the last)."""

    stream_id: str
    base: int
    end: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What a path reads: its parts in order, for whoever is of ``tenant``. ``ends_show``: the end of the stream is a message too,
    as in a task's stream."""

    parts: tuple[Part, ...]
    encoding: Encoding
    ends_show: bool
    tenant: str

    def part(self, seq: int) -> Part:
        """The part in which the message at ``seq`` is, or will be."""
        return next(part for part in self.parts if part.end is None or seq < part.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Consecutive messages, and where their reader is then. ``up_to_date``: there were no more; ``closed``: there never will
    be."""

    messages: Sequence[bytes]
    position: Position
    up_to_date: bool
    closed: bool


class _Viewer:
    """Collects what the engine sends. ``room_bytes``: more than that is not asked for."""

    def __init__(self, room_bytes: int) -> None:
        self.changed = asyncio.Event()
        self.is_caught_up = False
        self.stopped = False
        self.problem: ApexError | None = None
        self.size_bytes = 0
        self._room_bytes = room_bytes
        self._roomy = asyncio.Event()
        self._data: list[bytes] = []

    def began(self, subscription: Subscription) -> None:
        """Nothing to do: a rewind is told as one."""

    def send(self, subscription: Subscription, data: bytes) -> None:
        """Keep it, up to a rewind; whoever falls too far behind is given no more."""
        if data == _REWOUND:
            self.problem = self.problem or Rewound(subscription.position)
        if isinstance(self.problem, Rewound):
            self.changed.set()
            return
        self._data.append(data)
        self.size_bytes += len(data)
        if subscription.live is not None and self.size_bytes > BEHIND_BYTES_MAX:
            self.problem = Unavailable("the reader is too slow", hint="Read again from the last offset")
        self.changed.set()

    def caught_up(self, subscription: Subscription) -> None:  # noqa: ARG002 - the port
        """All that is there has been sent."""
        self.is_caught_up = True
        self.changed.set()

    def failed(self, subscription: Subscription, problem: ApexError) -> None:  # noqa: ARG002 - the port
        """Nothing more comes."""
        self.problem = problem
        self.changed.set()

    def stop(self) -> None:
        """The gateway stops: whoever waits goes elsewhere."""
        self.stopped = True
        self.changed.set()

    async def room(self) -> None:
        """Wait until what was sent has been taken."""
        while self.size_bytes >= self._room_bytes:
            self._roomy.clear()
            await self._roomy.wait()

    def behind(self) -> float:
        """By what was not taken yet."""
        return min(1.0, self.size_bytes / BEHIND_BYTES_MAX)

    def take(self) -> list[bytes]:
        """The messages so far."""
        data, self._data, self.size_bytes = b"".join(self._data), [], 0
        self._roomy.set()
        self.changed.clear()
        return _messages(data)


def _messages(data: bytes) -> list[bytes]:
    messages, at = [], 0
    while at < len(data):
        end = at + _SIZE_BYTES + int.from_bytes(data[at : at + _SIZE_BYTES], "big")
        messages.append(data[at + _SIZE_BYTES : end])
        at = end
    return messages


class Reading:
    """One reader's subscription to one part, from ``position`` of the whole on. Use as a context manager."""

    def __init__(
        self, engine: Engine, layout: Layout, part: Part, start: Start, room_bytes: int = READ_BYTES_MAX
    ) -> None:
        self._engine = engine
        self._layout = layout
        self._part = part
        self._viewer = _Viewer(room_bytes)
        self._draining = engine.draining(self._viewer.stop)
        self._start = start
        if isinstance(start, Position):
            start = Position(start.seq - part.base, start.rewinds)
        self._subscription = engine.subscribe(
            part.stream_id, start, self._viewer, layout.encoding, tenant=layout.tenant
        )

    def __enter__(self) -> "Reading":
        self._draining.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._draining.__exit__(None, None, None)
        self._engine.unsubscribe(self._subscription)

    @property
    def stopped(self) -> bool:
        """Whether this gateway stops, and nothing more is to be waited for here."""
        return self._viewer.stopped

    def _whole(self) -> bool:
        viewer, end = self._viewer, self._part.end
        reached = end is not None and self._subscription.position.seq + self._part.base >= end
        full = viewer.size_bytes >= READ_BYTES_MAX
        return reached or full or viewer.is_caught_up or self._subscription.ended or viewer.problem is not None

    async def batch(self) -> Batch:
        """What is there, or the first part of it. Raise :class:`Rewound`, or what reading failed with."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                while not self._whole():
                    await self._viewer.changed.wait()
                    self._viewer.changed.clear()
        except TimeoutError:
            raise Unavailable("the stream could not be read in time", where=self._part.stream_id) from None
        return self._take()

    async def more(self, timeout_s: float) -> Batch | None:
        """What comes next; None if nothing does within ``timeout_s``."""
        viewer = self._viewer
        try:
            async with asyncio.timeout(timeout_s):
                while not (viewer.size_bytes or self._subscription.ended or viewer.problem or viewer.stopped):
                    await viewer.changed.wait()
                    viewer.changed.clear()
        except TimeoutError:
            return None
        return self._take() if viewer.size_bytes or self._subscription.ended or viewer.problem else None

    def _take(self) -> Batch:
        subscription, part = self._subscription, self._part
        at, ended = subscription.position, subscription.ended and self._viewer.problem is None
        problem, messages = self._viewer.problem, self._viewer.take()
        if problem is not None and (isinstance(problem, Rewound) or not messages):
            raise problem
        # The end has a seq, but is a message only in a task's stream.
        seq = at.seq + part.base - (ended and not self._layout.ends_show)
        if part.end is not None and seq >= part.end:
            messages, seq, ended = messages[: len(messages) - (seq - part.end)], part.end, False
        elif isinstance(self._start, Position):
            seq = max(seq, self._start.seq)
        return Batch(
            messages=messages,
            position=Position(seq, at.rewinds),
            up_to_date=part.end is None and (ended or self._viewer.is_caught_up),
            closed=ended,
        )


async def tail(engine: Engine, layout: Layout) -> Batch:
    """Where the stream ends now."""
    with Reading(engine, layout, layout.parts[-1], FromTail()) as reading:
        return await reading.batch()


async def read(engine: Engine, layout: Layout, position: Position, wait_s: float = 0.0) -> Batch:
    """Messages from ``position`` on, across parts; if there are none, what comes within ``wait_s``."""
    messages: list[bytes] = []
    while True:
        part = layout.part(position.seq)
        with Reading(engine, layout, part, position) as reading:
            batch = await reading.batch()
            if wait_s > 0 and batch.up_to_date and not (batch.closed or batch.messages or messages):
                return await reading.more(wait_s) or batch
        messages += batch.messages
        position = batch.position
        if part.end is None or position.seq < part.end or sum(map(len, messages)) >= READ_BYTES_MAX:
            return replace(batch, messages=messages)


async def follow(
    engine: Engine, layout: Layout, position: Position, *, lifetime_s: float, beat_s: float
) -> AsyncGenerator[Batch, None]:
    """Batches from ``position`` on, as they come, an empty one at least every ``beat_s`` once there is nothing more, until the
    stream is closed or ``lifetime_s`` is over."""
    loop = asyncio.get_running_loop()
    until = loop.time() + lifetime_s
    while (part := layout.part(position.seq)).end is not None:
        with Reading(engine, layout, part, position) as reading:
            batch = await reading.batch()
        position = batch.position
        if batch.messages:
            yield batch
    with Reading(engine, layout, part, position) as reading:
        batch = await reading.batch()
        yield batch
        while not (batch.closed or reading.stopped) and (left_s := until - loop.time()) > 0:
            found = await reading.more(min(beat_s, left_s))
            batch = found or Batch(messages=(), position=batch.position, up_to_date=True, closed=False)
            yield batch
