"""An archive on the real broker without the consumer group: partitions run where and when a test wants, or die.

As a script it runs all partitions of the installation in its environment until it is killed.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from apexstream.archiver.claim import Archive
from apexstream.archiver.partition import Held, Limits, PartitionArchive
from apexstream.contracts.catalogue import load_catalogue
from apexstream.contracts.codec import Codec
from apexstream.core.chunk import Chunk
from apexstream.core.events import StreamState
from apexstream.log import admin
from apexstream.log.cipher import KeyProvider
from apexstream.log.fetcher import LogReader, Partition
from apexstream.log.index import StreamIndex
from apexstream.log.segments import SegmentReader, read_segment_key
from apexstream.log.trim import delete_before
from apexstream.log.writer import Writer
from apexstream.runtime.clock import SystemClock

DEADLINE_S = 30
QUICK = Limits(
    seal_after_s=0.05,
    default_ttl_s=0,
    trim_after_s=86_400,
    memory_bytes=64 << 20,
    tick_s=0.05,
    expire_every_s=0.05,
    trim_every_s=0.05,
)


@dataclass
class Rig:
    """Topics of one test, a writer and a reader on them."""

    kafka: str
    prefix: str
    writer: Writer
    reader: LogReader

    def topic(self, name: str) -> str:
        return self.prefix + name

    def partition_of(self, stream_id: str) -> int:
        return self.writer.partition_of(self.topic("chunks"), stream_id.encode())

    async def ends(self, topic: str, partition: int) -> int:
        place: Partition = (self.topic(topic), partition)
        return (await self.reader.ends([place]))[place]

    @asynccontextmanager
    async def archive(self, name: str, keys: KeyProvider | None = None) -> AsyncIterator[Archive]:
        """What one archiver process has, with an index that follows."""
        codec = Codec()
        async with AsyncExitStack() as stack:
            views = await stack.enter_async_context(LogReader(self.kafka, client_id=f"{name}-view"))
            reads = await stack.enter_async_context(LogReader(self.kafka, client_id=f"{name}-read"))
            writer = await stack.enter_async_context(Writer(self.kafka, client_id=name))
            index = await stack.enter_async_context(StreamIndex(views, self.topic("streams"), codec))
            for topic in ("chunks", "segments", "streams", "control"):
                await reads.partitions(self.topic(topic))
            following = asyncio.create_task(index.run())
            stack.push_async_callback(stopped, following)
            await index.caught_up.wait()
            yield Archive(
                name=name,
                chunks=self.topic("chunks"),
                segments=self.topic("segments"),
                streams=self.topic("streams"),
                control=self.topic("control"),
                codec=codec,
                clock=SystemClock(),
                writer=writer,
                reader=reads,
                segment_reader=SegmentReader(reads, self.topic("segments"), codec),
                index=index,
                keys=keys,
            )

    @asynccontextmanager
    async def archiving(self, archive: Archive, *partitions: int, **limits: float) -> AsyncIterator[None]:
        """Archive ``partitions`` meanwhile."""
        held = Held()
        running = [asyncio.create_task(self.partition(number, archive, held, **limits).run()) for number in partitions]
        try:
            yield
            for task in running:
                if task.done():
                    task.result()
        finally:
            for task in running:
                await stopped(task)

    def partition(self, number: int, archive: Archive, held: Held, **limits: float) -> PartitionArchive:
        async def trim(partition: int, offset: int) -> None:
            await delete_before(self.kafka, {(archive.chunks, partition): offset}, client_id="trim")

        return PartitionArchive(
            number, archive, replace(QUICK, **limits), held, trim=trim, on_sealed=lambda _, __: None
        )

    async def audit(self) -> dict[str, StreamState]:
        """All states as a fresh reader finds them. Fails if any segment that is there is not referred to, or the other way."""
        async with self.archive("auditor") as archive:
            referred: set[tuple[int, bytes, int]] = set()
            states: dict[str, StreamState] = {}
            for (stream_id,) in archive.index._db.execute("SELECT stream_id FROM streams").fetchall():
                state = archive.index.get(stream_id)
                assert state is not None
                states[stream_id] = state
                referred |= await _referred(archive, self.partition_of(stream_id), state)
            assert await self._live_segments() == referred
            return states

    async def _live_segments(self) -> set[tuple[int, bytes, int]]:
        live: set[tuple[int, bytes, int]] = set()
        for place in await self.reader.partitions(self.topic("segments")):
            last: dict[bytes, int] = {}
            at, end = (await self.reader.starts([place]))[place], (await self.reader.ends([place]))[place]
            async for records, _ in self.reader.scan(place, at, end):
                for record in records:
                    read_segment_key(record.key or b"")
                    assert record.value is None or record.key not in last, "a segment was written twice"
                    last[record.key or b""] = record.offset if record.value is not None else -1
            live |= {(place[1], key, offset) for key, offset in last.items() if offset >= 0}
        return live


async def _referred(archive: Archive, partition: int, state: StreamState) -> set[tuple[int, bytes, int]]:
    found = set()
    waiting = list(state.segments)
    while waiting:
        ref = waiting.pop()
        found.add((partition, f"{state.stream_id}/{ref.number}".encode(), ref.offset))
        if ref.index:
            waiting += await archive.segment_reader.page(partition, state.stream_id, ref)
    return found


async def sealed_content(archive: Archive, partition: int, state: StreamState) -> list[Chunk]:
    """All chunks of a stream that are sealed."""
    chunks: list[Chunk] = []
    async for ref in archive.segment_reader.leaves(partition, state.stream_id, state.segments):
        assert ref.first_seq == len(chunks)
        chunks += (await archive.segment_reader.chunks(partition, state.stream_id, ref)).chunks()
    assert len(chunks) == state.next_seq
    return chunks


async def until(archive: Archive, stream_id: str, holds: Callable[[StreamState], bool]) -> StreamState:
    """The first state of a stream for which ``holds`` is true."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            state = archive.index.get(stream_id)
            if state is not None and holds(state):
                return state
            await asyncio.sleep(0.01)


async def stopped(task: "asyncio.Task[None]") -> None:
    """Cancel ``task`` and return when it has ended."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def rig(kafka: str, prefix: str) -> AsyncIterator[Rig]:
    """Create the topics of ``prefix`` and open a rig on them."""
    await admin.apply([topic.renamed(prefix) for topic in load_catalogue()], kafka)
    async with Writer(kafka, client_id="rig") as writer, LogReader(kafka, client_id="rig") as reader:
        made = Rig(kafka, prefix, writer, reader)
        await writer.prepare(*(made.topic(name) for name in ("chunks", "segments", "streams", "control")))
        for name in ("chunks", "segments", "streams", "control"):
            await reader.partitions(made.topic(name))
        yield made


async def _main(kafka: str, prefix: str, seal_after_s: float) -> None:
    async with Writer(kafka, client_id="rig") as writer, LogReader(kafka, client_id="rig") as reader:
        made = Rig(kafka, prefix, writer, reader)
        async with (
            made.archive(f"archiver-{os.getpid()}") as archive,
            made.archiving(archive, *range(12), seal_after_s=seal_after_s, tick_s=0.02),
        ):
            print("ready", flush=True)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
