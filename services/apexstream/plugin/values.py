"""From what a plugin yields to the payload of a chunk."""

from dataclasses import dataclass
from typing import Any

import msgspec

from apexstream.core.chunk import CHUNK_BYTES_MAX
from apexstream.core.errors import InvalidChunk

_BINARY = "application/octet-stream"
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk with a media type of its own: ``Chunk("# Title", "text/markdown")``, ``Chunk(png, "image/png")``.

    ``value`` is ``str`` or ``bytes`` where ``content_type`` is given; viewers get text as text and bytes as base64.
    """

    value: Any
    content_type: str = ""


def encode_value(value: Any) -> tuple[bytes, str]:
    """The payload and content type (empty: JSON) of a yielded ``value``.

    Raises :class:`InvalidChunk` for what JSON cannot carry and for payloads over ``CHUNK_BYTES_MAX``.
    """
    content_type = ""
    if type(value) is Chunk:
        value, content_type = value.value, value.content_type
    if isinstance(value, bytes | bytearray | memoryview):
        payload, content_type = bytes(value), content_type or _BINARY
    elif content_type and isinstance(value, str):
        payload = value.encode("utf-8", "replace")
    elif content_type:
        raise InvalidChunk(
            f"a chunk of type {content_type} must hold str or bytes, not {type(value).__name__}", where="yield"
        )
    else:
        payload = _to_json(value)
    if len(payload) > CHUNK_BYTES_MAX:
        raise InvalidChunk(
            f"the chunk has {len(payload)} bytes, more than the {CHUNK_BYTES_MAX} allowed",
            where="yield",
            hint="Yield it in smaller chunks",
        )
    return payload, content_type


def _to_json(value: Any) -> bytes:
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as problem:
        raise InvalidChunk(
            f"a {type(value).__name__} cannot be serialised to JSON: {problem}",
            where="yield",
            hint="Yield JSON-able values, dataclasses, msgspec structs or bytes",
        ) from problem
