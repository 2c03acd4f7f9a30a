"""A viewer whose connections break, and whose gateways die, gets each chunk once."""

import asyncio
import contextlib
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import websockets
from tests.support.archive import rig
from tests.support.gateways import GatewayProcess, Road, gateways
from tests.support.sse import events
from tests.support.streams import CODEC, NOW_US, Author, Content, append, data, numbered
from tests.support.tearing import Tears
from tests.support.web import driven
from websockets.exceptions import WebSocketException

from apexstream.client import Client, ReconnectPolicy, Update
from apexstream.core.chunk import Kind
from apexstream.core.events import TaskSubmitted

CHUNKS, TEARS = 10_000, 100
EVERY = CHUNKS // (TEARS + 5)  # chunks for each tear, and some left after the last one
WHOLE_S_MAX = 240
POLICY = ReconnectPolicy(base_s=0.01, cap_s=0.1, offline_max_s=60)


def records(rng: random.Random, stream_id: str) -> Iterator[bytes]:
    """A stream of ``CHUNKS`` chunks that three attempts write; the later ones go back to the last checkpoint."""
    author = Author(stream_id)
    yield author.claim(0)
    place = (0, author.hash)
    while author.seq < CHUNKS:
        saved = rng.random() < 0.1
        yield author.run(
            numbered(min(rng.randint(1, 60), CHUNKS - author.seq), rng.randrange(1 << 30)), b"state" if saved else None
        )
        if saved:
            place = author.seq, author.hash
        elif author.seq > author.attempt * CHUNKS // 3 and author.attempt < 3:
            author = Author(stream_id, author.attempt + 1, f"w{author.attempt + 1}")
            yield author.claim()
            yield author.resume(*place)
    yield author.run(data(b"{}", last=Kind.COMPLETE))


@dataclass
class Seen:
    """What a viewer has in the end. Every message must be the next one."""

    values: list[Any] = field(default_factory=list)
    count: int = 0
    cursor: str = ""
    ended: bool = False
    more: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, kind: str, seq: int, value: Any, cursor: str) -> None:
        assert not self.ended
        self.cursor = cursor
        if kind == "rewind":
            assert seq < len(self.values)
            del self.values[seq:]
            return
        assert seq == len(self.values)
        if kind == "complete":
            self.ended = True
            self.more.set()
            return
        assert kind == "update"
        self.values.append(value)
        self.count += 1
        self.more.set()

    def hear(self, message: dict[str, Any]) -> None:
        """A message as the gateway writes it."""
        kind = str(message["type"]).removeprefix("stream_")
        self.take(kind, message["seq"], message.get("data"), message.get("cursor", self.cursor))

    async def until(self, count: int) -> None:
        while self.count < count:
            assert not self.ended
            self.more.clear()
            await self.more.wait()


async def in_python(url: str, seen: Seen) -> None:
    """The Python client."""
    async with Client(url, reconnect=POLICY) as client:
        async for frame in client.follow("torn"):
            value = frame.value if isinstance(frame, Update) else None
            seen.take(type(frame).__name__.lower(), frame.seq, value, frame.cursor)


async def in_typescript(url: str, seen: Seen) -> None:
    """The TypeScript client."""
    async with driven("follow", url, "torn") as events:
        async for event in events:
            seen.take(event["kind"], event["seq"], event.get("value"), event["cursor"])


async def over_socket(url: str, seen: Seen) -> None:
    """One WebSocket, from the cursor on."""
    place = {"cursor": seen.cursor} if seen.cursor else {}
    async with websockets.connect(f"ws{url.removeprefix('http')}/stream", compression=None) as socket:
        command = {"type": "subscribe", "stream_id": "torn", "cursors": True, **place}
        await socket.send(msgspec.json.encode(command).decode())
        while not seen.ended:
            message = msgspec.json.decode(await socket.recv())
            if message["type"].startswith("stream_"):
                seen.hear(message)
            elif message["type"] == "error":
                assert message["error"]["code"] == "unavailable", message  # come back later
                return


