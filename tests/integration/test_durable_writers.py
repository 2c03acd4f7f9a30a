"""The writing ends of one stream at two gateways, on a real broker: what one of them answers while it is behind the other."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from apexstream.contracts.catalogue import load_catalogue
from apexstream.contracts.codec import Codec
from apexstream.gateway.durable.producers import Accepted, Decision, Duplicate, Gap, NewEpochNotAtZero, Producer
from apexstream.gateway.durable.writer import Pending
from apexstream.gateway.durable.writers import Writers
from apexstream.log import admin
from apexstream.log.fetcher import Fetched, LogReader, Partition
from apexstream.log.index import StreamIndex
from apexstream.log.outside import OutsideChunks
from apexstream.log.segments import SegmentReader
from apexstream.log.tails import Tails
from apexstream.log.writer import Writer
from apexstream.runtime.clock import SystemClock

CODEC, CLOCK = Codec(), SystemClock()
STREAM = "ds-one"
TIMEOUT_S = 60


class LateReader(LogReader):
    """Hands over what it has fetched only while ``open`` is set."""

    def __init__(self, kafka: str, *, client_id: str) -> None:
        super().__init__(kafka, client_id=client_id)
        self.open = asyncio.Event()
        self.open.set()

    async def fetch(self, node: int, offsets: Mapping[Partition, int], **more: Any) -> list[Fetched]:
        fetched = await super().fetch(node, offsets, **more)
        await self.open.wait()
        return fetched


class AskedReader(LogReader):
    """``asked`` is set when somebody wants to know where the log ends."""

    def __init__(self, kafka: str, *, client_id: str) -> None:
        super().__init__(kafka, client_id=client_id)
        self.asked = asyncio.Event()

    async def ends(self, partitions: Any) -> dict[Partition, int]:
        self.asked.set()
        return await super().ends(partitions)


@dataclass(frozen=True, slots=True)
class End:
    """One gateway's hands on streams that are written from outside."""

    writers: Writers
    tail: LateReader
    scans: AskedReader

    async def append(self, producer: Producer) -> Decision:
        async with asyncio.timeout(TIMEOUT_S):
            pending = Pending(payloads=[b"1"], content_type="application/json", producer=producer)
            return (await self.writers.append(STREAM, "", pending)).decision


@asynccontextmanager
async def gateway(kafka: str, prefix: str, name: str) -> AsyncIterator[End]:
    async with AsyncExitStack() as stack:
        tail = await stack.enter_async_context(LateReader(kafka, client_id=name))
        scans = await stack.enter_async_context(AskedReader(kafka, client_id=f"{name}-scan"))
        states = await stack.enter_async_context(LogReader(kafka, client_id=f"{name}-streams"))
        writer = await stack.enter_async_context(Writer(kafka, client_id=name))
        index = await stack.enter_async_context(StreamIndex(states, f"{prefix}streams", CODEC, lambda _: None))
        chunks = f"{prefix}chunks"
        await writer.prepare(chunks)
        for reader in (tail, scans):
            await reader.partitions(chunks)
        log = OutsideChunks(
            chunks,
            CODEC,
            reader=scans,
            writer=writer,
            index=index,
            segments=SegmentReader(scans, f"{prefix}segments", CODEC),
            writer_id=name,
            now_us=CLOCK.now_us,
        )
        tails = Tails(tail, lambda partition, records: writers.on_records(partition, records))  # noqa: PLW0108 - made below
        writers = Writers(
            log,
            tails,
            CODEC,
            keys=None,
            now_us=CLOCK.now_us,
            monotonic=CLOCK.monotonic,
            random=lambda: 0.5,
            timeout_s=TIMEOUT_S,
        )
        running = [asyncio.create_task(loop) for loop in (tails.run(), index.run(), writers.run())]
        stack.push_async_callback(asyncio.gather, *running, return_exceptions=True)
        for task in running:
            stack.callback(task.cancel)
        await index.caught_up.wait()
        yield End(writers, tail, scans)


@asynccontextmanager
async def two_gateways(kafka: str, prefix: str) -> AsyncIterator[tuple[End, End]]:
    """Both have the stream's first append, by producer ``p``; the first gateway holds it, and does not see what comes next."""
    await admin.apply([topic.renamed(prefix) for topic in load_catalogue()], kafka)
    async with gateway(kafka, prefix, "g1") as one, gateway(kafka, prefix, "g2") as two:
        pending = Pending(payloads=[b"0"], content_type="application/json", producer=Producer("p", 0, 0))
        await one.writers.create(STREAM, "", pending)
        one.tail.open.clear()
        yield one, two
        one.tail.open.set()


@pytest.mark.parametrize(
    ("elsewhere", "here"),
    [
        pytest.param(Producer("p", 0, 1), Producer("p", 0, 2), id="next"),
        pytest.param(Producer("p", 1, 0), Producer("p", 1, 1), id="next of a new epoch"),
        pytest.param(Producer("q", 0, 0), Producer("q", 0, 1), id="next of a producer that is unknown here"),
    ],
)
async def test_an_append_whose_predecessor_is_at_another_gateway_is_not_refused_for_its_want(
    kafka: str, topic_prefix: str, elsewhere: Producer, here: Producer
) -> None:
    async with two_gateways(kafka, topic_prefix) as (one, two):
        assert await two.append(elsewhere) == Accepted()
        one.scans.asked.clear()

        answering = asyncio.create_task(one.append(here))
        asked = asyncio.create_task(one.scans.asked.wait())
        await asyncio.wait({answering, asked}, return_when=asyncio.FIRST_COMPLETED)
        one.tail.open.set()

        assert await answering == Accepted()
        assert await two.append(here) == Duplicate(here.epoch, here.seq)


async def test_an_append_whose_predecessor_is_nowhere_is_refused(kafka: str, topic_prefix: str) -> None:
    async with two_gateways(kafka, topic_prefix) as (one, two):
        one.tail.open.set()

        assert await one.append(Producer("p", 0, 2)) == Gap(1)
        assert await two.append(Producer("p", 0, 2)) == Gap(1)
        assert await one.append(Producer("p", 1, 1)) == NewEpochNotAtZero()
        assert await one.append(Producer("p", 0, 1)) == Accepted()
