"""Runs of chunks: a few full ones in flight a stream, bounded, in order, and over at the first unknown outcome."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexstream.core.chunk import GENESIS, RUN_BYTES_MAX, RUN_CHUNKS_MAX, Chunk, Kind
from apexstream.core.errors import OutcomeUnknown
from apexstream.runner.appender import RUNS_IN_FLIGHT_MAX, StreamAppender
from apexstream.runner.buffer import CHUNK_OVERHEAD_BYTES, Buffer


class Log:
    """Takes runs and acknowledges them when told."""

    def __init__(self) -> None:
        self.runs: list[tuple[int, tuple[Chunk, ...], bytes | None, bytes]] = []
        self.taken_bytes = self.taken_chunks = 0
        self.held: list[bool] = []
        self.buffer = Buffer(10_000, self.held.append)

    def encode(self, first_seq, chunks, checkpoint, previous_hash):
        self.runs.append((first_seq, tuple(chunks), checkpoint, previous_hash))
        return b"value", bytes([len(self.runs) % 256])

    def took(self, size_bytes: int, chunks: int) -> None:
        self.taken_bytes += size_bytes
        self.taken_chunks += chunks

    def appender(self) -> StreamAppender:
        return StreamAppender(
            self,
            lambda value, appender: None,
            next_seq=0,
            previous_hash=GENESIS,
            buffer=self.buffer,
            on_taken=self.took,
        )


def chunks(count: int = 1, size: int = 1) -> list[Chunk]:
    return [Chunk(Kind.DATA, b"x" * size, 0)] * count


def test_a_lone_chunk_leaves_at_once_and_what_follows_shares_the_next_run():
    log = Log()
    appender = log.appender()
    for _ in range(5):
        appender.put(chunks())
    assert [len(run) for _, run, _, _ in log.runs] == [1]
    appender.appended(0)
    assert [(first, len(run), previous) for first, run, _, previous in log.runs] == [(0, 1, GENESIS), (1, 4, b"\x01")]


def test_what_fills_a_run_does_not_wait_for_the_run_before_it_and_the_rest_does():
    log = Log()
    appender = log.appender()
    appender.put(chunks(2 * RUN_CHUNKS_MAX + 5))
    assert [(first, len(run)) for first, run, _, _ in log.runs] == [
        (0, RUN_CHUNKS_MAX),
        (RUN_CHUNKS_MAX, RUN_CHUNKS_MAX),
    ]
    appender.appended(0)
    assert len(log.runs) == 2
    appender.appended(1)
    assert [(first, len(run)) for first, run, _, _ in log.runs[2:]] == [(2 * RUN_CHUNKS_MAX, 5)]


def test_full_runs_in_flight_are_bounded():
    log = Log()
    appender = log.appender()
    appender.put(chunks(10 * RUN_CHUNKS_MAX))
    assert len(log.runs) == RUNS_IN_FLIGHT_MAX
    for landed in range(1, 7):
        appender.appended(landed)
        assert len(log.runs) == RUNS_IN_FLIGHT_MAX + landed
    assert [previous for _, _, _, previous in log.runs] == [GENESIS, *(bytes([run]) for run in range(1, 10))]


@pytest.mark.parametrize("size", [1, RUN_BYTES_MAX // 3, RUN_BYTES_MAX * 2])
def test_a_run_is_bounded_in_chunks_and_bytes_and_a_large_chunk_travels_alone(size: int):
    log = Log()
    appender = log.appender()
    appender.put(chunks(1000, size))
    while sum(len(run) for _, run, _, _ in log.runs) < 1000:
        appender.appended(0)
    for _, run, _, _ in log.runs:
        assert len(run) <= RUN_CHUNKS_MAX
        assert len(run) == 1 or sum(len(chunk.payload) for chunk in run) <= RUN_BYTES_MAX
    assert [first for first, _, _, _ in log.runs] == [
        sum(len(r[1]) for r in log.runs[:i]) for i in range(len(log.runs))
    ]


@given(st.lists(st.tuples(st.integers(1, 80), st.integers(1, 3000), st.booleans()), min_size=1, max_size=60))
def test_a_checkpoint_is_always_the_state_after_its_runs_last_chunk(puts):
    """Whatever is put, and however it is cut into runs: resuming from any record's checkpoint neither skips nor repeats."""
    log = Log()
    appender = log.appender()
    seq, states = 0, {}
    for count, size, checkpointed in puts:
        seq += count
        state = str(seq).encode() if checkpointed else None
        if state:
            states[seq] = state
        appender.put(chunks(count, size), state)
    while sum(len(run) for _, run, _, _ in log.runs) < seq:
        appender.appended(0)
    for first, run, checkpoint, _ in log.runs:
        end = first + len(run)
        assert checkpoint == states.get(end) or (checkpoint is None and end not in states)
    last_ends = [first + len(run) for first, run, checkpoint, _ in log.runs if checkpoint is not None]
    assert last_ends[-1:] == [max(states)] if states else not last_ends


async def test_credit_comes_back_as_bytes_reach_the_log():
    log = Log()
    appender = log.appender()
    appender.put(chunks(3, 10))
    assert log.taken_bytes == 0
    appender.appended(0)
    assert (log.taken_bytes, log.taken_chunks) == (30, 3)


async def test_flush_returns_when_everything_is_acknowledged():
    appender = Log().appender()
    appender.put(chunks())
    appender.put(chunks())
    flushing = asyncio.create_task(appender.flush())
    await asyncio.sleep(0)
    appender.appended(0)
    await asyncio.sleep(0)
    assert not flushing.done()
    appender.appended(1)
    await asyncio.wait_for(flushing, 5)


async def test_an_unknown_outcome_ends_everything():
    appender = Log().appender()
    appender.put(chunks())
    appender.put(chunks())
    flushing = asyncio.create_task(appender.flush())
    await asyncio.sleep(0)
    appender.failed(OutcomeUnknown("lost"))
    with pytest.raises(OutcomeUnknown):
        await flushing
    with pytest.raises(OutcomeUnknown):
        appender.put(chunks())


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 900), st.integers(0, 50)), min_size=1, max_size=40))
def test_the_buffer_counts_exactly_what_the_log_does_not_have_yet(puts):
    log = Log()
    appender = log.appender()
    put_bytes = sum(n * (size + CHUNK_OVERHEAD_BYTES) + state for n, size, state in puts)
    for count, size, state in puts:
        appender.put(chunks(count, size), b"s" * state if state else None)
    assert log.buffer.held_bytes == put_bytes
    landed = 0
    while landed < len(log.runs):
        assert log.buffer.held_bytes > 0
        appender.appended(landed)
        landed += 1
    assert sum(len(run) for _, run, _, _ in log.runs) == appender.next_seq
    assert log.buffer.held_bytes == 0


async def test_what_a_lost_attempt_held_is_free_again():
    log = Log()
    lost, other = log.appender(), log.appender()
    lost.put(chunks(100, 100), b"state")
    other.put(chunks())
    lost.failed(OutcomeUnknown("lost"))
    lost.failed(OutcomeUnknown("lost"))
    lost.appended(0)  # too late
    assert log.buffer.held_bytes == 1 + CHUNK_OVERHEAD_BYTES


def test_actions_are_held_when_the_buffer_is_full_over_all_streams_and_go_on_at_half_of_it():
    log = Log()
    appenders = [log.appender() for _ in range(10)]
    for appender in appenders[:9]:
        appender.put(chunks(1, 1000))
    assert log.held == [True]
    for appender in appenders[:4]:
        appender.appended(0)
    assert log.held == [True]
    appenders[4].appended(0)
    assert log.held == [True, False]
