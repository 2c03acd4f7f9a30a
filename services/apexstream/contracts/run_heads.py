"""What stands before the payload of each chunk in a run, for many chunks that are alike at once.

Half of what encoding costs is arithmetic on two numbers a chunk. Here the numbers of all chunks are lanes of one large integer,
so that the arithmetic is done a few times a run instead of a few times a chunk.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from apexstream.core.chunk import RUN_CHUNKS_MAX

_LANE_BYTES = 12  # in: 8 bytes of time, 4 of size; out: kind, time (8), length of content type, length of payload (2)
_SHORT_BYTES = 11  # the same with a length that fits one byte

# Where bits of the numbers go in the head: varints carry 7 bits a byte, of the number shifted by one for its sign.
_MOVES: Final = (
    (9, 0x7E << 8),  # time, bits 0 to 5
    (10, 0x7F << 16),  # 6 to 12
    (11, 0x7F << 24),  # 13 to 19; those above are alike in all chunks
    (17, 0x7E << 80),  # size, bits 0 to 5
    (18, 0x7F << 88),  # 6 to 12
)
_LONG_SIZE = 0x80 << 80  # a second byte of size follows


@dataclass(frozen=True, slots=True)
class _Lanes:
    """What is needed for so many chunks; short: with sizes of one byte."""

    pack: struct.Struct
    unpack: struct.Struct
    moves: tuple[tuple[int, int], ...]
    ones: int
    size_bytes: int


def heads(times: Sequence[int], sizes: Sequence[int], high_bytes: int, *, short: bool) -> tuple[bytes, ...]:
    """The heads of data chunks in JSON. All ``times`` (µs) agree but for their last 20 bits, and ``high_bytes`` is what they
    have in common, as varint bytes in place. All ``sizes`` are below 64 (``short``), or all are of 64 to 8191."""
    lanes = _lanes(len(times), short)
    numbers = [0] * (2 * len(times))
    numbers[::2], numbers[1::2] = times, sizes
    packed = int.from_bytes(lanes.pack.pack(*numbers), "little")
    out = lanes.ones * (high_bytes << 8 if short else high_bytes << 8 | _LONG_SIZE)
    for shift, mask in lanes.moves:
        out |= packed << shift & mask
    return lanes.unpack.unpack(out.to_bytes(lanes.size_bytes, "little"))


@lru_cache(2 * RUN_CHUNKS_MAX)
def _lanes(count: int, short: bool) -> _Lanes:
    ones = int.from_bytes(count * (b"\x01" + bytes(_LANE_BYTES - 1)), "little")
    return _Lanes(
        pack=struct.Struct("<" + "QI" * count),
        unpack=struct.Struct("<" + (f"{_SHORT_BYTES}sx" if short else f"{_LANE_BYTES}s") * count),
        moves=tuple((shift, mask * ones) for shift, mask in (_MOVES[:4] if short else _MOVES)),
        ones=ones,
        size_bytes=count * _LANE_BYTES,
    )
