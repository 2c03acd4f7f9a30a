"""What a protocol adds to the delivery engine: how it writes a stream. Everything else about reading is the engine's.

An encoding is handed to :meth:`apexstream.gateway.hub.Hub.subscribe`. What it makes is kept and given to every viewer that
subscribes with an encoding of the same name, so it may depend on nothing but its arguments.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from apexstream.core.chunk import Chunk


class Encoder(Protocol):
    """Writes one stream. Stateless: a piece may be shown to a viewer that has seen none of those before it."""

    def chunk(self, seq: int, rewinds: int, chunk: Chunk) -> bytes:
        """The piece that shows ``chunk``, which may end the stream (``chunk.kind.closes``); empty if it is not shown.

        ``Position(seq + 1, rewinds)`` is where a reader is once it has it.
        """

    def rewind(self, seq: int, rewinds: int) -> bytes:
        """What tells a reader to forget everything from ``seq`` on; it is then at ``Position(seq, rewinds)``. Written alone:
        it is not joined with pieces."""

    def join(self, pieces: Sequence[bytes]) -> bytes:
        """Consecutive pieces as they are written together; in most protocols one after the other. Empty if nothing is shown."""


class Encoding(Protocol):
    """``name`` is the encoding with all its options: encodings of one name write the same bytes. What has values without
    end in it stands after a bar (``|``): what is before labels metrics."""

    @property
    def name(self) -> str: ...

    def open(self, stream_id: str) -> Encoder:
        """The encoder of a stream: the place to compute what all its pieces share."""


@runtime_checkable
class PlainEncoder(Protocol):
    """An encoder that writes a segment of nothing but JSON data chunks, as most are, faster than chunk by chunk. Its
    :meth:`Encoder.join` does no more than put pieces one after the other."""

    def plain(self, first_seq: int, sizes: Sequence[int], payloads: str) -> list[str]:
        """The same as :meth:`Encoder.chunk` for data chunks whose payloads, of these sizes, lie one after the other.

        Every character stands for a byte (Latin-1): Python puts text together in half the time that it takes for bytes.
        """


def encode(encoder: Encoder, first_seq: int, rewinds: int, chunks: Sequence[Chunk]) -> list[bytes]:
    """A piece for each of ``chunks``, of which the first has ``first_seq``."""
    return [encoder.chunk(seq, rewinds, chunk) for seq, chunk in enumerate(chunks, first_seq)]
