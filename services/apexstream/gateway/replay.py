"""Replay of what is sealed: segments to encoded chunks, fetched some ahead of the viewer, built once for all who replay at
a time with the same encoding. JSON chunks, nearly all there are, are encoded straight from the segment's columns.
"""

import asyncio
from array import array
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from apexstream.core.chunk import Chunk
from apexstream.core.errors import DataCorruption
from apexstream.core.events import SegmentRef, StreamState
from apexstream.gateway.encoding import Encoder, Encoding, PlainEncoder, encode
from apexstream.log.cipher import KeyProvider, StreamOpener
from apexstream.log.index import fold_of
from apexstream.log.segments import SealedChunks, SegmentReader, check_dense

CACHE_BYTES_MAX = 32 * 1024 * 1024  # of encoded segments kept for the next viewer
AHEAD_MAX = 6  # segments of one replay that are fetched while the viewer takes the ones before


@dataclass(frozen=True, slots=True)
class _Pieces:
    """A segment as an encoder wrote it: a piece for each chunk, and all of them joined."""

    first_seq: int
    pieces: Sequence[bytes]
    whole: bytes

    @property
    def next_seq(self) -> int:
        """The seq after the last one."""
        return self.first_seq + len(self.pieces)

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return 2 * len(self.whole) + 50 * len(self.pieces)

    def between(self, seq: int, end: int, encoder: Encoder) -> bytes:
        """The chunks from ``seq`` to before ``end``."""
        if seq <= self.first_seq and end >= self.next_seq:
            return self.whole
        return encoder.join(self.pieces[max(seq - self.first_seq, 0) : max(end - self.first_seq, 0)])


@dataclass(frozen=True, slots=True)
class _Joined:
    """The same of an encoder whose pieces lie one after the other as they are: where they end is all that is kept of them."""

    first_seq: int
    sizes: "array[int]"
    whole: bytes

    @property
    def next_seq(self) -> int:
        """The seq after the last one."""
        return self.first_seq + len(self.sizes)

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return len(self.whole) + 4 * len(self.sizes)

    def between(self, seq: int, end: int, encoder: Encoder) -> bytes:  # noqa: ARG002 - of an encoder that only puts together
        """The chunks from ``seq`` to before ``end``."""
        if seq <= self.first_seq and end >= self.next_seq:
            return self.whole
        skip, stop = max(seq - self.first_seq, 0), max(end - self.first_seq, 0)
        start = sum(self.sizes[:skip])
        return self.whole[start : start + sum(self.sizes[skip:stop])]


Sealed = _Pieces | _Joined


Open = Callable[[int, Sequence[Chunk]], Sequence[Chunk]]
"""Takes a seq and the chunks from there on, gives the chunks with their payloads readable."""


def encode_sealed(encoder: Encoder, rewinds: int, sealed: SealedChunks, opened: Open) -> Sealed:
    """Encode all chunks of a segment; ``opened`` reads those that are encrypted."""
    first = sealed.first_seq
    if sealed.plain and isinstance(encoder, PlainEncoder):
        texts = encoder.plain(first, sealed.sizes[: sealed.count], sealed.payloads.decode("latin-1"))
        return _Joined(first, array("I", map(len, texts)), "".join(texts).encode("latin-1"))
    pieces = encode(encoder, first, rewinds, opened(first, sealed.chunks()))
    return _Pieces(first, pieces, encoder.join(pieces))


_Key = tuple[str, int, int, int, str, int]  # stream, partition, segment's number, chunks that count, encoding, rewinds


