"""What a WebSocket is sent of a stream: chunks to messages, messages to frames. Pure.

A chunk's JSON payload is put into its frame as it lies in the log, so a frame is built once, whoever watches.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from apexstream.core.chunk import Chunk, Kind
from apexstream.gateway.cursors import Cursors, StreamCursors
from apexstream.gateway.encoding import Encoder

_FRAMES = {
    Kind.DATA: (b"stream_update", b'"data"'),
    Kind.PROGRESS: (b"stream_progress", b'"progress"'),
    Kind.COMPLETE: (b"stream_complete", b""),
    Kind.ERROR: (b"stream_error", b'"error"'),
    Kind.CANCELLED: (b"stream_cancelled", b'"data"'),
}


def stream_head(stream_id: str) -> bytes:
    """What every frame of a stream has after its type; computed once a stream."""
    return b',"stream_id":' + msgspec.json.encode(stream_id) + b',"seq":'


def chunk_message(head: bytes, seq: int, chunk: Chunk) -> bytes:
    """The JSON message that shows ``chunk`` to a viewer."""
    name, field = _FRAMES[chunk.kind]
    if not field:
        return b'{"type":"%b"%b%d}' % (name, head, seq)
    if not chunk.content_type:
        return b'{"type":"%b"%b%d,%b:%b}' % (name, head, seq, field, chunk.payload or b"null")
    return b'{"type":"%b"%b%d,%b}' % (name, head, seq, _typed(chunk))


def marked(message: bytes, cursor: str) -> bytes:
    """``message`` with the cursor of whoever has it."""
    return b'%b,"cursor":"%b"}' % (message[:-1], cursor.encode())


def rewind_message(head: bytes, seq: int) -> bytes:
    """Tells a viewer to forget everything from ``seq`` on."""
    return b'{"type":"stream_rewind"%b%d}' % (head, seq)


@dataclass(frozen=True, slots=True)
class JsonFrames:
    """The encodings of the WebSocket; see :class:`apexstream.gateway.encoding.Encoding`.

    Every message is a text frame. With ``cursors`` each says where a reader is that has it; with ``batches`` messages that
    are written together are one frame, a JSON array.
    """

    cursors: Cursors | None = None
    batches: bool = False
    view: str = ""  # what the cursors are bound to

    @property
    def name(self) -> str:
        """Tells the four apart."""
        return f"websocket{'+cursors' if self.cursors else ''}{'+batches' if self.batches else ''}"

    def open(self, stream_id: str) -> Encoder:
        """The encoder of a stream."""
        head = stream_head(stream_id)
        if self.cursors is None and not self.batches:
            return _Frames(head)
        return _Messages(
            head, None if self.cursors is None else self.cursors.of(stream_id, self.view), batches=self.batches
        )


class _Frames:
    """Writes the messages of one stream as the specification has them, a frame each."""

    __slots__ = ("_head",)

    def __init__(self, head: bytes) -> None:
        self._head = head

    def chunk(self, seq: int, rewinds: int, chunk: Chunk) -> bytes:  # noqa: ARG002 - only cursors say it
        return websocket_frame(chunk_message(self._head, seq, chunk))

    def rewind(self, seq: int, rewinds: int) -> bytes:  # noqa: ARG002
        return websocket_frame(rewind_message(self._head, seq))

    def join(self, pieces: Sequence[bytes]) -> bytes:
        return b"".join(pieces)

    def plain(self, first_seq: int, sizes: Sequence[int], payloads: str) -> list[str]:
        before = '{"type":"stream_update"' + self._head.decode("latin-1")
        frames, start, heads, grows_at = [], 0, dict[int, str](), first_seq
        for seq, size in enumerate(sizes, first_seq):
            if seq == grows_at:  # by a digit
                heads.clear()
                grows_at = 10 ** len(str(seq))
                around = len(before) + len(str(seq)) + len(',"data":}')
            head = heads.get(size)
            if head is None:
                frame_head = _frame_head(around + (size or len("null")))
                head = heads[size] = frame_head.decode("latin-1") + before
            frames.append(f'{head}{seq},"data":{payloads[start : start + size] or "null"}}}')
            start += size
        return frames


class _Messages:
    """Writes the messages of one stream with what a client may ask for in addition."""

    __slots__ = ("_batches", "_cursors", "_head")

    def __init__(self, head: bytes, cursors: StreamCursors | None, *, batches: bool) -> None:
        self._head = head
        self._cursors = cursors
        self._batches = batches

    def chunk(self, seq: int, rewinds: int, chunk: Chunk) -> bytes:
        message = self._marked(chunk_message(self._head, seq, chunk), seq + 1, rewinds)
        return message if self._batches else websocket_frame(message)

    def rewind(self, seq: int, rewinds: int) -> bytes:
        return websocket_frame(self._marked(rewind_message(self._head, seq), seq, rewinds))

    def join(self, pieces: Sequence[bytes]) -> bytes:
        if not self._batches:
            return b"".join(pieces)
        return websocket_frame(pieces[0] if len(pieces) == 1 else b"[%b]" % b",".join(pieces)) if pieces else b""

    def _marked(self, message: bytes, seq: int, rewinds: int) -> bytes:
        if self._cursors is None:
            return message
        return marked(message, self._cursors.mint(seq, rewinds))


def websocket_frame(message: bytes) -> bytes:
    """``message`` as one unmasked, final text frame (RFC 6455, 5.2)."""
    return _frame_head(len(message)) + message


def _frame_head(size: int) -> bytes:
    if size < 126:
        return bytes((0x81, size))
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big")
    return b"\x81\x7f" + size.to_bytes(8, "big")


def _typed(chunk: Chunk) -> bytes:
    content_type = msgspec.json.encode(chunk.content_type)
    if chunk.content_type.startswith("text/"):
        text = msgspec.json.encode(chunk.payload.decode("utf-8", "replace"))
        return b'"data":%b,"content_type":%b' % (text, content_type)
    return b'"data":"%b","content_type":%b,"encoding":"base64"' % (base64.b64encode(chunk.payload), content_type)
