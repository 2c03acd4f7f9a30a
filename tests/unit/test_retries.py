"""Whether and when a failed attempt is followed by another one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexstream.core.options import DEFAULT_MAX_ATTEMPTS, ErrorClass, TaskOptions
from apexstream.runner.retries import ATTEMPTS_MAX, Again, GiveUp, RetryBudget, after_failure


def tries(error_class: ErrorClass, **options: int) -> int:
    """How many attempts are made in all when every one fails."""
    failures, asked = 1, TaskOptions(**options)
    while isinstance(after_failure(asked, error_class, failures=failures, attempt=failures, chance=0.5), Again):
        failures += 1
    return failures


@pytest.mark.parametrize(
    ("error_class", "expected"),
    [
        (ErrorClass.PERMANENT, 1),
        (ErrorClass.PLUGIN_BUG, 2),
        (ErrorClass.TRANSIENT, DEFAULT_MAX_ATTEMPTS),
        (ErrorClass.RATE_LIMITED, DEFAULT_MAX_ATTEMPTS),
        (ErrorClass.RESOURCE, DEFAULT_MAX_ATTEMPTS),
    ],
)
def test_each_class_is_tried_as_often_as_makes_sense(error_class: ErrorClass, expected: int):
    assert tries(error_class) == expected


def test_a_task_may_allow_fewer_or_more_attempts_but_never_more_than_its_class():
    assert tries(ErrorClass.TRANSIENT, max_attempts=9) == 9
    assert tries(ErrorClass.TRANSIENT, max_attempts=1) == 1
    assert tries(ErrorClass.PERMANENT, max_attempts=9) == 1


@given(st.integers(1, 60), st.floats(0, 1), st.floats(0.01, 10), st.floats(0.01, 1000))
def test_delays_grow_within_their_bound_and_are_spread(failures: int, chance: float, backoff: float, longest: float):
    options = TaskOptions(max_attempts=100, backoff_s=backoff, backoff_max_s=longest)
    decision = after_failure(options, ErrorClass.TRANSIENT, failures=failures, attempt=failures, chance=chance)
    full = min(longest, backoff * 2.0 ** min(failures - 1, 30))
    assert isinstance(decision, Again)
    assert full / 2 <= decision.delay_s <= full


def test_patience_that_was_asked_for_is_given():
    decision = after_failure(
        TaskOptions(), ErrorClass.RATE_LIMITED, failures=1, attempt=1, chance=0.0, retry_after_s=42.0
    )
    assert decision == Again(42.0)


def test_a_task_that_kills_its_runner_every_time_ends_in_the_end():
    decision = after_failure(TaskOptions(), ErrorClass.RESOURCE, failures=1, attempt=ATTEMPTS_MAX, chance=0.0)
    assert isinstance(decision, GiveUp)


def test_the_budget_lets_a_few_retries_through_and_then_a_share_of_what_starts():
    budget = RetryBudget(share=0.5, tokens_max=2)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    budget.started()
    assert not budget.spend()
    budget.started()
    assert budget.spend()
