"""Runs of chunks: one in flight a stream, bounded, in order, and over at the first unknown outcome."""

import asyncio

import pytest

from apexstream.core.chunk import GENESIS, RUN_BYTES_MAX, RUN_CHUNKS_MAX, Chunk, Kind
from apexstream.core.errors import OutcomeUnknown
from apexstream.runner.appender import PENDING_BYTES_MAX, StreamAppender


class Log:
    """Takes runs and acknowledges them when told."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, tuple[Chunk, ...], bytes]] = []

    def encode(self, first_seq, chunks, checkpoint, previous_hash):
        self.runs.append((first_seq, chunks, previous_hash))
        return b"value", bytes([len(self.runs) % 256])

    def appender(self) -> StreamAppender:
        return StreamAppender(self, lambda value, appender: None, next_seq=0, previous_hash=GENESIS)


def chunk(size: int = 1, kind: Kind = Kind.DATA) -> Chunk:
    return Chunk(kind, b"x" * size, 0)


def test_a_lone_chunk_leaves_at_once_and_what_follows_shares_the_next_run():
    log = Log()
    appender = log.appender()
    for _ in range(5):
        appender.put(chunk())
    assert [len(chunks) for _, chunks, _ in log.runs] == [1]
    appender.appended(0)
    assert [(first, len(chunks), previous) for first, chunks, previous in log.runs] == [
        (0, 1, GENESIS),
        (1, 4, b"\x01"),
    ]


@pytest.mark.parametrize("size", [1, RUN_BYTES_MAX // 3, RUN_BYTES_MAX * 2])
def test_a_run_is_bounded_in_chunks_and_bytes_and_a_large_chunk_travels_alone(size: int):
    log = Log()
    appender = log.appender()
    for _ in range(1000):
        appender.put(chunk(size))
    while sum(len(chunks) for _, chunks, _ in log.runs) < 1000:
        appender.appended(0)
    for _, chunks, _ in log.runs:
        assert len(chunks) <= RUN_CHUNKS_MAX
        assert len(chunks) == 1 or sum(len(c.payload) for c in chunks) <= RUN_BYTES_MAX
    assert [first for first, _, _ in log.runs] == [
        sum(len(c) for _, c, _ in log.runs[:i]) for i in range(len(log.runs))
    ]


async def test_the_action_waits_while_too_much_is_pending():
    appender = Log().appender()
    appender.put(chunk())
    while appender.has_room:
        appender.put(chunk(PENDING_BYTES_MAX // 8))
    waiting = asyncio.create_task(appender.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    appender.appended(0)
    await asyncio.wait_for(waiting, 5)


async def test_flush_returns_when_everything_is_acknowledged():
    appender = Log().appender()
    appender.put(chunk())
    appender.put(chunk())
    flushing = asyncio.create_task(appender.flush())
    await asyncio.sleep(0)
    appender.appended(0)
    await asyncio.sleep(0)
    assert not flushing.done()
    appender.appended(1)
    await asyncio.wait_for(flushing, 5)


async def test_an_unknown_outcome_ends_everything():
    appender = Log().appender()
    appender.put(chunk())
    appender.put(chunk())
    flushing = asyncio.create_task(appender.flush())
    await asyncio.sleep(0)
    appender.failed(OutcomeUnknown("lost"))
    with pytest.raises(OutcomeUnknown):
        await flushing
    with pytest.raises(OutcomeUnknown):
        appender.put(chunk())


def test_progress_that_waits_is_replaced_by_newer_progress_and_by_nothing_else():
    log = Log()
    appender = log.appender()
    appender.put(chunk())
    for size in (1, 2, 3):
        appender.put_progress(chunk(size, Kind.PROGRESS))
    appender.put(chunk())
    appender.put_progress(chunk(4, Kind.PROGRESS))
    appender.appended(0)
    first, chunks, _ = log.runs[1]
    assert (first, [len(c.payload) for c in chunks]) == (1, [3, 1, 4])
    assert appender.next_seq == 4
