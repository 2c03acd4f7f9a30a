"""Segments: the sealed content of streams, as records of ``apex.segments``.

Chunks are packed by column and compressed with zstd (level 1: within 5 % of level 3 in size for two thirds of its time).
A reader fetches exactly the batches that it wants, however many other streams share the partition, and believes none of
them before stream, number, place and digest agree with what the stream's state says.
"""

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate, pairwise

import cramjam
from aiokafka.errors import KafkaError, LeaderNotAvailableError

from apexstream.contracts.codec import EVENT_VALUE_BYTES_MAX, Codec
from apexstream.core.chunk import Chunk, Kind
from apexstream.core.errors import ChunkDecodeError, DataCorruption
from apexstream.core.events import Segment, SegmentChunks, SegmentPage, SegmentRef
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.writer import unreachable

SEGMENT_CHUNKS_MAX = 1024  # a segment holds at most this many chunks …
SEGMENT_BYTES_MAX = (
    256 * 1024
)  # … or this many payload bytes, whichever comes first; a larger chunk is alone in its own
NUMBER_BITS = 40  # of a segment's number that count; those above are its archiver's epoch
PAGE_DEPTH_MAX = 8  # pages of pages of …: 128 to the power of this many segments

_ZSTD_LEVEL = 1
_FETCH_TRIES_MAX = 100  # 0.1 s apart: longer than a leader election takes
_IN_FLIGHT_MAX = 64  # fetches of one reader; each may bring a whole batch of the writer
_CONNECTIONS = 2
_WINDOW_BYTES = 128 * 1024  # that a fetch brings, at least one batch
_RECORD_BYTES = 100  # of a segment's record besides its value
_NEAR_BYTES_MAX = 4 * 1024 * 1024  # of values that were brought along and may be asked for soon
_KINDS = tuple(Kind)


def number_of(epoch: int, count: int) -> int:
    """The number of the ``count``-th segment that the archiver of ``epoch`` writes in a partition."""
    return epoch << NUMBER_BITS | count


def epoch_of(number: int) -> int:
    """Whose segment ``number`` is."""
    return number >> NUMBER_BITS


def segment_key(stream_id: str, number: int) -> bytes:
    """The key of a segment's record."""
    return f"{stream_id}/{number}".encode()


def read_segment_key(key: bytes) -> tuple[str, int]:
    """Stream and number in a record's key; :class:`DataCorruption` if it is none."""
    stream_id, slash, number = key.decode("utf-8", "replace").rpartition("/")
    if not slash or not number.isdecimal():
        raise DataCorruption(
            f"{key!r} is not the key of a segment", hint="Only archivers may write the segments' topic"
        )
    return stream_id, int(number)


