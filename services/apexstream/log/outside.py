"""The chunk log for streams that a gateway writes itself: runs out, and a stream's own records back, from where it is sealed."""

from collections.abc import AsyncIterator, Callable

from apexstream.contracts.codec import Codec
from apexstream.contracts.run_codec import RunEncoder
from apexstream.core.chunk import ChunkRun
from apexstream.core.errors import DataCorruption
from apexstream.core.fold import StreamFold
from apexstream.log.fetcher import LogReader, Partition
from apexstream.log.index import StreamIndex, check_readable, fold_of
from apexstream.log.segments import SegmentReader
from apexstream.log.writer import AppendListener, Writer


class OutsideChunks:
    """Appends to and reads from ``topic``, the chunks. ``writer_id`` is this process' identity in every run."""

    def __init__(
        self,
        topic: str,
        codec: Codec,
        *,
        reader: LogReader,
        writer: Writer,
        index: StreamIndex,
        segments: SegmentReader,
        writer_id: str,
        now_us: Callable[[], int],
    ) -> None:
        self.writer_id = writer_id
        self._topic = topic
        self._codec = codec
        self._reader = reader
        self._writer = writer
        self._index = index
        self._segments = segments
        self._now_us = now_us

    def partition(self, stream_id: str) -> Partition:
        """Where the stream's chunks are."""
        return self._topic, self._writer.partition_of(self._topic, stream_id.encode())

    def encoder(self, stream_id: str, attempt: int) -> RunEncoder:
        """An encoder for this process' runs."""
        return self._codec.run_encoder(stream_id, attempt, self.writer_id)

    def put(self, stream_id: str, value: bytes, listener: AppendListener) -> None:
        """Send a run; ``listener`` is told the outcome."""
        self._writer.put(*self.partition(stream_id), stream_id.encode(), value, listener)

    async def append(self, stream_id: str, value: bytes) -> int:
        """Send a run and return its offset once acknowledged."""
        return await self._writer.append(self._topic, stream_id.encode(), value)

    async def end(self, stream_id: str) -> int:
        """The present end of the log that the stream is in."""
        partition = self.partition(stream_id)
        return (await self._reader.ends([partition]))[partition]

    async def base(self, stream_id: str) -> tuple[StreamFold, int]:
        """What is sealed of the stream, and the offset from which on it has to be looked for in the log.

        Raise :class:`Erased` or :class:`Expired` if its content is gone.
        """
        partition = self.partition(stream_id)
        state, sealed_to = self._index.get(stream_id), self._index.sealed_to(partition[1])
        if state is not None:
            check_readable(state, self._now_us())
            return fold_of(state), max(state.offset, sealed_to or 0)
        return StreamFold(), sealed_to if sealed_to is not None else (await self._reader.starts([partition]))[partition]

    async def between(self, stream_id: str, offset: int, end: int) -> AsyncIterator[ChunkRun]:
        """The stream's records from ``offset`` to ``end`` (exclusive), which the log must have reached."""
        partition, key, at = self.partition(stream_id), stream_id.encode(), offset
        while at < end:
            before = at
            async for records, next_offset in self._reader.scan(partition, at, end):
                at = next_offset
                for record in records:
                    if record.key == key:
                        yield self._codec.decode_run(record.value)
            if at == before:
                await self._reader.retry_after(TimeoutError("nothing was read"))

    async def end_payload(self, stream_id: str) -> bytes:
        """The payload of the last chunk of a stream that is sealed with its end."""
        state = self._index.get(stream_id)
        if state is None:
            raise DataCorruption("sealed with its end, but not known", where=stream_id)
        partition = self.partition(stream_id)[1]
        payload = b""
        async for ref in self._segments.leaves(partition, stream_id, state.segments, state.next_seq - 1):
            payload = (await self._segments.chunks(partition, stream_id, ref)).chunks()[ref.count - 1].payload
        return payload