class Replays:
    """All replays of this gateway. What was encoded is kept, up to ``cache_bytes_max``, and what was used longest ago
    forgotten first."""

    def __init__(
        self, segments: SegmentReader, keys: KeyProvider | None, cache_bytes_max: int = CACHE_BYTES_MAX
    ) -> None:
        self._segments = segments
        self._keys = keys
        self._cache_bytes_max = cache_bytes_max
        self._cache: OrderedDict[_Key, Sealed] = OrderedDict()
        self._cached_bytes = 0
        self._flying: dict[_Key, asyncio.Task[Sealed]] = {}

    async def encoded(
        self, partition: int, state: StreamState, from_seq: int, encoding: Encoding, rewinds: int
    ) -> AsyncIterator[Sealed]:
        """Everything that is sealed in ``state``, segment by segment, beginning with that of ``from_seq``; ``rewinds`` is how
        many a reader has been told of who gets this.

        Raise :class:`DataCorruption` where a segment is gone or is not what the state says.
        """
        encoder = encoding.open(state.stream_id)
        opened = self._opener(state)
        ahead: deque[Sealed | asyncio.Task[Sealed]] = deque()
        async for ref in self._leaves(partition, state, from_seq):
            key = (state.stream_id, partition, ref.number, ref.count, encoding.name, rewinds)
            ahead.append(self._begin(key, ref, encoder, opened))
            if len(ahead) > AHEAD_MAX:
                yield await _landed(ahead.popleft())
        while ahead:
            yield await _landed(ahead.popleft())

    async def seq_at(self, partition: int, state: StreamState, time_us: int) -> int:
        """The first sealed seq whose event time is ``time_us`` or later, or one not long before; the next seq if none is."""
        leaves = [ref async for ref in self._leaves(partition, state, 0)]
        low, high = 0, len(leaves)
        while low < high:  # times of a stream grow, but for those of attempts on machines whose clocks differ
            middle = (low + high) // 2
            chunks = await self._segments.chunks(partition, state.stream_id, leaves[middle])
            times = [chunk.event_time_us for chunk in chunks.chunks()]
            if times[-1] < time_us:
                low = middle + 1
            elif times[0] < time_us:
                return chunks.first_seq + next(at for at, time in enumerate(times) if time >= time_us)
            else:
                high = middle
        return leaves[low].first_seq if low < len(leaves) else state.next_seq

    def forget(self, stream_id: str) -> None:
        """Keep nothing of a stream any longer."""
        for key in [key for key in self._cache if key[0] == stream_id]:
            self._cached_bytes -= self._cache.pop(key).size_bytes

    def _leaves(self, partition: int, state: StreamState, from_seq: int) -> AsyncIterator[SegmentRef]:
        try:
            check_dense(state.segments, 0, state.next_seq)
        except ValueError as problem:
            raise DataCorruption(f"its state is inconsistent: {problem}", where=state.stream_id) from None
        return self._segments.leaves(partition, state.stream_id, state.segments, from_seq)

    def _opener(self, state: StreamState) -> Open:
        return partial(StreamOpener(state.stream_id, self._keys).open, fold_of(state).claims)

    def _begin(self, key: _Key, ref: SegmentRef, encoder: Encoder, opened: Open) -> "Sealed | asyncio.Task[Sealed]":
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached
        flying = self._flying.get(key)
        if flying is None:
            flying = self._flying[key] = asyncio.create_task(self._fetch(key, ref, encoder, opened), name="segment")
            flying.add_done_callback(lambda task: self._land(key, task))
        return flying

    async def _fetch(self, key: _Key, ref: SegmentRef, encoder: Encoder, opened: Open) -> Sealed:
        stream_id, partition, *_, rewinds = key
        return encode_sealed(encoder, rewinds, await self._segments.chunks(partition, stream_id, ref), opened)

    def _land(self, key: _Key, task: "asyncio.Task[Sealed]") -> None:
        del self._flying[key]
        if task.cancelled() or task.exception() is not None:  # told to whoever waits, which may be nobody any more
            return
        sealed = task.result()
        self._cache[key] = sealed
        self._cached_bytes += sealed.size_bytes
        while self._cached_bytes > self._cache_bytes_max:
            self._cached_bytes -= self._cache.popitem(last=False)[1].size_bytes


async def _landed(sealed: "Sealed | asyncio.Task[Sealed]") -> Sealed:
    # Shielded: another viewer may wait for the same segment.
    return await asyncio.shield(sealed) if isinstance(sealed, asyncio.Task) else sealed
