"""What an append does to a stream that is written from outside."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexstream.core.chunk import CHECKPOINT_BYTES_MAX
from apexstream.core.errors import ChunkDecodeError
from apexstream.gateway.durable.producers import (
    PRODUCERS_MAX,
    Accepted,
    Closed,
    Duplicate,
    Gap,
    NewEpochNotAtZero,
    OldStreamSeq,
    OutsideState,
    Producer,
    Stale,
    read_end,
    read_state,
    write_end,
    write_state,
)
from apexstream.gateway.durable.requests import PRODUCER_ID_CHARACTERS_MAX


def after(*producers: Producer) -> OutsideState:
    state = OutsideState()
    for producer in producers:
        assert isinstance(state.decide(producer, None), Accepted)
        state = state.after(producer, None, closes=False)
    return state


@pytest.mark.parametrize(
    ("producer", "decision"),
    [
        (Producer("a", 1, 2), Accepted()),
        (Producer("a", 1, 1), Duplicate(1, 1)),
        (Producer("a", 1, 0), Duplicate(1, 1)),
        (Producer("a", 1, 3), Gap(2)),
        (Producer("a", 0, 9), Stale(1)),
        (Producer("a", 2, 0), Accepted()),
        (Producer("a", 2, 1), NewEpochNotAtZero()),
        (Producer("b", 7, 0), Accepted()),
        (Producer("b", 0, 1), Gap(0)),
    ],
)
def test_sequence_numbers_of_a_producer_decide(producer: Producer, decision: object) -> None:
    state = after(Producer("a", 1, 0), Producer("a", 1, 1))

    assert state.decide(producer, None) == decision


def test_stream_seq_is_compared_byte_by_byte() -> None:
    state = OutsideState().after(None, "2", closes=False)

    assert state.decide(None, "10") == OldStreamSeq("2")
    assert state.decide(None, "2") == OldStreamSeq("2")
    assert state.decide(None, "20") == Accepted()
    assert state.after(None, None, closes=False).stream_seq == "2"


def test_only_the_append_that_closed_a_stream_may_come_again() -> None:
    closing = Producer("a", 1, 1)
    state = after(Producer("a", 1, 0)).after(closing, None, closes=True)

    assert state.decide(closing, None) == Duplicate(1, 1)
    assert state.decide(Producer("a", 1, 0), None) == Closed()
    assert state.decide(Producer("a", 0, 0), None) == Stale(1)
    assert state.decide(None, None) == Closed()


def test_a_sealed_end_still_knows_who_closed_the_stream() -> None:
    closing = Producer("secret-name", 3, 4)
    payload = write_end(OutsideState().after(closing, None, closes=True))

    assert read_end(payload).decide(closing, None) == Duplicate(3, 4)
    assert read_end(payload).decide(Producer("secret-name", 3, 5), None) == Closed()
    assert b"secret" not in payload
    assert read_end(b"{}").decide(None, None) == read_end(b"not json").decide(closing, None) == Closed()


def test_an_interrupted_append_goes_on_behind_what_is_there() -> None:
    producer = Producer("a", 0, 0)

    state = OutsideState().after_part(producer, 200)

    assert state.decide(producer, None) == Accepted(skip=200)
    assert state.decide(Producer("b", 0, 0), None) == Accepted()
    assert state.after(producer, None, closes=False).partial is None


def test_more_producers_than_are_remembered_cost_the_oldest_and_the_state_fits_a_checkpoint() -> None:
    name = "é" * PRODUCER_ID_CHARACTERS_MAX
    producers = [
        Producer(f"{number}{name}"[:PRODUCER_ID_CHARACTERS_MAX], 2**53 - 1, 0) for number in range(PRODUCERS_MAX + 1)
    ]

    state = after(*producers)

    assert len(state.producers) == PRODUCERS_MAX
    assert state.decide(producers[0], None) == Accepted()
    assert state.decide(producers[1], None) == Duplicate(2**53 - 1, 0)
    assert len(write_state(state)) < CHECKPOINT_BYTES_MAX


def test_a_checkpoint_of_something_else_is_refused() -> None:
    with pytest.raises(ChunkDecodeError, match="written from outside"):
        read_state(b'{"producers": 3}')


_producers = st.builds(Producer, st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 4))


@given(st.lists(st.tuples(_producers, st.booleans()), max_size=60))
def test_every_append_counts_once_whatever_is_sent_again(sends: list[tuple[Producer, bool]]) -> None:
    """``True``: a gateway dies before it answers, and another one reads the state from the log."""
    state, taken = OutsideState(), []
    for producer, dies in sends:
        if isinstance(state.decide(producer, None), Accepted):
            taken.append(producer)
            state = state.after(producer, None, closes=False)
        if dies:
            state = read_state(write_state(state))
            assert not isinstance(state.decide(producer, None), Accepted) or producer not in taken

    assert len(taken) == len(set(taken))
    for name in "ab":
        mine = [(producer.epoch, producer.seq) for producer in taken if producer.name == name]
        assert mine == sorted(mine)
        assert all(after in {(before[0], before[1] + 1), (after[0], 0)} for before, after in pairwise(mine))