async def over_events(url: str, seen: Seen) -> None:
    """One answer of server-sent events."""
    async with events(f"{url}/streams/torn/events", seen.cursor) as answer:
        if answer.response.status_code == 200:
            async for message in answer.messages():
                if message["type"] != "error":
                    seen.hear(message)
        else:
            assert answer.response.status_code == 503  # come back later


async def over_pages(url: str, seen: Seen) -> None:
    """Durable Streams: page after page."""
    async with httpx.AsyncClient(timeout=60) as http:
        while not seen.ended:
            query = {"offset": seen.cursor or "-1", "live": "long-poll"}
            page = await http.get(f"{url}/ds/streams/torn", params=query)
            if page.status_code not in {200, 204, 410}:
                assert page.status_code == 503, page.text  # come back later
                return
            offset = page.headers["stream-next-offset"]
            if page.status_code == 410:
                assert page.json()["error"]["code"] == "rewound"
                seen.take("rewind", int(offset[:16]), None, offset)
            for message in page.json() if page.status_code == 200 else ():
                seen.hear(message)
            seen.cursor = offset


def again_and_again(*ways: Callable[[str, Seen], Awaitable[None]]) -> Callable[[str, Seen], Awaitable[None]]:
    """Come back whenever a connection breaks, each time over the next way, at the cursor of the last one."""

    async def follow(url: str, seen: Seen) -> None:
        for way in cycle(ways):
            with contextlib.suppress(OSError, httpx.TransportError, WebSocketException):
                await way(url, seen)
            if seen.ended:
                return
            await asyncio.sleep(random.uniform(0.01, 0.1))

    return follow


VIEWERS = {
    "the Python client": in_python,
    "the TypeScript client": in_typescript,
    "server-sent events": again_and_again(over_events),
    "Durable Streams": again_and_again(over_pages),
    "another protocol each time": again_and_again(over_socket, over_events, over_pages),
}


async def tear(road: Road, seen: Seen, tears: Tears) -> None:
    """Break all connections again and again, each time after the viewer has got a little further."""
    while tears.torn < TEARS:
        await seen.until(tears.due)
        while not road.tear():
            await asyncio.sleep(0.01)  # what the viewer had taken already was enough, and it is on its way back
        tears.tear(seen.count)


async def kill(pair: list[GatewayProcess], road: Road, rng: random.Random) -> None:
    """While that happens, kill gateways, or stop them in order, and start them again."""
    for at, how in ((10, signal.SIGKILL), (35, signal.SIGTERM), (60, signal.SIGKILL), (85, signal.SIGTERM)):
        while road.torn < at:
            await road.torn_again.wait()
        one = rng.choice(pair)
        await one.end(how)
        await one.start()


@pytest.mark.faults
@pytest.mark.parametrize("viewer", VIEWERS)
async def test_a_viewer_torn_off_a_hundred_times_has_each_chunk_once(
    kafka: str, topic_prefix: str, tmp_path: Path, viewer: str
):
    rng = random.Random(11)
    async with rig(kafka, topic_prefix) as made, gateways(2, kafka, topic_prefix, tmp_path) as pair:
        await made.writer.prepare(made.topic("tasks.normal"))
        task = TaskSubmitted(task_id="torn", plugin="p", action="a", params=b"{}", tier="normal", submitted_us=NOW_US)
        await made.writer.append(made.topic("tasks.normal"), b"torn", CODEC.encode(task))
        content = Content()
        async with (
            asyncio.timeout(WHOLE_S_MAX),
            Road([one.port for one in pair], rng).open() as road,
            asyncio.TaskGroup() as group,
        ):
            seen, tears = Seen(), Tears(EVERY, TEARS)
            for acting in (VIEWERS[viewer](road.url, seen), tear(road, seen, tears), kill(pair, road, rng)):
                group.create_task(acting)
            for value in records(rng, "torn"):
                content.take(value)
                await append(made.writer, made.topic("chunks"), "torn", [value])
                while not tears.may_write(content.fold.next_seq, taken=seen.count, held=len(seen.values)):
                    await road.torn_again.wait()  # the stream goes on while connections break, but not far ahead
    assert tears.torn == TEARS
    assert seen.ended
    assert [msgspec.json.encode(value) for value in seen.values] == [chunk.payload for chunk in content.chunks[:-1]]
    assert content.fold.rewinds == 2
