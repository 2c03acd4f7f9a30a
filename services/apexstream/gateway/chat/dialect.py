"""What a chat library's protocol is to the gateway. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.errors import ApexError
from apexstream.gateway.encoding import Encoding

REWOUND = b"\0"
"""What an encoding of a dialect writes of a rewind; no event is that."""
END = b":end\n\n"
"""Stands before the event that ends a stream, so that a teller finds it; to a reader it is a comment."""


class Dialect(Protocol):
    """Tells one reader one stream. ``encoding`` writes what all readers share."""

    @property
    def encoding(self) -> Encoding: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def begin(self) -> bytes:
        """What comes first."""

    def shown(self, data: bytes) -> bytes:
        """``data``, which the encoding wrote, with what this reader needs in addition."""

    def again(self) -> bytes:
        """Nothing of what was told counts any more: the stream is told from its beginning once more."""

    def failed(self, problem: ApexError) -> bytes:
        """The stream cannot be told to its end."""


class Joined:
    """Encoders of dialects: events one after the other, rewinds alone."""

    __slots__ = ()

    def rewind(self, seq: int, rewinds: int) -> bytes:  # noqa: ARG002 - the encoder's signature
        return REWOUND

    def join(self, pieces: Sequence[bytes]) -> bytes:
        return b"".join(pieces)


class _Typed(msgspec.Struct, frozen=True):
    type: str = ""


class _Failure(msgspec.Struct, frozen=True):
    message: str = ""
    code: str = ""
    reason: str = ""


_typed = msgspec.json.Decoder(_Typed)
_failure = msgspec.json.Decoder(_Failure)


def event(message: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + msgspec.json.encode(message) + b"\n\n"


def text_of(chunk: Chunk) -> str | None:
    """The text that a chunk is: a JSON string, or any text type. None: it is something else."""
    if chunk.content_type.startswith("text/"):
        return chunk.payload.decode("utf-8", "replace")
    if not chunk.content_type and chunk.payload[:1] == b'"':
        return str(msgspec.json.decode(chunk.payload))
    return None


def type_of(chunk: Chunk) -> str:
    """The ``type`` of a chunk that is a JSON object with one, else nothing."""
    if chunk.kind is not Kind.DATA or chunk.content_type or chunk.payload[:1] != b"{":
        return ""
    try:
        return _typed.decode(chunk.payload).type
    except msgspec.ValidationError:
        return ""  # a type that is no text


def why_of(chunk: Chunk) -> tuple[str, str]:
    """Why a stream ended badly: what to show, and the error's code."""
    try:
        failure = _failure.decode(chunk.payload or b"{}")
    except msgspec.ValidationError:
        return "the task failed", "internal"
    return failure.message or failure.reason or "the task failed", failure.code or "cancelled"
