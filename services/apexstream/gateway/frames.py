"""The WebSocket's messages: chunks to frames, commands from clients. Pure.

A chunk's JSON payload is put into its frame as it lies in the log, so a frame is built once, whoever watches.
"""

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.errors import ApexError, InvalidRequest
from apexstream.core.ids import check_id

COMMAND_BYTES_MAX = 64 * 1024

_FRAMES = {
    Kind.DATA: (b"stream_update", b'"data"'),
    Kind.PROGRESS: (b"stream_progress", b'"progress"'),
    Kind.COMPLETE: (b"stream_complete", b""),
    Kind.ERROR: (b"stream_error", b'"error"'),
    Kind.CANCELLED: (b"stream_cancelled", b'"data"'),
}


class Subscribe(msgspec.Struct, tag_field="type", tag="subscribe", frozen=True):
    """Send the stream from ``from_seq`` on, and everything that follows."""

    stream_id: str
    from_seq: int = 0


class Unsubscribe(msgspec.Struct, tag_field="type", tag="unsubscribe", frozen=True):
    """Send nothing more of the stream."""

    stream_id: str


class Ping(msgspec.Struct, tag_field="type", tag="ping", frozen=True):
    """Answer with a pong."""


Command = Subscribe | Unsubscribe | Ping
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Command)


def read_command(text: str | bytes) -> Command:
    """Parse a client's message; :class:`InvalidRequest` says what is wrong with it."""
    try:
        command: Command = _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as problem:
        raise InvalidRequest(
            str(problem), where="message", hint='Send JSON such as {"type":"subscribe","stream_id":"..."}'
        ) from None
    if not isinstance(command, Ping):
        check_id(command.stream_id, "stream_id")
    if isinstance(command, Subscribe) and command.from_seq < 0:
        raise InvalidRequest("from_seq is negative", where="from_seq", hint="Use the seq of the first chunk to send")
    return command


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


def rewind_message(head: bytes, seq: int) -> bytes:
    """Tells a viewer to forget everything from ``seq`` on."""
    return b'{"type":"stream_rewind"%b%d}' % (head, seq)


class JsonFrames:
    """The encoding of the WebSocket: a text frame for each message; see :class:`apexstream.gateway.encoding.Encoding`."""

    name = "websocket"

    def open(self, stream_id: str) -> "JsonFrameEncoder":
        """The encoder of a stream."""
        return JsonFrameEncoder(stream_head(stream_id))


class JsonFrameEncoder:
    """Writes the frames of one stream."""

    __slots__ = ("_head",)

    def __init__(self, head: bytes) -> None:
        self._head = head

    def chunk(self, seq: int, rewinds: int, chunk: Chunk) -> bytes:  # noqa: ARG002 - the protocol's messages have none
        """The frame of a chunk."""
        return websocket_frame(chunk_message(self._head, seq, chunk))

    def rewind(self, seq: int, rewinds: int) -> bytes:  # noqa: ARG002
        """The frame of a rewind."""
        return websocket_frame(rewind_message(self._head, seq))

    def join(self, pieces: Sequence[bytes]) -> bytes:
        """One frame after the other."""
        return b"".join(pieces)

    def plain(self, first_seq: int, rewinds: int, payloads: Sequence[bytes]) -> list[bytes]:  # noqa: ARG002
        """Frames of JSON data chunks."""
        before = b'{"type":"stream_update"' + self._head
        frames = []
        for seq, payload in enumerate(payloads, first_seq):
            message = b'%b%d,"data":%b}' % (before, seq, payload or b"null")
            length = len(message)
            if 126 <= length < 65536:
                frames.append(b"\x81\x7e%b%b" % (length.to_bytes(2, "big"), message))
            else:
                frames.append(websocket_frame(message))
        return frames


def error_message(problem: ApexError, stream_id: str = "") -> bytes:
    """Answers a command that could not be followed; the socket stays open."""
    message: dict[str, Any] = {"type": "error", "error": problem.as_dict()}
    if stream_id:
        message["stream_id"] = stream_id
    return msgspec.json.encode(message)


PONG = b'{"type":"pong"}'


def websocket_frame(message: bytes) -> bytes:
    """``message`` as one unmasked, final text frame (RFC 6455, 5.2)."""
    size = len(message)
    if size < 126:
        return bytes((0x81, size)) + message
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + message
    return b"\x81\x7f" + size.to_bytes(8, "big") + message


def _typed(chunk: Chunk) -> bytes:
    content_type = msgspec.json.encode(chunk.content_type)
    if chunk.content_type.startswith("text/"):
        text = msgspec.json.encode(chunk.payload.decode("utf-8", "replace"))
        return b'"data":%b,"content_type":%b' % (text, content_type)
    return b'"data":"%b","content_type":%b,"encoding":"base64"' % (base64.b64encode(chunk.payload), content_type)
