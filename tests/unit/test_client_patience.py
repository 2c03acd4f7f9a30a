"""When a follower connects again and when it gives up; where it stands in its stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexstream.client import Complete, Frame, ReconnectPolicy, Rewind, Update
from apexstream.client.address import parse_address
from apexstream.client.patience import Patience, retry_after_s
from apexstream.client.position import Position, Step
from apexstream.core.errors import InvalidRequest, Unavailable

POLICY = ReconnectPolicy(base_s=0.1, cap_s=5, offline_max_s=60, stable_s=5)


def lose(patience: Patience, now: float, connected_at: float | None = None) -> float:
    return patience.lost(now, connected_at=connected_at, reason="refused", where="ws://gateway/stream")


def test_waits_double_up_to_the_cap() -> None:
    patience = Patience(POLICY, draw=lambda: 1.0)

    waits = [lose(patience, now=0) for _ in range(9)]

    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5])


def test_jitter_is_full_so_a_wait_may_be_anything_down_to_zero() -> None:
    assert lose(Patience(POLICY, draw=lambda: 0.0), now=0) == 0


def test_gives_up_when_the_time_without_connection_is_used_up() -> None:
    patience = Patience(POLICY, draw=lambda: 1.0)
    lose(patience, now=100)
    lose(patience, now=159.9)

    with pytest.raises(Unavailable, match="no connection for 60 s"):
        lose(patience, now=160)


def test_the_last_wait_does_not_go_beyond_the_bound() -> None:
    patience = Patience(POLICY, draw=lambda: 1.0, failures=20, offline_since=0)

    assert lose(patience, now=59.5) == pytest.approx(0.5)


def test_a_frame_forgives_all_failures() -> None:
    patience = Patience(POLICY, draw=lambda: 1.0)
    for now in range(50):
        lose(patience, now=now)

    patience.worked()

    assert lose(patience, now=1000) == pytest.approx(0.1)


def test_a_quiet_connection_that_lasted_counts_as_one_that_worked() -> None:
    patience = Patience(POLICY, draw=lambda: 1.0, failures=9, offline_since=0)

    assert lose(patience, now=3600, connected_at=3590) == pytest.approx(0.1)


def test_a_gateway_that_hangs_up_at_once_is_not_asked_ever_faster() -> None:
    patience = Patience(POLICY, draw=lambda: 1.0)

    waits = [lose(patience, now=now, connected_at=now - 0.01) for now in range(8)]

    assert waits == sorted(waits)
    assert waits[-1] == POLICY.cap_s


def update(seq: int) -> Update:
    return Update(stream_id="s", seq=seq, data=seq)


def test_a_frame_that_was_delivered_before_is_dropped() -> None:
    position = Position(5)

    assert position.take(update(4)) is Step.DROP
    assert position.take(update(5)) is Step.DELIVER
    assert position.next_seq == 6


def test_a_frame_after_a_missing_one_is_a_gap_and_moves_nothing() -> None:
    position = Position(5)

    assert position.take(Complete(stream_id="s", seq=6)) is Step.GAP
    assert position.next_seq == 5


def test_a_rewind_is_delivered_only_if_it_touches_what_was_delivered() -> None:
    position = Position(5)

    assert position.take(Rewind(stream_id="s", seq=5)) is Step.DROP
    assert position.take(Rewind(stream_id="s", seq=2)) is Step.DELIVER
    assert position.take(update(2)) is Step.DELIVER


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12))))
def test_what_is_delivered_is_always_dense(arrivals: list[tuple[bool, int]]) -> None:
    position, held = Position(), []
    for rewinds, seq in arrivals:
        frame: Frame = Rewind(stream_id="s", seq=seq) if rewinds else update(seq)
        if position.take(frame) is not Step.DELIVER:
            continue
        if rewinds:
            del held[seq:]
        else:
            held.append(seq)

    assert held == list(range(position.next_seq))


@pytest.mark.parametrize(
    ("url", "websocket", "loopback"),
    [
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/stream", True),
        ("http://localhost:1/", "ws://localhost:1/stream", True),
        ("http://[::1]:9", "ws://[::1]:9/stream", True),
        ("https://apex.example/base/", "wss://apex.example/base/stream", False),
    ],
)
def test_the_socket_address_follows_from_the_http_one(url: str, websocket: str, loopback: bool) -> None:
    address = parse_address(url)

    assert address.websocket == websocket
    assert address.loopback is loopback


@pytest.mark.parametrize(
    "url", ["", "gateway:8080", "ftp://x", "http://", "http://x:port", "http://x?y=1", "http://[::"]
)
def test_what_is_not_an_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_address(url)


def test_a_pause_that_was_asked_for_comes_before_the_jitter() -> None:
    patience = Patience(POLICY, draw=lambda: 1.0)

    wait = patience.lost(0, connected_at=None, reason="refused", where="", least_s=2.0)

    assert wait == pytest.approx(2.1)


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [
        ("2", 2),
        ("0.5", 0.5),
        ("Thu, 01 Jan 2026 00:00:03 GMT", 3),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0),
        ("-1", 0),
        ("soon", None),
        ("inf", None),
        ("", None),
        (None, None),
    ],
)
def test_a_pause_is_read_from_seconds_and_from_a_date(header: str | None, pause_s: float | None) -> None:
    assert retry_after_s(header, 1_767_225_600_000_000) == pause_s
