"""Chunks and runs of chunks: what one record of ``apex.chunks`` means, whatever bytes carry it."""

from enum import IntEnum
from hashlib import sha256

import msgspec

HASH_BYTES = 16
GENESIS = bytes(HASH_BYTES)  # what the first run of every stream is chained to
FROM_UNKNOWN = -1  # first_seq of a claim whose writer has yet to read where the stream stands

RUN_CHUNKS_MAX = 256  # a run holds at most this many chunks …
RUN_BYTES_MAX = 64 * 1024  # … or this many payload bytes, whichever comes first; a larger chunk travels alone
CHUNK_BYTES_MAX = 512 * 1024  # payload of one chunk; with its checkpoint it still fits a 1 MiB record
CHECKPOINT_BYTES_MAX = 256 * 1024
WATERMARK_TYPE = "application/vnd.apexstream.watermark+json"  # a data chunk that says: nothing below this time follows


class Kind(IntEnum):
    """What an element of a stream is. The values are the symbols' positions in the Avro enum: append, never reorder."""

    DATA = 0
    PROGRESS = 1
    COMPLETE = 2
    ERROR = 3
    CANCELLED = 4
    CLAIM = 5
    RESUME = 6

    @property
    def closes(self) -> bool:
        """True for the kinds that end a stream."""
        return Kind.COMPLETE <= self <= Kind.CANCELLED

    @property
    def fences(self) -> bool:
        """True for the two fence kinds, which take no seq and are never shown to a viewer."""
        return self >= Kind.CLAIM


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """One element of a stream. ``content_type`` is empty for JSON, which nearly all chunks are.

    ``event_time_us`` is when the plugin yielded it, microseconds since the epoch.
    """

    kind: Kind
    payload: bytes
    event_time_us: int
    content_type: str = ""


class ChunkRun(msgspec.Struct, frozen=True):
    """Consecutive chunks of one stream by one writer: the content of one record of ``apex.chunks``.

    ``first_seq`` is the seq of the first chunk; in a fence it is the seq at which the stream goes on.
    ``checkpoint`` is the plugin's state after the last chunk. ``hash`` chains this run to the one before it:
    ``chain(previous hash, body)``, where ``body`` is the encoded record without framing and without the hash itself.
    A fence has the hash of the place that it goes on from.
    """

    stream_id: str
    attempt: int
    writer: str
    first_seq: int
    chunks: tuple[Chunk, ...]
    checkpoint: bytes | None = None
    hash: bytes = GENESIS
    body: bytes = b""


def chain(previous: bytes, body: bytes) -> bytes:
    """The hash of a run whose encoded ``body`` follows a run with hash ``previous``: SHA-256, first 16 bytes."""
    return sha256(previous + body).digest()[:HASH_BYTES]
