"""Runs of chunks to bytes and back, by hand for one schema (``chunk-run.v1``), because every chunk passes here twice.

What it writes is byte for byte what any Avro encoder writes. What it reads it reads as the strict reader does, or it
raises :class:`Unusual` and leaves the verdict to that one; it never guesses. Nearly all chunks of a run are alike: their
times agree but for the last 20 bits (about a second), and both directions live from that.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Final

from apexstream.contracts.run_heads import heads
from apexstream.core.chunk import FROM_UNKNOWN, HASH_BYTES, RUN_CHUNKS_MAX, Chunk, ChunkRun, Kind, chain
from apexstream.core.errors import InvalidChunk

FINGERPRINT: Final = bytes.fromhex("e5bb1212da153513")  # of the schema that this is written for

_KINDS = tuple(Kind)
_KIND_OF_BYTE: Final = {kind << 1: kind for kind in Kind}
_FIRST_FENCE = int(Kind.CLAIM)
_LONG_BITS = 63
_SECONDS_KEPT = 64  # runs that are written or read together are of the same few seconds

# A time of 8 varint bytes: 3 that change with every chunk (20 bits of time and the sign) and 5 that hardly ever do.
_FAST_BITS = 20
_FAST_HIGH = range(1 << 28, 1 << 35)  # times of exactly 8 bytes, those from 1978 to 3111, shifted by the fast bits
_FAST_LOW_MASK, _FAST_LOW = 0x80_80_81, 0x80_80_80  # three bytes that go on, and no sign
_EIGHT_MASK, _EIGHT = 0x80_80_80_80_80_80_80_80, 0x00_80_80_80_80_80_80_80  # seven bytes that go on, and one that ends
_HEAD = struct.Struct("<BQBBB")  # kind, time, length of content type (0), length of payload (2 bytes)
_SHORT_HEAD = struct.Struct("<BQBB")  # the same with a payload of less than 64 bytes
_pack, _pack_short, _unpack = _HEAD.pack, _SHORT_HEAD.pack, _HEAD.unpack_from
_ONE_BYTE_SIZE, _TWO_BYTE_SIZE = 1 << 6, 1 << 13  # from here on a length takes a byte more
_TOGETHER_MIN = 8  # fewer chunks are faster one by one
_kind, _payload, _time, _type = (attrgetter(name) for name in ("kind", "payload", "event_time_us", "content_type"))


class Unusual(Exception):
    """Bytes that the strict reader has to judge. They may be valid."""


#: All that :func:`read_run` raises.
NOT_READ: Final = (Unusual, LookupError, ValueError, OverflowError, struct.error)


class RunEncoder:
    """Encodes the runs of one writer of one stream; what they have in common is encoded once.

    ``frame`` is what stands before the record: the identity of its schema.
    """

    __slots__ = ("_frame", "_prefix")

    def __init__(self, frame: bytes, stream_id: str, attempt: int, writer: str) -> None:
        if not 0 <= attempt < 1 << _LONG_BITS:
            raise InvalidChunk(f"attempt {attempt}", where=stream_id)
        self._frame = frame
        self._prefix = write_text(stream_id) + write_long(attempt) + write_text(writer)

    def encode(
        self, first_seq: int, chunks: Sequence[Chunk], checkpoint: bytes | None, previous_hash: bytes
    ) -> tuple[bytes, bytes]:
        """The record's value and the hash in it: chained to ``previous_hash``, or that itself if the run is a fence.

        Raise :class:`InvalidChunk` for what no reader would accept.
        """
        count = len(chunks)
        if not 0 < count <= RUN_CHUNKS_MAX or not FROM_UNKNOWN <= first_seq < 1 << _LONG_BITS:
            raise InvalidChunk(f"a run of {count} chunks from seq {first_seq}", hint=f"1 to {RUN_CHUNKS_MAX} chunks")
        parts = [self._prefix, write_long(first_seq), write_long(count)]
        if count < _TOGETHER_MIN or not _write_together(chunks, parts):
            _write_chunks(chunks, parts)
        parts.append(b"\x00\x00" if checkpoint is None else b"\x00\x02" + write_long(len(checkpoint)) + checkpoint)
        body = b"".join(parts)
        fence = count == 1 and chunks[0].kind >= _FIRST_FENCE
        run_hash = previous_hash if fence else chain(previous_hash, body)
        if len(run_hash) != HASH_BYTES:
            raise InvalidChunk(f"a hash of {len(run_hash)} bytes", hint=f"{HASH_BYTES} bytes")
        return b"".join((self._frame, body, run_hash)), run_hash


def _write_together(chunks: Sequence[Chunk], parts: list[bytes]) -> bool:
    """Write chunks that are all alike, as nearly all runs have them; False, and nothing written, if these are not."""
    if any(map(_kind, chunks)) or any(map(_type, chunks)):
        return False
    payloads, times = list(map(_payload, chunks)), list(map(_time, chunks))
    sizes = list(map(len, payloads))
    largest, high = max(sizes), min(times) >> _FAST_BITS
    short = largest < _ONE_BYTE_SIZE
    same_length = short or (min(sizes) >= _ONE_BYTE_SIZE and largest < _TWO_BYTE_SIZE)
    if not same_length or max(times) >> _FAST_BITS != high or high not in _FAST_HIGH:
        return False
    both = [b""] * (2 * len(payloads))
    both[::2], both[1::2] = heads(times, sizes, _eight_bytes(high), short=short), payloads
    parts += both
    return True


def _write_chunks(chunks: Sequence[Chunk], parts: list[bytes]) -> None:
    add = parts.append
    high, high_bytes = -1, 0
    for chunk in chunks:
        time, payload = chunk.event_time_us, chunk.payload
        size = len(payload)
        if time >> _FAST_BITS != high:
            high = time >> _FAST_BITS
            high_bytes = _eight_bytes(high) if high in _FAST_HIGH else 0
        if chunk.content_type or not high_bytes or size >= _TWO_BYTE_SIZE:
            add(_chunk_head(chunk))
        else:
            bits = high_bytes | time << 1 & 0x7E | time << 2 & 0x7F00 | time << 3 & 0x7F0000
            if size < _ONE_BYTE_SIZE:
                add(_pack_short(chunk.kind << 1, bits, 0, size << 1))
            else:
                add(_pack(chunk.kind << 1, bits, 0, size << 1 & 0x7F | 0x80, size >> 6))
        add(payload)


@lru_cache(_SECONDS_KEPT)
def _eight_bytes(high: int) -> int:
    """The varint bytes of a time as one little-endian number: those of ``high`` in place, the three low ones still empty."""
    spread = sum((high >> 7 * at & 0x7F) << 8 * at for at in range(5))
    return spread << 24 | _EIGHT


def _chunk_head(chunk: Chunk) -> bytes:
    time = chunk.event_time_us
    if not -1 << _LONG_BITS <= time < 1 << _LONG_BITS:
        raise InvalidChunk(f"event time {time} does not fit 64 bits")
    return write_long(chunk.kind) + write_long(time) + write_text(chunk.content_type) + write_long(len(chunk.payload))


def write_text(text: str) -> bytes:
    """``text`` as an Avro string; raise :class:`InvalidChunk` for lone surrogates."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError as problem:
        raise InvalidChunk(f"text that is not Unicode: {problem.reason}") from None
    return write_long(len(encoded)) + encoded


