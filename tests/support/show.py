"""A gateway in this process and an archive on the same topics, with streams that a test writes record by record."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import msgspec
import websockets
from tests.support.archive import DEADLINE_S, Rig, rig, until
from tests.support.streams import CODEC, NOW_US, append

import apexstream.gateway.build
from apexstream.archiver.claim import Archive
from apexstream.core.events import StreamState, TaskSubmitted
from apexstream.log.index import StreamIndex
from apexstream.runtime.settings import Settings

ENDS = {"stream_complete", "stream_error", "stream_cancelled", "error"}


class Show:
    """A gateway and an archive of the same topics."""

    def __init__(self, made: Rig, archive: Archive, url: str, index: StreamIndex) -> None:
        self.rig, self.archive, self.url = made, archive, url
        self.index = index  # the gateway's

    def socket(self) -> websockets.connect:
        return websockets.connect(f"ws{self.url.removeprefix('http')}/stream", max_size=None, compression=None)

    async def follow(self, stream_id: str, **more: object) -> list[dict[str, Any]]:
        """All messages from subscribing to the end."""
        messages: list[dict[str, Any]] = []
        async with asyncio.timeout(DEADLINE_S), self.socket() as socket:
            await socket.send(subscribe(stream_id, **more))
            while not messages or messages[-1]["type"] not in ENDS:
                messages.append(msgspec.json.decode(await socket.recv()))
        return messages

    async def write(self, stream_id: str, *values: bytes) -> None:
        await append(self.rig.writer, self.rig.topic("chunks"), stream_id, values)

    async def submit(self, stream_id: str) -> None:
        """Make the stream's task known, as viewers of a stream without anything sealed wait for it."""
        task = TaskSubmitted(
            task_id=stream_id, plugin="p", action="a", params=b"{}", tier="normal", submitted_us=NOW_US
        )
        await self.rig.writer.append(self.rig.topic("tasks.normal"), stream_id.encode(), CODEC.encode(task))

    async def sealed(self, stream_id: str, next_seq: int) -> StreamState:
        """The first state that holds so much, once the gateway knows it as well."""
        state = await until(self.archive, stream_id, lambda state: state.next_seq >= next_seq)
        async with asyncio.timeout(DEADLINE_S):
            while (known := self.index.get(stream_id)) is None or known.next_seq < next_seq:
                await asyncio.sleep(0.01)
        return state

    async def publish(self, state: StreamState) -> None:
        """Put a state into the log as if the archiver had; returns once everybody has read it."""
        partition = self.rig.partition_of(state.stream_id)
        offset = await self.rig.writer.append(
            self.rig.topic("streams"), state.stream_id.encode(), CODEC.encode(state), partition=partition
        )
        await asyncio.gather(*(index.reached(partition, offset + 1) for index in (self.archive.index, self.index)))


def subscribe(stream_id: str, **more: object) -> str:
    return msgspec.json.encode({"type": "subscribe", "stream_id": stream_id, **more}).decode()


def shown(messages: list[dict[str, Any]]) -> list[Any]:
    """What a viewer has in the end: messages folded as PROTOCOL.md says."""
    content: list[Any] = []
    for message in messages:
        if message["type"] == "stream_rewind":
            del content[message["seq"] :]
        else:
            assert message["seq"] == len(content), message
            content.append(message.get("data", message["type"]))
    return content


@asynccontextmanager
async def gateway(kafka: str, prefix: str) -> AsyncIterator[tuple[str, StreamIndex]]:
    """A gateway; gives its URL and what it knows of sealed streams. It stops in order at the end."""
    indexes: list[StreamIndex] = []

    class Shown(StreamIndex):
        async def __aenter__(self) -> StreamIndex:
            indexes.append(self)
            return await super().__aenter__()

    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    settings = Settings(bootstrap_servers=kafka, topic_prefix=prefix, port=0)
    with patch.object(apexstream.gateway.build, "StreamIndex", Shown):
        serving = asyncio.create_task(apexstream.gateway.build.serve(settings, ready=ready.set_result, stop=stop))
        await asyncio.wait([serving, ready], timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        serving.result()
    try:
        yield ready.result(), indexes[0]
    finally:
        stop.set()
        await serving


@asynccontextmanager
async def show(kafka: str, prefix: str) -> AsyncIterator[Show]:
    async with rig(kafka, prefix) as made, made.archive("a") as archive:
        await made.writer.prepare(made.topic("tasks.normal"))
        async with gateway(kafka, prefix) as (url, index):
            yield Show(made, archive, url, index)
