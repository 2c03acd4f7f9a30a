"""What inputs are read from: the hot log, segments, and both; what was taken back is in none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from tests.support.archive import DEADLINE_S, Rig, rig, until
from tests.support.streams import Author, append, numbered

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import GENESIS, Chunk, Kind
from apexstream.core.inputs import InputMissing
from apexstream.log.index import StreamIndex
from apexstream.log.outside import OutsideChunks
from apexstream.log.segments import SegmentReader
from apexstream.runner.inputs import Inputs

NOW_US = 1_000_000


@asynccontextmanager
async def inputs(made: Rig) -> AsyncIterator[Inputs]:
    """As a runner has them."""
    codec = Codec()
    segments = SegmentReader(made.reader, made.topic("segments"), codec)

    def log(index: StreamIndex) -> OutsideChunks:
        return OutsideChunks(
            made.topic("chunks"),
            codec,
            reader=made.reader,
            writer=made.writer,
            index=index,
            segments=segments,
            writer_id="w",
            now_us=lambda: NOW_US,
        )

    async with Inputs(lambda: StreamIndex(made.reader, made.topic("streams"), codec), log, segments, None) as reading:
        yield reading


async def write(made: Rig, stream_id: str, *values: bytes) -> None:
    await append(made.writer, made.topic("chunks"), stream_id, values)


async def filled(reading: Inputs, **params: Any) -> Any:
    return msgspec.json.decode(await reading.fill(msgspec.json.encode(params)))


def end() -> Chunk:
    return Chunk(Kind.COMPLETE, b"{}", NOW_US)


async def test_a_stream_is_the_same_input_in_the_log_in_segments_and_after_the_log_was_trimmed(
    kafka: str, topic_prefix: str
) -> None:
    async with rig(kafka, topic_prefix) as made:
        partition = made.partition_of("s")
        place = made.topic("chunks"), partition
        await write(made, "s", *Author("s").whole(numbered(2500), run_size=100))
        async with inputs(made) as reading:
            hot = await filled(reading, all={"$stream": "s"}, last={"$result": "s"})
        async with made.archive("a") as archive, made.archiving(archive, partition, trim_after_s=0.0):
            await until(archive, "s", lambda state: state.next_seq == 2501)
            async with asyncio.timeout(DEADLINE_S):
                while (await made.reader.starts([place]))[place] < 27:
                    await asyncio.sleep(0.02)
        async with inputs(made) as reading:
            sealed = await filled(reading, all={"$stream": "s"}, last={"$result": "s"})

    assert hot == sealed == {"all": [*range(2500)], "last": 2499}


async def test_what_a_rewind_took_back_is_no_input(kafka: str, topic_prefix: str) -> None:
    async with rig(kafka, topic_prefix) as made:
        first, second = Author("s"), Author("s", attempt=2)
        again = [second.claim(), second.resume(0, GENESIS), second.run(numbered(3, start=100)), second.run([end()])]
        await write(made, "s", first.claim(0), first.run(numbered(200)), *again)
        async with inputs(made) as reading:
            found = await filled(reading, all={"$stream": "s"}, last={"$result": "s"})

    assert found == {"all": [100, 101, 102], "last": 102}


async def test_the_result_of_a_long_stream_is_read_and_the_stream_is_too_much(kafka: str, topic_prefix: str) -> None:
    async with rig(kafka, topic_prefix) as made:
        progress = [Chunk(Kind.PROGRESS, b"{}", NOW_US)] * 300  # behind the last data chunk
        await write(made, "s", *Author("s").whole([*numbered(1500, pad=1000), *progress]))
        async with inputs(made) as reading:
            found = await filled(reading, last={"$result": "s"})
            with pytest.raises(InputMissing, match="over 1000000 bytes"):
                await filled(reading, all={"$stream": "s"})
            with pytest.raises(InputMissing, match="no end in the log"):
                await filled(reading, all={"$stream": "nobody"})
            kept = await filled(reading, all={"$stream": "nobody", "default": 0})

    assert found["last"]["i"] == 1499
    assert kept == {"all": 0}
