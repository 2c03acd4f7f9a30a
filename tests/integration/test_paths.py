"""Paths of the Durable Streams protocol on a real broker: what two gateways know of one, and which of two changes counts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest_asyncio

from apexstream.contracts.catalogue import load_catalogue
from apexstream.contracts.codec import Codec
from apexstream.core.events import PathState, PathStatus
from apexstream.log import admin
from apexstream.log.fetcher import LogReader
from apexstream.log.paths import SLACK, PathIndex, Paths, deadline_us
from apexstream.log.writer import Writer

CODEC = Codec()


def state(path: str = ":a", **more: object) -> PathState:
    fresh = PathState(
        path=path, version=0, change_id="", status=PathStatus.LIVE, stream_id="ds-1", content_type="text/plain", ttl_s=-1,
        expires_at="", expires_us=0, created_us=1, accessed_us=1, changed_us=1,
    )  # fmt: skip
    return msgspec.structs.replace(fresh, **more)


@asynccontextmanager
async def gateway(kafka: str, prefix: str, name: str) -> AsyncIterator[Paths]:
    """What one gateway has of the paths."""
    async with AsyncExitStack() as stack:
        reader = await stack.enter_async_context(LogReader(kafka, client_id=name))
        asks = await stack.enter_async_context(LogReader(kafka, client_id=f"{name}-asks"))
        writer = await stack.enter_async_context(Writer(kafka, client_id=name))
        topic = f"{prefix}paths"
        await writer.prepare(topic)
        index = await stack.enter_async_context(PathIndex(reader, asks, topic, CODEC))
        following = asyncio.create_task(index.run())
        stack.push_async_callback(asyncio.gather, following, return_exceptions=True)
        stack.callback(following.cancel)
        await index.caught_up.wait()
        count = iter(range(10_000))
        yield Paths(index, CODEC, lambda key, value: writer.append(topic, key, value), lambda: f"{name}-{next(count)}")


@pytest_asyncio.fixture
async def prefix(kafka: str, topic_prefix: str) -> str:
    await admin.apply([t.renamed(topic_prefix) for t in load_catalogue() if t.name == "apex.paths"], kafka)
    return topic_prefix


async def test_of_two_creations_at_once_one_counts_for_both_gateways(kafka: str, prefix: str) -> None:
    async with gateway(kafka, prefix, "g1") as one, gateway(kafka, prefix, "g2") as two:
        for number in range(20):
            path = f":{number}"
            made = await asyncio.gather(
                one.change(path, lambda held: None if held else state(stream_id="ds-one")),
                two.change(path, lambda held: None if held else state(stream_id="ds-two")),
            )
            assert made[0] == made[1] == one.index.get(path) == two.index.get(path)


async def test_changes_of_many_gateways_are_made_one_after_the_other(kafka: str, prefix: str) -> None:
    async with gateway(kafka, prefix, "g1") as one, gateway(kafka, prefix, "g2") as two:

        async def count(paths: Paths) -> None:
            for _ in range(10):
                await paths.change(
                    ":n",
                    lambda held: (
                        state(fork_seq=1) if held is None else msgspec.structs.replace(held, fork_seq=held.fork_seq + 1)
                    ),
                )

        await asyncio.gather(count(one), count(two))
        await one.index.refresh()

        counted = one.index.get(":n")
        assert counted is not None
        assert counted.fork_seq == 20


async def test_a_record_that_lost_does_not_stay_the_last_of_its_key(kafka: str, prefix: str) -> None:
    async with gateway(kafka, prefix, "g1") as one:
        winner = await one.change(":a", lambda _: state(stream_id="ds-one"))
        assert winner is not None
        await one._put(msgspec.structs.replace(winner, stream_id="ds-loser", change_id="loser"))  # and its author dies
        assert one.index.outranked
        repairing = asyncio.create_task(one.repair())
        async with asyncio.timeout(20):
            while one.index.outranked:
                await asyncio.sleep(0.05)
        repairing.cancel()
        await asyncio.gather(repairing, return_exceptions=True)

        last = await _last_record(kafka, prefix, b":a")
    assert last.stream_id == "ds-one"
    assert last.version > winner.version


async def test_a_gateway_that_starts_late_knows_what_the_others_know(kafka: str, prefix: str) -> None:
    async with gateway(kafka, prefix, "g1") as one:
        await one.change(":parent", lambda _: state(stream_id="ds-p"))
        await one.change(":fork", lambda _: state(stream_id="ds-f", parent_stream_id="ds-p", parent_path=":parent"))
        await one.change(":old", lambda _: state(stream_id="ds-o", ttl_s=1, accessed_us=5))
        await one.change(":gone", lambda _: state(stream_id="ds-g", status=PathStatus.GONE))
        await one.change(":no", lambda _: state(stream_id="ds-n"))
        await one.forget(":no")

    async with gateway(kafka, prefix, "g2") as two:
        index = two.index
        assert index.has_forks("ds-p")
        assert not index.has_forks("ds-f")
        assert [found.path for found in index.expired(2**50, 10)] == [":old"]
        assert [found.path for found in index.gone(10)] == [":gone"]
        assert index.get(":no") is None
        assert index.of_stream("ds-f") == index.get(":fork")


async def test_refreshing_sees_what_another_gateway_was_acknowledged(kafka: str, prefix: str) -> None:
    async with gateway(kafka, prefix, "g1") as one, gateway(kafka, prefix, "g2") as two:
        for number in range(20):
            await one.change(f":{number}", lambda _: state())
            await two.index.refresh()
            assert two.index.get(f":{number}") is not None


def test_a_path_lives_as_long_as_its_ttl_says_and_a_little_longer() -> None:
    assert deadline_us(state()) == 0
    assert deadline_us(state(expires_us=7)) == 7
    assert deadline_us(state(ttl_s=SLACK, accessed_us=1_000_000)) == 1_000_000 + (SLACK + 1) * 1_000_000
    assert deadline_us(state(ttl_s=10, expires_us=9)) == 9
    assert deadline_us(state(expires_us=7, status=PathStatus.GONE)) == 0


async def _last_record(kafka: str, prefix: str, key: bytes) -> PathState:
    place = (f"{prefix}paths", 0)
    last = b""
    async with LogReader(kafka, client_id="auditor") as reader:
        await reader.partitions(place[0])
        async for records, _ in reader.scan(place, 0, (await reader.ends([place]))[place]):
            last = next((record.value or b"" for record in reversed(records) if record.key == key), last)
    return CODEC.decode(last, PathState)
