"""The watchdog of the agent: it barks at work that nobody takes, and at nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexstream.processors.watchdog import RECOVERY_STALL_S, STALL_S, Watchdog


def owning(*partitions: int, ends: dict[int, int] | None = None) -> Watchdog:
    watchdog = Watchdog()
    watchdog.own(frozenset(partitions), 0.0)
    watchdog.look(ends or dict.fromkeys(partitions, 10), 0.0)
    return watchdog


def test_work_that_is_not_taken_for_so_long_is_a_stall_and_readiness_says_so():
    watchdog = owning(3)
    assert not watchdog.look({3: 11}, 1.0)
    assert not watchdog.look({3: 15}, STALL_S)
    assert watchdog.trouble == ""
    assert watchdog.look({3: 15}, STALL_S + 1)
    assert "partition 3" in watchdog.trouble


def test_what_was_there_before_is_no_work_of_ours():
    watchdog = owning(3)
    assert not any(watchdog.look({3: 10}, now) for now in (1.0, STALL_S, 10 * STALL_S))


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0.1, STALL_S * 0.9)), max_size=50))
def test_an_agent_that_takes_something_in_time_is_never_disturbed(steps: list[tuple[int, float]]):
    watchdog, now, end = owning(0), 0.0, 10
    for count, passed in steps:
        end += count
        assert not watchdog.look({0: end}, now)
        now += passed
        watchdog.took(0, end - count)  # one of them
        assert not watchdog.look({0: end}, now)
        assert watchdog.trouble == ""
        watchdog.took(0, end - 1)


def test_one_partition_that_stands_still_is_enough():
    watchdog = owning(0, 1)
    for second in range(int(STALL_S) + 2):
        stalled = watchdog.look({0: 20 + second, 1: 11}, float(second))
        watchdog.took(0, 19 + second)
    assert stalled
    assert watchdog.restarts == 0


def test_a_rebalance_begins_anew_and_one_that_never_ends_is_a_stall():
    watchdog = owning(0)
    watchdog.look({0: 11}, 1.0)
    watchdog.own(None, 2.0)
    assert not watchdog.look({}, 2 + STALL_S * 2)
    watchdog.own(frozenset({0}), 100.0)
    assert not watchdog.look({0: 11}, 100.0)
    watchdog.own(None, 200.0)
    assert watchdog.look({}, 200 + RECOVERY_STALL_S)
    assert "no row was recovered" in watchdog.trouble


def test_a_recovery_that_goes_on_is_no_stall_however_long_it_takes():
    watchdog = Watchdog()
    watchdog.own(None, 0.0)
    for step in range(1, 10):
        now = step * (RECOVERY_STALL_S - 1)
        watchdog.recovered(step * 1000, now)
        assert not watchdog.look({}, now)
    watchdog.recovered(9000, now + RECOVERY_STALL_S)
    assert watchdog.look({}, now + RECOVERY_STALL_S)


@pytest.mark.parametrize("taken", [True, False])
def test_trouble_is_over_when_something_is_taken_or_there_is_nothing_to_take(taken: bool):
    watchdog = owning(0)
    watchdog.look({0: 11}, 0.0)
    assert watchdog.look({0: 11}, STALL_S)
    if taken:
        watchdog.took(0, 10)
    else:
        watchdog.own(frozenset({0}), 50.0)
        watchdog.look({0: 11}, 50.0)
    assert watchdog.trouble == ""
