"""Streams written without runners: what one would put into ``apex.chunks``, record by record, and what is in there for good."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import FROM_UNKNOWN, GENESIS, Chunk, ChunkRun, Kind
from apexstream.core.fold import StreamFold, Verdict
from apexstream.log.writer import Writer

CODEC = Codec()
NOW_US = 1_795_000_000_000_000


def data(*payloads: bytes, last: Kind = Kind.DATA) -> list[Chunk]:
    """Chunks of JSON with these payloads, the last of kind ``last``."""
    kinds = [Kind.DATA] * (len(payloads) - 1) + [last]
    return [Chunk(kind, payload, NOW_US + at) for at, (kind, payload) in enumerate(zip(kinds, payloads, strict=True))]


class Author:
    """One attempt at a stream. Its methods give values of records, as a correct runner would write them."""

    def __init__(self, stream_id: str, attempt: int = 1, writer: str = "w") -> None:
        self.stream_id, self.attempt, self.writer = stream_id, attempt, writer
        self.seq, self.hash = 0, GENESIS
        self._encoder = CODEC.run_encoder(stream_id, attempt, writer)

    def claim(self, first_seq: int = FROM_UNKNOWN, payload: bytes = b"") -> bytes:
        return self._encoder.encode(first_seq, [Chunk(Kind.CLAIM, payload, NOW_US)], None, GENESIS)[0]

    def resume(self, seq: int, at_hash: bytes) -> bytes:
        self.seq, self.hash = seq, at_hash
        return self._encoder.encode(seq, [Chunk(Kind.RESUME, b"", NOW_US)], None, at_hash)[0]

    def run(self, chunks: Sequence[Chunk], checkpoint: bytes | None = None) -> bytes:
        value, self.hash = self._encoder.encode(self.seq, chunks, checkpoint, self.hash)
        self.seq += len(chunks)
        return value

    def whole(self, chunks: Sequence[Chunk], run_size: int = 256) -> list[bytes]:
        """A stream of one attempt: claim, ``chunks``, complete."""
        runs = [self.run(chunks[at : at + run_size]) for at in range(0, len(chunks), run_size)]
        return [self.claim(0), *runs, self.run([Chunk(Kind.COMPLETE, b"{}", NOW_US)])]


@dataclass
class Content:
    """The fold of a stream and the chunks that count: what every reader must find."""

    fold: StreamFold = field(default_factory=StreamFold)
    chunks: list[Chunk] = field(default_factory=list)

    def take(self, value: bytes | ChunkRun) -> "Content":
        run = value if isinstance(value, ChunkRun) else CODEC.decode_run(value)
        outcome = self.fold.apply(run)
        if outcome.verdict is Verdict.ACCEPTED:
            self.chunks += run.chunks
        elif outcome.verdict is Verdict.REWOUND:
            del self.chunks[outcome.seq :]
        return self


def content_of(values: Iterable[bytes]) -> Content:
    """What ``values``, in this order in the log, come to."""
    content = Content()
    for value in values:
        content.take(value)
    return content


def numbered(count: int, start: int = 0, pad: int = 0) -> list[Chunk]:
    """``count`` data chunks that can be told apart."""
    filler = "x" * pad
    return data(*(msgspec.json.encode({"i": start + at, "pad": filler} if pad else start + at) for at in range(count)))


async def append(writer: Writer, topic: str, stream_id: str, values: Iterable[bytes]) -> list[int]:
    """Append ``values`` to a stream in order; return their offsets."""
    key = stream_id.encode()
    return list(await asyncio.gather(*(writer.append(topic, key, value) for value in values)))
