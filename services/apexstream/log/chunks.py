"""The chunk log: runs of chunks by stream, over the writer, the fetcher and the codec."""

from collections.abc import AsyncIterator

from apexstream.contracts.codec import Codec
from apexstream.contracts.run_codec import RunEncoder
from apexstream.core.chunk import ChunkRun
from apexstream.core.fold import StreamFold
from apexstream.log.fetcher import LogReader, Partition
from apexstream.log.writer import AppendListener, Writer

SKEW_MS = 5 * 60 * 1000  # clocks of gateway and brokers may differ by this much


class ChunkLog:
    """Appends to and reads from the topic of chunks. ``writer_id`` is this process' identity in every run."""

    def __init__(self, topic: str, codec: Codec, reader: LogReader, writer: Writer, writer_id: str) -> None:
        self.topic = topic
        self._codec = codec
        self._reader = reader
        self._writer = writer
        self._writer_id = writer_id

    def encoder(self, stream_id: str, attempt: int) -> RunEncoder:
        """An encoder for this process' runs of one attempt."""
        return self._codec.run_encoder(stream_id, attempt, self._writer_id)

    def partition_of(self, stream_id: str) -> int:
        """The partition that holds the whole stream."""
        return self._writer.partition_of(self.topic, stream_id.encode())

    def put(self, stream_id: str, value: bytes, listener: AppendListener) -> None:
        """Send a run; ``listener`` is told what became of it."""
        key = stream_id.encode()
        self._writer.put(self.topic, self._writer.partition_of(self.topic, key), key, value, listener)

    async def append(self, stream_id: str, value: bytes) -> int:
        """Send a run and return its offset once it is acknowledged."""
        return await self._writer.append(self.topic, stream_id.encode(), value)

    async def fold(self, stream_id: str, *, since_us: int, end: int | None = None) -> StreamFold:
        """Fold the stream from its first record to offset ``end`` (exclusive; None: the log's present end).

        ``since_us`` is a time before which the stream did not exist, which saves reading the log from its start.
        """
        fold = StreamFold()
        async for run, _ in read_runs(
            self._reader, self._codec, (self.topic, self.partition_of(stream_id)), stream_id, since_us=since_us, end=end
        ):
            fold.apply(run)
        return fold


async def read_runs(
    reader: LogReader, codec: Codec, partition: Partition, stream_id: str, *, since_us: int, end: int | None
) -> AsyncIterator[tuple[ChunkRun, int]]:
    """Yield (run, offset) for every run of ``stream_id`` that was appended after ``since_us`` and before offset ``end``."""
    key = stream_id.encode()
    start = await reader.offset_at(partition, since_us // 1000 - SKEW_MS)
    stop = (await reader.ends([partition]))[partition] if end is None else end
    async for records, _ in reader.scan(partition, start, stop):
        for record in records:
            if record.key == key and record.value is not None:
                yield codec.decode_run(record.value), record.offset
