"""Replay of what is sealed: segments to frames, fetched some ahead of the viewer, built once for all who replay at a time.

Frames are what :mod:`frames` makes of the chunks one by one. JSON chunks, nearly all there are, become frames straight from
the segment's columns, without an object each.
"""

import asyncio
from array import array
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from apexstream.core.chunk import Chunk
from apexstream.core.errors import DataCorruption
from apexstream.core.events import SegmentRef, StreamState
from apexstream.gateway.frames import chunk_message, stream_head, websocket_frame
from apexstream.log.cipher import KeyProvider, StreamOpener
from apexstream.log.index import fold_of
from apexstream.log.segments import SealedChunks, SegmentReader, check_dense

CACHE_BYTES_MAX = 32 * 1024 * 1024  # of frames kept for the next viewer
AHEAD_MAX = 6  # segments of one replay that are fetched while the viewer takes the ones before


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of a segment. ``ends`` says where each ends in ``data``; ``closes``: the last one ends the stream."""

    first_seq: int
    data: bytes
    ends: "array[int]"
    closes: bool

    @property
    def next_seq(self) -> int:
        """The seq after the last one."""
        return self.first_seq + len(self.ends)

    def since(self, seq: int) -> bytes:
        """The frames from ``seq`` on."""
        skip = min(seq - self.first_seq, len(self.ends))
        return self.data[self.ends[skip - 1] :] if skip > 0 else self.data


Open = Callable[[int, Sequence[Chunk]], Sequence[Chunk]]
"""Takes a seq and the chunks from there on, gives the chunks with their payloads readable."""


def frames_of(stream_id: str, sealed: SealedChunks, opened: Open) -> Frames:
    """Build the frames of all chunks of a segment; ``opened`` reads those that are encrypted."""
    head, first = stream_head(stream_id), sealed.first_seq
    if sealed.plain:
        frames = _plain_frames(head, sealed)
    else:
        chunks = opened(first, sealed.chunks())
        frames = [websocket_frame(chunk_message(head, seq, chunk)) for seq, chunk in enumerate(chunks, first)]
    return Frames(first, b"".join(frames), array("Q", accumulate(map(len, frames))), sealed.closes)


def _plain_frames(head: bytes, sealed: SealedChunks) -> list[bytes]:
    """The same as chunk by chunk, for chunks that are all JSON data."""
    before, payloads = b'{"type":"stream_update"' + head, sealed.payloads
    frames = []
    start = 0
    for seq, size in enumerate(sealed.sizes[: sealed.count], sealed.first_seq):
        end = start + size
        message = b'%b%d,"data":%b}' % (before, seq, payloads[start:end] or b"null")
        start, length = end, len(message)
        if 126 <= length < 65536:
            frames.append(b"\x81\x7e%b%b" % (length.to_bytes(2, "big"), message))
        else:
            frames.append(websocket_frame(message))
    return frames


_Key = tuple[str, int, int, int]  # stream, partition, number of the segment, chunks of it that count


class Replays:
    """All replays of this gateway. The frames of a segment are kept, up to ``cache_bytes_max``, those used longest ago
    forgotten first."""

    def __init__(
        self, segments: SegmentReader, keys: KeyProvider | None, cache_bytes_max: int = CACHE_BYTES_MAX
    ) -> None:
        self._segments = segments
        self._keys = keys
        self._cache_bytes_max = cache_bytes_max
        self._cache: OrderedDict[_Key, Frames] = OrderedDict()
        self._cached_bytes = 0
        self._flying: dict[_Key, asyncio.Task[Frames]] = {}

    async def frames(self, partition: int, state: StreamState, from_seq: int) -> AsyncIterator[Frames]:
        """The frames of everything that is sealed in ``state``, segment by segment, beginning with that of ``from_seq``.

        Raise :class:`DataCorruption` where a segment is gone or is not what the state says.
        """
        try:
            check_dense(state.segments, 0, state.next_seq)
        except ValueError as problem:
            raise DataCorruption(f"its state is inconsistent: {problem}", where=state.stream_id) from None
        opened = partial(StreamOpener(state.stream_id, self._keys).open, fold_of(state).claims)
        ahead: deque[Frames | asyncio.Task[Frames]] = deque()
        async for ref in self._segments.leaves(partition, state.stream_id, state.segments, from_seq):
            ahead.append(self._begin((state.stream_id, partition, ref.number, ref.count), ref, opened))
            if len(ahead) > AHEAD_MAX:
                yield await _landed(ahead.popleft())
        while ahead:
            yield await _landed(ahead.popleft())

    def forget(self, stream_id: str) -> None:
        """Keep no frames of a stream any longer."""
        for key in [key for key in self._cache if key[0] == stream_id]:
            self._cached_bytes -= len(self._cache.pop(key).data)

    def _begin(self, key: _Key, ref: SegmentRef, opened: Open) -> "Frames | asyncio.Task[Frames]":
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            return cached
        flying = self._flying.get(key)
        if flying is None:
            flying = self._flying[key] = asyncio.create_task(self._fetch(key, ref, opened), name="segment")
            flying.add_done_callback(lambda task: self._land(key, task))
        return flying

    async def _fetch(self, key: _Key, ref: SegmentRef, opened: Open) -> Frames:
        stream_id, partition, *_ = key
        return frames_of(stream_id, await self._segments.chunks(partition, stream_id, ref), opened)

    def _land(self, key: _Key, task: "asyncio.Task[Frames]") -> None:
        del self._flying[key]
        if task.cancelled() or task.exception() is not None:  # told to whoever waits, which may be nobody any more
            return
        frames = task.result()
        self._cache[key] = frames
        self._cached_bytes += len(frames.data)
        while self._cached_bytes > self._cache_bytes_max:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1].data)


async def _landed(frames: "Frames | asyncio.Task[Frames]") -> Frames:
    # Shielded: another viewer may wait for the same segment.
    return frames if isinstance(frames, Frames) else await asyncio.shield(frames)
