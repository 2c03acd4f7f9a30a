"""From what a plugin yields to the payload of a chunk."""

from dataclasses import dataclass
from typing import Any

import msgspec

from apexstream.core.chunk import CHUNK_BYTES_MAX, WATERMARK_TYPE
from apexstream.core.errors import InvalidChunk

CONTENT_TYPE_CHARS_MAX = 255

_BINARY = "application/octet-stream"
_BYTES = (bytes, bytearray, memoryview)
_PLAIN = frozenset({dict, list, tuple, str, int, float, bool, type(None)})  # nearly all that is ever yielded
_encode = msgspec.json.Encoder().encode
_UNENCODABLE = (TypeError, ValueError, RecursionError, OverflowError)


class Chunk(msgspec.Struct, frozen=True):
    """A chunk with a media type of its own: ``Chunk("# Title", "text/markdown")``, ``Chunk(png, "image/png")``; or with
    the state to go on from after it: ``Chunk(value, checkpoint=state)``.

    ``value`` is ``str`` or ``bytes`` where ``content_type`` is given; viewers get text as text and bytes as base64.
    ``checkpoint`` is ``bytes``, or anything that msgspec can encode; None: no checkpoint.
    """

    value: Any
    content_type: str = ""
    checkpoint: Any = None


@dataclass(frozen=True, slots=True)
class Watermark:
    """Put among the elements by whoever knows that none with a time below ``time`` will follow; closes windows. Yielded by an
    action it tells pipelines so; the unit is theirs."""

    time: float


def encode_value(value: Any) -> tuple[bytes, str]:
    """The payload and content type (empty: JSON) of a yielded ``value``.

    Raises :class:`InvalidChunk` for what JSON cannot carry and for payloads over ``CHUNK_BYTES_MAX``.
    """
    if type(value) in _PLAIN:
        try:
            payload, content_type = _encode(value), ""
        except _UNENCODABLE as problem:
            raise _refused(value, problem) from problem
    else:
        payload, content_type = _encode_other(value)
    if len(payload) > CHUNK_BYTES_MAX:
        raise InvalidChunk(
            f"the chunk has {len(payload)} bytes, more than the {CHUNK_BYTES_MAX} allowed",
            where="yield",
            hint="Yield it in smaller chunks",
        )
    return payload, content_type


def _encode_other(value: Any) -> tuple[bytes, str]:
    content_type = ""
    if type(value) is Chunk:
        value, content_type = value.value, value.content_type
        if len(content_type) > CONTENT_TYPE_CHARS_MAX or not (content_type.isascii() and content_type.isprintable()):
            raise InvalidChunk(f"{content_type[:40]!r} is no content type", where="yield")
    if isinstance(value, Watermark):
        return _to_json(value.time), WATERMARK_TYPE
    if isinstance(value, _BYTES):
        return bytes(value), content_type or _BINARY
    if not content_type:
        return _to_json(value), ""
    if isinstance(value, str):
        return value.encode("utf-8", "replace"), content_type
    raise InvalidChunk(
        f"a chunk of type {content_type} must hold str or bytes, not {type(value).__name__}", where="yield"
    )


def _to_json(value: Any) -> bytes:
    try:
        return _encode(value)
    except _UNENCODABLE as problem:
        raise _refused(value, problem) from problem


def _refused(value: Any, problem: Exception) -> InvalidChunk:
    return InvalidChunk(
        f"a {type(value).__name__} cannot be serialised to JSON: {problem}",
        where="yield",
        hint="Yield JSON-able values, dataclasses, msgspec structs or bytes",
    )
