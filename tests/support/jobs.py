"""Processors on a real broker, streams for them to read, and what came out."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from tests.support.streams import Author, Content
from tests.support.system import PLUGINS

import apexstream.processors.build
from apexstream.contracts.catalogue import load_catalogue
from apexstream.contracts.codec import Codec
from apexstream.core.chunk import Chunk, Kind
from apexstream.core.events import Pipeline
from apexstream.log import admin
from apexstream.log.fetcher import LogReader
from apexstream.log.writer import Writer
from apexstream.runtime.settings import Settings

DEADLINE_S = 60.0
CODEC = Codec()


class Log:
    """Topics of their own on a broker: write streams and pipelines, read what streams hold."""

    def __init__(self, settings: Settings, writer: Writer, reader: LogReader) -> None:
        self.settings = settings
        self.writer = writer
        self.reader = reader

    @classmethod
    @asynccontextmanager
    async def open(cls, bootstrap: str, prefix: str = "") -> AsyncIterator["Log"]:
        name = prefix or f"j{secrets.token_hex(4)}."
        settings = Settings(bootstrap_servers=bootstrap, topic_prefix=name, port=0, stats="off")
        await admin.apply([topic.renamed(settings.topic_prefix) for topic in load_catalogue()], bootstrap)
        async with Writer(bootstrap, client_id="t-w") as writer, LogReader(bootstrap, client_id="t-r") as reader:
            await writer.prepare(*(settings.topic(name) for name in ("chunks", "pipelines")))
            await reader.partitions(settings.topic("chunks"))
            yield cls(settings, writer, reader)

    async def append(self, stream_id: str, *values: bytes) -> None:
        topic = self.settings.topic("chunks")
        await asyncio.gather(*(self.writer.append(topic, stream_id.encode(), value) for value in values))

    async def whole(self, stream_id: str, chunks: Sequence[Chunk], run_size: int = 100) -> None:
        """A stream of one attempt; ``chunks`` hold its end."""
        author = Author(stream_id)
        runs = [author.run(chunks[at : at + run_size]) for at in range(0, len(chunks), run_size)]
        await self.append(stream_id, author.claim(0), *runs)

    async def submit(self, pipeline_id: str, cancelled_us: int = 0, tenant: str = "", **definition: Any) -> None:
        pipeline = Pipeline(
            pipeline_id=pipeline_id,
            definition=msgspec.json.encode(definition),
            submitted_us=1,
            cancelled_us=cancelled_us,
            reason="enough" if cancelled_us else "",
            tenant=tenant,
        )
        await self.writer.append(self.settings.topic("pipelines"), pipeline_id.encode(), CODEC.encode(pipeline))

    async def content(self, stream_id: str) -> Content:
        """What the stream holds now."""
        partition = (
            self.settings.topic("chunks"),
            self.writer.partition_of(self.settings.topic("chunks"), stream_id.encode()),
        )
        end = (await self.reader.ends([partition]))[partition]
        content = Content()
        async for records, _ in self.reader.scan(partition, 0, end):
            for record in records:
                if record.key == stream_id.encode():
                    content.take(record.value or b"")
        return content

    async def until(self, stream_id: str, count: int = 0) -> Content:
        """The stream once it has ended, or with ``count`` has as many chunks."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                content = await self.content(stream_id)
                if content.fold.closed is not None or (count and len(content.chunks) >= count):
                    return content
                await asyncio.sleep(0.1)


def values(content: Content) -> list[Any]:
    """The decoded data."""
    return [msgspec.json.decode(chunk.payload) for chunk in content.chunks if chunk.kind is Kind.DATA]


def _probes_are_found() -> None:
    """The processes of users' functions find the probe plugin as if it were installed."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(PLUGINS) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(PLUGINS), *filter(None, paths)])


@asynccontextmanager
async def processing(settings: Settings) -> AsyncIterator[None]:
    """Processors in this loop."""
    _probes_are_found()
    stop, ready = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(apexstream.processors.build.serve(settings, ready=lambda _: ready.set(), stop=stop))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({serving, waiting}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    try:
        if serving.done():
            serving.result()
        yield
    finally:
        stop.set()
        await serving
