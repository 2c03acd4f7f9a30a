"""Streams that have ended, written straight to the log the way a runner writes them, and sealed by the archiver."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import GENESIS, Chunk, Kind
from apexstream.core.errors import Unavailable
from apexstream.core.events import Event, StreamStatus, TaskChange, TaskEvent, TaskSubmitted
from apexstream.core.ids import new_id
from apexstream.log.fetcher import LogReader
from apexstream.log.index import StreamIndex
from apexstream.log.writer import Writer

CHUNK_BYTES, RUN_CHUNKS = 200, 10
UNACKNOWLEDGED_MAX = 2_000  # runs
SEALED_TIMEOUT_S = 600.0


def payloads(count: int) -> list[bytes]:
    """JSON texts of about CHUNK_BYTES, made of words: they compress as text does, to a third."""
    rng = random.Random(1)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(rng.choices(letters, weights=range(26, 0, -1), k=rng.randint(2, 9))) for _ in range(3_000)]
    made = []
    for number in range(count):
        text = f"{number}"
        while len(text) < CHUNK_BYTES - 20:
            text += " " + rng.choice(words)
        made.append(msgspec.json.encode({"text": text}))
    return made


class _Acknowledged:
    """Counts what is on its way, and bounds it."""

    def __init__(self) -> None:
        self.room = asyncio.Semaphore(UNACKNOWLEDGED_MAX)
        self.problem: Unavailable | None = None

    def appended(self, offset: int) -> None:
        self.room.release()

    def failed(self, error: Unavailable) -> None:
        self.problem = error
        self.room.release()

    async def all(self) -> None:
        for _ in range(UNACKNOWLEDGED_MAX):
            await self.room.acquire()
        if self.problem is not None:
            raise self.problem


class Streams:
    """Makes streams on one installation. ``bootstrap``: its Kafka."""

    def __init__(self, writer: Writer, index: StreamIndex) -> None:
        self._writer = writer
        self._index = index
        self._codec = Codec()
        self._payloads = payloads(1_000)

    def ids(self, count: int, partition: int | None = None) -> list[str]:
        """New names; of streams that lie in ``partition``, if one is given."""
        found: list[str] = []
        while len(found) < count:
            name = new_id(time.time_ns() // 1_000_000, os.urandom(10))
            if partition is None or self._writer.partition_of("apex.chunks", name.encode()) == partition:
                found.append(name)
        return found

    async def write(self, lengths: dict[str, int]) -> None:
        """Write streams of so many chunks each, the runs of all of them in turns, and end them."""
        sent = _Acknowledged()
        hashes = dict.fromkeys(lengths, GENESIS)
        for stream_id in lengths:
            hashes[stream_id] = await self._put(stream_id, 0, [self._chunk(Kind.CLAIM)], GENESIS, sent)
        for first in range(0, max(lengths.values()), RUN_CHUNKS):
            for stream_id, length in lengths.items():
                if first < length:
                    run = [self._chunk(Kind.DATA, first + at) for at in range(min(RUN_CHUNKS, length - first))]
                    hashes[stream_id] = await self._put(stream_id, first, run, hashes[stream_id], sent)
        for stream_id, length in lengths.items():
            await self._put(stream_id, length, [self._chunk(Kind.COMPLETE)], hashes[stream_id], sent)
        await sent.all()

    async def submitted(self, stream_ids: Sequence[str]) -> None:
        """Write what a gateway knows of the streams' tasks: that they were submitted, and that they have ended."""
        sent = _Acknowledged()
        for task_id in stream_ids:
            now = time.time_ns() // 1000
            submitted = TaskSubmitted(
                task_id=task_id, plugin="bench", action="bench", params=b"{}", tier="normal", submitted_us=now
            )
            ended = TaskEvent(task_id=task_id, change=TaskChange.COMPLETED, at_us=now, attempt=1, by="bench")
            await self._tell("apex.tasks.normal", task_id, submitted, sent)
            await self._tell("apex.task-events", task_id, ended, sent)
        await sent.all()

    async def sealed(self, stream_ids: Sequence[str]) -> None:
        """Wait until the archiver has sealed them."""
        async with asyncio.timeout(SEALED_TIMEOUT_S):
            for stream_id in stream_ids:
                while (state := self._index.get(stream_id)) is None or state.status is StreamStatus.OPEN:
                    await asyncio.sleep(0.05)

    def _chunk(self, kind: Kind, number: int = 0) -> Chunk:
        payload = self._payloads[number % len(self._payloads)] if kind is Kind.DATA else b""
        return Chunk(kind, payload, time.time_ns() // 1000)

    async def _tell(self, topic: str, task_id: str, event: Event, sent: _Acknowledged) -> None:
        await self._append(topic, task_id.encode(), self._codec.encode(event), sent)

    async def _append(self, topic: str, key: bytes, value: bytes, sent: _Acknowledged) -> None:
        await sent.room.acquire()
        self._writer.put(topic, self._writer.partition_of(topic, key), key, value, sent)
        if sent.room.locked():
            await asyncio.sleep(0)

    async def _put(
        self, stream_id: str, first_seq: int, run: Sequence[Chunk], previous: bytes, sent: _Acknowledged
    ) -> bytes:
        value, run_hash = self._codec.run_encoder(stream_id, 1, "bench").encode(first_seq, run, None, previous)
        await self._append("apex.chunks", stream_id.encode(), value, sent)
        return run_hash


@asynccontextmanager
async def streams(bootstrap: str) -> AsyncIterator[Streams]:
    """Open a maker of streams."""
    async with (
        Writer(bootstrap, client_id="bench") as writer,
        LogReader(bootstrap, client_id="bench-view") as reader,
        StreamIndex(reader, "apex.streams", Codec()) as index,
    ):
        await writer.prepare("apex.chunks", "apex.tasks.normal", "apex.task-events")
        following = asyncio.create_task(index.run(), name="index")
        try:
            yield Streams(writer, index)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
