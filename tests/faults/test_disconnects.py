"""A viewer whose connections break, and whose gateways die, gets each chunk once."""

import asyncio
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.support.archive import rig
from tests.support.gateways import GatewayProcess, Road, gateways
from tests.support.streams import CODEC, NOW_US, Author, Content, append, data, numbered

from apexstream.client import Client, Complete, ReconnectPolicy, Rewind, Update
from apexstream.core.chunk import Kind
from apexstream.core.events import TaskSubmitted
from apexstream.core.tiers import Tier

CHUNKS, TEARS = 10_000, 100
EVERY = CHUNKS // (TEARS + 5)  # so many chunks before each tear, and some left after the last one
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
    """What a viewer has in the end. Every frame must be the next one."""

    values: list[Any] = field(default_factory=list)
    count: int = 0
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, url: str) -> None:
        async with Client(url, reconnect=POLICY) as client:
            async for frame in client.follow("torn"):
                if isinstance(frame, Rewind):
                    assert frame.seq < len(self.values)
                    del self.values[frame.seq :]
                    continue
                assert frame.seq == len(self.values)
                if isinstance(frame, Update):
                    self.values.append(frame.value)
                    self.count += 1
                    self.more.set()
                else:
                    assert isinstance(frame, Complete)

    async def until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self.more.clear()
            await self.more.wait()


async def tear(road: Road, seen: Seen) -> None:
    """Break all connections again and again, each time after the viewer has got a little further."""
    while road.torn < TEARS:
        due = seen.count + EVERY // 2
        await seen.until(lambda due=due: seen.count >= due)
        while not road.tear():
            await asyncio.sleep(0.01)  # what the viewer had taken already was enough, and it is on its way back


async def kill(pair: list[GatewayProcess], road: Road, rng: random.Random) -> None:
    """While that happens, kill gateways, or stop them in order, and start them again."""
    for at, how in ((10, signal.SIGKILL), (35, signal.SIGTERM), (60, signal.SIGKILL), (85, signal.SIGTERM)):
        while road.torn < at:
            await road.torn_again.wait()
        one = rng.choice(pair)
        await one.end(how)
        await one.start()


@pytest.mark.faults
async def test_a_viewer_torn_off_a_hundred_times_has_each_chunk_once(kafka: str, topic_prefix: str, tmp_path: Path):
    rng = random.Random(11)
    async with rig(kafka, topic_prefix) as made, gateways(2, kafka, topic_prefix, tmp_path) as pair:
        await made.writer.prepare(made.topic("tasks.normal"))
        task = TaskSubmitted(
            task_id="torn", plugin="p", action="a", params=b"{}", tier=Tier.NORMAL, submitted_us=NOW_US
        )
        await made.writer.append(made.topic("tasks.normal"), b"torn", CODEC.encode(task))
        content = Content()
        async with Road([one.port for one in pair], rng).open() as road:
            seen = Seen()
            viewing = asyncio.create_task(seen.follow(road.url))
            harming = [asyncio.create_task(tear(road, seen)), asyncio.create_task(kill(pair, road, rng))]
            for value in records(rng, "torn"):
                content.take(value)
                await append(made.writer, made.topic("chunks"), "torn", [value])
                while content.fold.next_seq > (road.torn + 2) * EVERY and road.torn < TEARS:
                    await road.torn_again.wait()  # the stream goes on while connections break, but not far ahead
            async with asyncio.timeout(120):
                await asyncio.gather(*harming, viewing)
    assert road.torn >= TEARS
    assert [msgspec.json.encode(value) for value in seen.values] == [chunk.payload for chunk in content.chunks[:-1]]
    assert content.fold.rewinds == 2
