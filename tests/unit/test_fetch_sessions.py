"""What a fetch in a session names, and when it starts over."""

import pytest
from aiokafka import errors

from apexstream.log.sessions import FetchSession, SessionFetch

A, B, C = ("t", 0), ("t", 1), ("u", 0)
FETCH_V11 = {1: (4, 11)}


def begun(offsets: dict[tuple[str, int], int]) -> FetchSession:
    session = FetchSession()
    session.changes(offsets)
    session.answered(7, 0)
    return session


def test_the_first_fetch_names_everything_and_asks_for_a_session() -> None:
    session = FetchSession()
    assert session.changes({A: 1, B: 2}) == ({A: 1, B: 2}, [])
    assert (session.id, session.epoch) == (0, 0)


def test_a_later_fetch_names_only_what_moved_came_or_went() -> None:
    session = begun({A: 1, B: 2})
    assert session.changes({A: 5, C: 0}) == ({A: 5, C: 0}, [B])
    assert (session.id, session.epoch) == (7, 1)
    session.answered(7, 0)
    assert session.changes({A: 5, C: 0}) == ({}, [])
    assert session.epoch == 2


def test_a_session_that_the_broker_lost_is_begun_again() -> None:
    session = begun({A: 1})
    session.changes({A: 1})
    with pytest.raises(errors.FetchSessionIdNotFound):
        session.answered(0, 70)
    assert session.changes({A: 1}) == ({A: 1}, [])
    assert (session.id, session.epoch) == (0, 0)


def test_a_broker_without_room_for_sessions_gets_full_fetches() -> None:
    session = FetchSession()
    session.changes({A: 1})
    session.answered(0, 0)
    assert session.changes({A: 1}) == ({A: 1}, [])


def test_an_interrupted_fetch_starts_the_session_over() -> None:
    session = begun({A: 1})
    session.changes({A: 2})
    session.forget()
    assert session.changes({A: 2}) == ({A: 2}, [])


def test_the_epoch_wraps_to_one_because_zero_asks_for_a_new_session() -> None:
    session = begun({A: 1})
    session._epoch = 2**31 - 1
    session.answered(7, 0)
    assert session.epoch == 1


def test_the_request_carries_the_session_and_what_is_forgotten() -> None:
    session = begun({A: 1, B: 2})
    built = SessionFetch(session, {A: 3}, wait_ms=500, partition_bytes=10).prepare(FETCH_V11)
    assert (built.session_id, built.session_epoch) == (7, 1)
    assert built.topics == [("t", [(0, -1, 3, -1, 10)])]
    assert built.forgotten_topics_data == [("t", [1])]
    assert built.encode()


def test_a_broker_that_knows_no_sessions_is_asked_without_one() -> None:
    built = SessionFetch(FetchSession(), {A: 3}, wait_ms=500, partition_bytes=10).prepare({1: (0, 4)})
    assert built.topics == [("t", [(0, 3, 10)])]
