"""The chunk log: runs of chunks by stream, over the writer, the fetcher and the codec."""

import asyncio
from dataclasses import dataclass

from apexstream.contracts.codec import Codec
from apexstream.contracts.run_codec import RunEncoder
from apexstream.core.fold import StreamFold
from apexstream.log.fetcher import LogReader, Partition
from apexstream.log.writer import AppendListener, Writer

SKEW_MS = 5 * 60 * 1000  # clocks of gateway and brokers may differ by this much


@dataclass(slots=True, eq=False)
class _Wanted:
    """A stream to be folded up to ``end`` (None: the log's end when the scan starts)."""

    stream_id: str
    since_us: int
    end: int | None
    result: asyncio.Future[StreamFold]


class ChunkLog:
    """Appends to and reads from the topic of chunks. ``writer_id`` is this process' identity in every run."""

    def __init__(self, topic: str, codec: Codec, reader: LogReader, writer: Writer, writer_id: str) -> None:
        self.topic = topic
        self._codec = codec
        self._reader = reader
        self._writer = writer
        self.writer_id = writer_id
        self._wanted: dict[Partition, list[_Wanted]] = {}
        self._scans: dict[Partition, asyncio.Task[None]] = {}

    def encoder(self, stream_id: str, attempt: int) -> RunEncoder:
        """An encoder for this process' runs of one attempt."""
        return self._codec.run_encoder(stream_id, attempt, self.writer_id)

    def put(self, stream_id: str, value: bytes, listener: AppendListener) -> None:
        """Send a run; ``listener`` is told what became of it."""
        key = stream_id.encode()
        self._writer.put(self.topic, self._writer.partition_of(self.topic, key), key, value, listener)

    async def append(self, stream_id: str, value: bytes) -> int:
        """Send a run and return its offset once it is acknowledged."""
        return await self._writer.append(self.topic, stream_id.encode(), value)

    async def fold(self, stream_id: str, *, since_us: int, end: int | None = None) -> StreamFold:
        """Fold the stream from its first record to offset ``end`` (exclusive; None: the log's present end).

        ``since_us`` is a time before which the stream did not exist, which saves reading the log from its start. Calls for
        one partition that come while it is being read wait for that and then share the next reading: taking over a
        thousand streams reads each partition twice and not a thousand times.
        """
        partition = (self.topic, self._writer.partition_of(self.topic, stream_id.encode()))
        wanted = _Wanted(stream_id, since_us, end, asyncio.get_running_loop().create_future())
        self._wanted.setdefault(partition, []).append(wanted)
        if partition not in self._scans:
            scan = self._scans[partition] = asyncio.create_task(self._serve(partition), name=f"fold {partition[1]}")
            scan.add_done_callback(lambda _: self._scans.pop(partition))
        return await wanted.result

    async def _serve(self, partition: Partition) -> None:
        while batch := self._wanted.pop(partition, None):
            try:
                await self._fold_all(partition, batch)
            except Exception as problem:  # whatever it is, it is the callers' to handle
                for wanted in batch:
                    if not wanted.result.done():
                        wanted.result.set_exception(problem)

    async def _fold_all(self, partition: Partition, batch: list[_Wanted]) -> None:
        log_end = (await self._reader.ends([partition]))[partition]
        start = await self._reader.offset_at(partition, min(wanted.since_us for wanted in batch) // 1000 - SKEW_MS)
        stop = max(log_end if wanted.end is None else wanted.end for wanted in batch)
        by_key: dict[bytes, list[tuple[_Wanted, StreamFold]]] = {}
        for wanted in batch:
            by_key.setdefault(wanted.stream_id.encode(), []).append((wanted, StreamFold()))
        async for records, _ in self._reader.scan(partition, start, stop):
            for record in records:
                folds = by_key.get(record.key or b"")
                if folds is None or record.value is None:
                    continue
                run = self._codec.decode_run(record.value)
                for wanted, fold in folds:
                    if wanted.end is None or record.offset < wanted.end:
                        fold.apply(run)
        for folds in by_key.values():
            for wanted, fold in folds:
                if not wanted.result.done():
                    wanted.result.set_result(fold)