def split(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    """Cut ``chunks`` into parts that fit a segment each."""
    start = size = 0
    for at, chunk in enumerate(chunks):
        size += len(chunk.payload)
        if at > start and (at - start == SEGMENT_CHUNKS_MAX or size > SEGMENT_BYTES_MAX):
            yield chunks[start:at]
            start, size = at, len(chunk.payload)
    if start < len(chunks):
        yield chunks[start:]


def pack_chunks(codec: Codec, stream_id: str, number: int, first_seq: int, chunks: Sequence[Chunk]) -> bytes:
    """The value of the record that seals ``chunks``, the first of which has ``first_seq``."""
    content_types = list(dict.fromkeys(chunk.content_type for chunk in chunks))
    place = {content_type: at for at, content_type in enumerate(content_types)}
    times = [chunk.event_time_us for chunk in chunks]
    columns = SegmentChunks(
        kinds=bytes([chunk.kind for chunk in chunks]),
        sizes=_little("I", [len(chunk.payload) for chunk in chunks]),
        times=_little("q", [times[0], *(after - before for before, after in pairwise(times))]),
        content_types=tuple(content_types),
        content_type_of=bytes([place[chunk.content_type] for chunk in chunks]),
        payloads=b"".join([chunk.payload for chunk in chunks]),
    )
    return _pack(codec, columns, stream_id, number, first_seq=first_seq, count=len(chunks))


def pack_page(codec: Codec, stream_id: str, number: int, segments: Sequence[SegmentRef]) -> bytes:
    """The value of the record that lists ``segments``, consecutive ones of a stream."""
    count = sum(ref.count for ref in segments)
    return _pack(
        codec, SegmentPage(segments=tuple(segments)), stream_id, number, first_seq=segments[0].first_seq, count=count
    )


def _pack(
    codec: Codec, content: SegmentChunks | SegmentPage, stream_id: str, number: int, *, first_seq: int, count: int
) -> bytes:
    raw = codec.encode(content)
    data = bytes(cramjam.zstd.compress(raw, level=_ZSTD_LEVEL))
    segment = Segment(
        stream_id=stream_id,
        number=number,
        first_seq=first_seq,
        count=count,
        index=isinstance(content, SegmentPage),
        raw_bytes=len(raw),
        data=data,
        digest=sha256(data).digest(),
    )
    return codec.encode(segment)


def _little(typecode: str, numbers: Iterable[int]) -> bytes:
    column = array(typecode, numbers)
    if _BIG_ENDIAN:
        column.byteswap()
    return column.tobytes()


def _numbers(typecode: str, column: bytes) -> "array[int]":
    numbers = array(typecode, column)
    if _BIG_ENDIAN:
        numbers.byteswap()
    return numbers


_BIG_ENDIAN = array("H", b"\x00\x01")[0] == 1


@dataclass(frozen=True, slots=True)
class SealedChunks:
    """The first ``count`` chunks of a segment, of which the first has ``first_seq``, by column.

    ``sizes`` are those of the payloads, which lie one after the other in ``payloads``.
    """

    first_seq: int
    count: int
    kinds: bytes
    sizes: "array[int]"
    content_types: tuple[str, ...]
    content_type_of: bytes
    payloads: bytes
    times: bytes

    @property
    def plain(self) -> bool:
        """True if all are data chunks of JSON, as nearly always."""
        return not any(self.kinds) and self.content_types == ("",)

    @property
    def closes(self) -> bool:
        """True if the last chunk ends its stream."""
        return _KINDS[self.kinds[self.count - 1]].closes

    def chunks(self) -> list[Chunk]:
        """The chunks as objects."""
        ends = list(accumulate(self.sizes, initial=0))
        times = accumulate(_numbers("q", self.times))
        return [
            Chunk(
                _KINDS[self.kinds[at]],
                self.payloads[ends[at] : ends[at + 1]],
                time,
                self.content_types[self.content_type_of[at]],
            )
            for at, time in zip(range(self.count), times, strict=False)
        ]


def unpack(codec: Codec, value: bytes | None, stream_id: str, ref: SegmentRef) -> SealedChunks | SegmentPage:
    """What the record that ``ref`` points at holds.

    Raise :class:`DataCorruption` if it is not what ``ref`` says, is damaged, or is no segment at all.
    """
    try:
        segment = codec.decode(value, Segment)
    except ChunkDecodeError as problem:
        raise _corrupt(stream_id, ref, str(problem)) from None
    said = (segment.stream_id, segment.number, segment.first_seq, segment.index)
    if said != (stream_id, ref.number, ref.first_seq, ref.index) or segment.count < ref.count:
        raise _corrupt(stream_id, ref, f"the record says it is {said}, {segment.count} chunks")
    if sha256(segment.data).digest() != segment.digest:
        raise _corrupt(stream_id, ref, "its digest does not match")
    try:
        raw = _decompress(segment.data, segment.raw_bytes)
        if ref.index:
            return _checked_page(codec.decode(raw, SegmentPage), ref)
        return _sealed(codec.decode(raw, SegmentChunks), segment.count, ref)
    except (cramjam.DecompressionError, ChunkDecodeError, ValueError) as problem:
        raise _corrupt(stream_id, ref, str(problem)) from None


def _decompress(data: bytes, size: int) -> bytes:
    if not 0 < size <= EVENT_VALUE_BYTES_MAX:
        raise ValueError(f"{size} bytes before compression; at most {EVENT_VALUE_BYTES_MAX} are read")
    raw = bytearray(size)
    if cramjam.zstd.decompress_into(data, raw) != size:
        raise ValueError(f"it does not decompress to {size} bytes")
    return bytes(raw)


def _sealed(columns: SegmentChunks, count: int, ref: SegmentRef) -> SealedChunks:
    sizes = _numbers("I", columns.sizes)
    lengths = {len(columns.kinds), len(sizes), len(columns.content_type_of), len(columns.times) // 8}
    if lengths != {count} or sum(sizes) != len(columns.payloads) or max(columns.kinds) > Kind.CANCELLED:
        raise ValueError(f"its columns do not hold {count} chunks")
    if max(columns.content_type_of) >= len(columns.content_types):
        raise ValueError("a content type is missing")
    return SealedChunks(
        ref.first_seq,
        ref.count,
        columns.kinds,
        sizes,
        columns.content_types,
        columns.content_type_of,
        columns.payloads,
        columns.times,
    )


def _checked_page(page: SegmentPage, ref: SegmentRef) -> SegmentPage:
    check_dense(page.segments, ref.first_seq, ref.first_seq + ref.count)
    return page


def check_dense(segments: Iterable[SegmentRef], first_seq: int, next_seq: int) -> None:
    """Raise ValueError unless ``segments`` hold exactly the chunks from ``first_seq`` to before ``next_seq``."""
    at = first_seq
    for ref in segments:
        if ref.first_seq != at or ref.count < 1:
            raise ValueError(f"seq {at} should be next, not {ref.first_seq}")
        at += ref.count
    if at != next_seq:
        raise ValueError(f"the segments end at seq {at}, not {next_seq}")


def _corrupt(stream_id: str, ref: SegmentRef, why: str) -> DataCorruption:
    return DataCorruption(
        f"the segment of seq {ref.first_seq} cannot be read: {why}",
        where=f"{stream_id}/{ref.number} at offset {ref.offset}",
        hint="Compare the replicas of its partition",
    )


_Found = tuple[int, bytes | None] | None  # offset and value


class SegmentReader:
    """Fetches segments, some at once over a few connections of their own. Knows nothing of what they mean.

    Small segments of one stream often lie near each other: what a fetch brings along is kept for a while.
    """

    def __init__(self, reader: LogReader, topic: str, codec: Codec) -> None:
        self._reader = reader
        self._topic = topic
        self._codec = codec
        self._room = asyncio.Semaphore(_IN_FLIGHT_MAX)
        self._turn = 0
        self._flights: dict[asyncio.Task[_Found], tuple[int, int]] = {}  # partition and offset
        self._near: OrderedDict[tuple[int, int], bytes | None] = OrderedDict()
        self._near_bytes = 0

    async def chunks(self, partition: int, stream_id: str, ref: SegmentRef) -> SealedChunks:
        """The chunks of a segment; :class:`DataCorruption` if it is gone or not what ``ref`` says."""
        content = unpack(self._codec, await self._value(partition, stream_id, ref), stream_id, ref)
        assert isinstance(content, SealedChunks)  # noqa: S101 - ref.index says which, and unpack checks it
        return content

    async def page(self, partition: int, stream_id: str, ref: SegmentRef) -> tuple[SegmentRef, ...]:
        """What an index page lists; errors as those of :meth:`chunks`."""
        content = unpack(self._codec, await self._value(partition, stream_id, ref), stream_id, ref)
        assert isinstance(content, SegmentPage)  # noqa: S101 - ref.index says which, and unpack checks it
        return content.segments

    async def leaves(
        self, partition: int, stream_id: str, segments: Sequence[SegmentRef], from_seq: int = 0, *, depth: int = 0
    ) -> AsyncIterator[SegmentRef]:
        """The segments of chunks among and below ``segments``, in order, from the one that holds ``from_seq`` on."""
        if depth > PAGE_DEPTH_MAX:
            raise DataCorruption("pages of segments are nested too deep", where=stream_id)
        for ref in segments:
            if ref.first_seq + ref.count <= from_seq:
                continue
            if not ref.index:
                yield ref
                continue
            below = await self.page(partition, stream_id, ref)
            async for leaf in self.leaves(partition, stream_id, below, from_seq, depth=depth + 1):
                yield leaf

    async def _value(self, partition: int, stream_id: str, ref: SegmentRef) -> bytes | None:
        at = partition, ref.offset
        while at not in self._near and (flight := self._flight_over(partition, ref)) is not None:
            await asyncio.wait([flight])
        if at in self._near:
            return self._take(at)
        flight = asyncio.create_task(self._fly(partition, ref.offset), name="fetch segments")
        self._flights[flight] = at
        flight.add_done_callback(self._flights.__delitem__)
        record = await asyncio.shield(flight)
        if record is None or record[0] != ref.offset:
            raise _corrupt(stream_id, ref, "it is not in the log any more")
        return record[1]

    def _flight_over(self, partition: int, ref: SegmentRef) -> "asyncio.Task[_Found] | None":
        """A fetch under way that is likely to bring ``ref``: if all between its start and there are of the same size."""
        for flight, (where, start) in self._flights.items():
            if where == partition and 0 <= ref.offset - start < _WINDOW_BYTES / (ref.size_bytes + _RECORD_BYTES):
                return flight
        return None

    def _take(self, at: tuple[int, int]) -> bytes | None:
        value = self._near.pop(at)
        self._near_bytes -= len(value or b"")
        return value

    async def _fly(self, partition: int, offset: int) -> "_Found":
        self._turn = (self._turn + 1) % _CONNECTIONS
        async with self._room:
            records = await self._fetch((self._topic, partition), offset, ("segments", self._turn))
        for record in records[1:]:
            if (partition, record.offset) not in self._near:
                self._near[partition, record.offset] = record.value
                self._near_bytes += len(record.value or b"")
        while self._near_bytes > _NEAR_BYTES_MAX:
            self._near_bytes -= len(self._near.popitem(last=False)[1] or b"")
        return (records[0].offset, records[0].value) if records else None

    async def _fetch(self, at: Partition, offset: int, channel: object) -> list[Record]:
        """The records from the first at or after ``offset`` on; none if there is none."""
        problem: Exception | None = None
        for _ in range(_FETCH_TRIES_MAX):
            for node in self._reader.leaders([at]):
                try:
                    # The broker always gives one whole batch, however large it is.
                    (fetched,) = await self._reader.fetch(
                        node, {at: offset}, max_wait_ms=0, partition_bytes=_WINDOW_BYTES, channel=channel
                    )
                except KafkaError as failure:
                    problem = failure
                    break
                problem = None
                if records := fetched.records():
                    return records
            await self._reader.retry_after(problem or LeaderNotAvailableError())
        if problem is None:
            return []
        raise unreachable(f"{at[0]}/{at[1]}", problem)