def write_long(number: int) -> bytes:
    """``number``, of at most 64 bits with its sign, as an Avro long."""
    rest = number << 1 ^ number >> _LONG_BITS
    if rest < 0x80:
        return rest.to_bytes(1, "little")
    if rest < 0x4000:
        return bytes((rest & 0x7F | 0x80, rest >> 7))
    out = bytearray()
    while rest > 0x7F:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    out.append(rest)
    return bytes(out)


def read_run(data: bytes, start: int) -> ChunkRun:
    """The run whose record is ``data[start:]``; raise one of :data:`NOT_READ` if it must be judged by the strict reader."""
    stream_id, at = _read_text(data, start)
    attempt, at = _read_long(data, at)
    writer, at = _read_text(data, at)
    first_seq, at = _read_long(data, at)
    count, at = _read_long(data, at)
    if not 0 <= count <= RUN_CHUNKS_MAX or attempt < 0:
        raise Unusual
    chunks: tuple[Chunk, ...] = ()
    if count:
        chunks, at = _read_chunks(data, at, count)
        if data[at]:
            raise Unusual
        at += 1
    checkpoint, end = _read_checkpoint(data, at)
    if end + HASH_BYTES != len(data) or first_seq < FROM_UNKNOWN:
        raise Unusual
    return ChunkRun(stream_id, attempt, writer, first_seq, chunks, checkpoint, data[end:], data[start:end])


