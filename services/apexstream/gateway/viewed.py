"""How a view of a stream is written: what an encoding writes, of what the view makes of each chunk. Pure.

Whoever asks for the same view in the same encoding shares what is built; see ``core.views`` for what a view may be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from apexstream.core.chunk import Chunk
from apexstream.core.views import View
from apexstream.gateway.cursors import Cursors, StreamCursors
from apexstream.gateway.encoding import Encoder, Encoding
from apexstream.gateway.frames import chunk_message, marked, rewind_message, stream_head


@dataclass(frozen=True, slots=True)
class Viewed:
    """``encoding`` of what ``view`` shows. Cursors that it writes are to be bound to the view: that is its maker's part."""

    encoding: Encoding
    view: View

    @property
    def name(self) -> str:
        """Tells views apart; metrics are labelled with what is before the bar."""
        return f"{self.encoding.name}+view|{self.view.name}"

    def open(self, stream_id: str) -> Encoder:
        """The encoder of a stream."""
        return _Viewed(self.encoding.open(stream_id), self.view)


class _Viewed:
    """A chunk that the view leaves out is an empty piece, so that seqs stay those of the stream."""

    __slots__ = ("_encoder", "_view")

    def __init__(self, encoder: Encoder, view: View) -> None:
        self._encoder = encoder
        self._view = view

    def chunk(self, seq: int, rewinds: int, chunk: Chunk) -> bytes:
        shown = self._view.shown(chunk)
        return b"" if shown is None else self._encoder.chunk(seq, rewinds, shown)

    def rewind(self, seq: int, rewinds: int) -> bytes:
        return self._encoder.rewind(seq, rewinds)

    def join(self, pieces: Sequence[bytes]) -> bytes:
        shown = [piece for piece in pieces if piece]
        return self._encoder.join(shown) if shown else b""


@dataclass(frozen=True, slots=True)
class Lines:
    """The messages of a WebSocket, each with its cursor, as lines (``application/x-ndjson``) or as server-sent ``events``, whose
    id the cursor is. ``view`` is what the cursors are bound to."""

    cursors: Cursors
    view: str
    events: bool

    @property
    def name(self) -> str:
        """Tells the two apart."""
        return "sse" if self.events else "ndjson"

    def open(self, stream_id: str) -> Encoder:
        """The encoder of a stream."""
        head, cursors = stream_head(stream_id), self.cursors.of(stream_id, self.view)
        return _Events(head, cursors) if self.events else _Lines(head, cursors)


class _Lines:
    """One JSON text a line."""

    __slots__ = ("_cursors", "_head")

    def __init__(self, head: bytes, cursors: StreamCursors) -> None:
        self._head = head
        self._cursors = cursors

    def chunk(self, seq: int, rewinds: int, chunk: Chunk) -> bytes:
        return self._written(chunk_message(self._head, seq, chunk), self._cursors.mint(seq + 1, rewinds))

    def rewind(self, seq: int, rewinds: int) -> bytes:
        return self._written(rewind_message(self._head, seq), self._cursors.mint(seq, rewinds))

    def join(self, pieces: Sequence[bytes]) -> bytes:
        return b"".join(pieces)

    def _written(self, message: bytes, cursor: str) -> bytes:
        return marked(in_one_line(message), cursor) + b"\n"


class _Events(_Lines):
    """One event a message."""

    __slots__ = ()

    def _written(self, message: bytes, cursor: str) -> bytes:
        return event(marked(in_one_line(message), cursor), cursor)


def in_one_line(message: bytes) -> bytes:
    """The same JSON without line ends, which it can only have between its tokens: whoever wrote it put them there."""
    if b"\n" in message or b"\r" in message:
        return message.replace(b"\r", b" ").replace(b"\n", b" ")
    return message


def event(message: bytes, cursor: str) -> bytes:
    """A server-sent event. Without a message nobody hears of it, but the reader comes back with its id."""
    return b"id: %b\n%b\n" % (cursor.encode(), b"data: %b\n" % message if message else b"")