def _read_chunks(data: bytes, at: int, count: int) -> tuple[tuple[Chunk, ...], int]:
    """``count`` chunks from ``at`` and where they end, which may lie beyond the data: the caller looks at what follows."""
    chunks = []
    high, high_time = -1, 0
    for _ in range(count):
        # 16 bytes of hash follow the last chunk, so that a head which runs out of data is never valid.
        kind_byte, bits, type_bytes, size, more = _unpack(data, at)
        top, low = bits >> 24, bits & 0xFFFFFF
        if top != high and bits & _EIGHT_MASK == _EIGHT:
            high, high_time = top, _high_time(top)
        if top != high or low & _FAST_LOW_MASK != _FAST_LOW:
            chunk, at = _read_chunk(data, at)
            chunks.append(chunk)
            continue
        content_type = ""
        at += 10
        if type_bytes:
            content_type, at = _read_text(data, at - 1)
            size, more = data[at], data[at + 1]
        if size < 0x80:
            at += 1
        elif more < 0x80:
            size = size & 0x7F | more << 7
            at += 2
        else:
            size, at = _read_long(data, at)
            size <<= 1
        if size & 1 or size < 0:
            raise Unusual
        end = at + (size >> 1)
        time = high_time | low >> 1 & 0x3F | low >> 2 & 0x1FC0 | low >> 3 & 0xFE000
        chunks.append(Chunk(_KIND_OF_BYTE[kind_byte], data[at:end], time, content_type))
        at = end
    return tuple(chunks), at


@lru_cache(_SECONDS_KEPT)
def _high_time(high: int) -> int:
    """The time whose five high varint bytes are ``high`` and whose fast bits are 0."""
    return sum((high >> 8 * at & 0x7F) << 7 * at for at in range(5)) << _FAST_BITS


def _read_chunk(data: bytes, at: int) -> tuple[Chunk, int]:
    number, at = _read_long(data, at)
    if not 0 <= number < len(_KINDS):
        raise Unusual
    time, at = _read_long(data, at)
    content_type, at = _read_text(data, at)
    payload, at = _read_bytes(data, at)
    return Chunk(_KINDS[number], payload, time, content_type), at


def _read_checkpoint(data: bytes, at: int) -> tuple[bytes | None, int]:
    branch = data[at]
    if branch == 0:
        return None, at + 1
    if branch != 2:
        raise Unusual
    return _read_bytes(data, at + 1)


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    size = data[at]
    if size & 0x81:  # negative, or not the only byte
        encoded, end = _read_bytes(data, at)
        return encoded.decode(), end
    end = at + 1 + (size >> 1)
    return data[at + 1 : end].decode(), end


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _read_long(data, at)
    if size < 0:
        raise Unusual
    return data[at : at + size], at + size


def _read_long(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    number = byte & 0x7F
    shift = 7
    while byte > 0x7F:
        if shift > _LONG_BITS:
            raise Unusual
        at += 1
        byte = data[at]
        number |= (byte & 0x7F) << shift
        shift += 7
    if number >> 64:
        raise Unusual
    return number >> 1 ^ -(number & 1), at + 1
