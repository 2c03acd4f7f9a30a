"""What a failure costs, by the policy that catches it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.plugin import operators as op
from apexstream.plugin.operators import MISSING, SKIP, STOP, Failure, stream

POISON = st.lists(st.integers(0, 9), max_size=15)


def inverse(x: int) -> float:
    return 1 / (x % 3)


async def inverse_later(x: int) -> float:
    return inverse(x)


@pytest.mark.parametrize("how", [{}, {"concurrency": 3}])
@settings(max_examples=50, deadline=None)
@given(POISON)
async def test_skipping_leaves_out_exactly_the_elements_whose_function_failed(how: Any, xs: list[int]) -> None:
    fine = [x for x in xs if x % 3]

    assert await stream(xs).map(inverse_later, **how).catch(op.skip_failed).to_list() == [inverse(x) for x in fine]
    assert await stream(xs).filter(inverse_later, **how).catch(op.skip_failed).to_list() == fine
    assert await stream(xs).flat_map(lambda x: [inverse(x)] * 2, **how).catch(op.skip_failed).to_list() == [
        y for x in fine for y in [inverse(x)] * 2
    ]
    assert await stream(xs).tap(inverse).catch(op.skip_failed).to_list() == fine


@pytest.mark.parametrize("how", [{}, {"concurrency": 3}])
@settings(max_examples=50, deadline=None)
@given(POISON)
async def test_replacing_puts_the_value_in_the_elements_place(how: Any, xs: list[int]) -> None:
    def expected(kept: Any) -> list[Any]:
        return [kept(x) if x % 3 else "bad" for x in xs]

    bad = op.replace("bad")

    assert await stream(xs).map(inverse_later, **how).catch(bad).to_list() == expected(inverse)
    assert await stream(xs).filter(inverse_later, **how).catch(bad).to_list() == expected(lambda x: x)
    assert await stream(xs).flat_map(lambda x: [inverse(x)], **how).catch(bad).to_list() == expected(inverse)
    assert await stream(xs).tap(inverse).catch(bad).to_list() == expected(lambda x: x)


@pytest.mark.parametrize("how", [{}, {"concurrency": 3}])
async def test_stopping_ends_before_the_element_that_failed(how: Any) -> None:
    assert await stream([1, 2, 3, 4]).map(inverse_later, **how).catch(op.stop).to_list() == [1, 0.5]
    assert await stream([1, 2, 3, 4]).filter(inverse_later, **how).catch(op.stop).to_list() == [1, 2]
    assert await stream([1, 2, 3, 4]).flat_map(lambda x: [inverse(x)], **how).catch(op.stop).to_list() == [1, 0.5]


async def test_dead_letters_are_handed_over_with_their_error() -> None:
    letters: list[Failure] = []

    got = await stream([1, 3, 2]).map(inverse).catch(op.dead_letter(letters.append)).to_list()

    assert got == [1, 0.5]
    assert [(type(letter.problem), letter.element) for letter in letters] == [(ZeroDivisionError, 3)]


async def test_a_failed_dead_letter_fails_the_stream_once() -> None:
    calls: list[Any] = []

    async def sink(failure: Failure) -> None:
        calls.append(failure)
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        await stream([3]).map(inverse).catch(op.dead_letter(sink)).to_list()
    assert len(calls) == 1


async def test_state_is_kept_when_an_element_is_skipped() -> None:
    summed = stream([1, 2, "x", 3]).scan(lambda total, x: total + x, 0).catch(op.skip_failed)
    assert await summed.to_list() == [0, 1, 3, 6]

    taken = stream(["1", "x", "2", "3"]).map(int).take(2).catch(op.skip_failed)
    assert await taken.to_list() == [1, 2]


async def test_catch_covers_everything_back_to_the_catch_before() -> None:
    inner, outer = list[Any](), list[Any]()

    chain = (
        stream(["1", "x", "3"])
        .map(int)
        .catch(op.dead_letter(inner.append))
        .map(inverse)
        .filter(bool)
        .catch(op.dead_letter(outer.append))
    )

    assert await chain.to_list() == [1]
    assert [failure.element for failure in inner] == ["x"]
    assert [failure.element for failure in outer] == [3]


async def test_catch_reaches_through_compositions() -> None:
    merged = op.merge(op.map([1, 3, 2], inverse), op.map([3, 1], inverse))

    assert sorted(await stream(merged).catch(op.skip_failed).to_list()) == [0.5, 1, 1]


async def test_only_the_kinds_that_are_named_are_caught_and_a_catch_further_on_gets_the_others() -> None:
    with pytest.raises(ZeroDivisionError):
        await stream([3]).map(inverse).catch(op.skip_failed, only=ValueError).to_list()

    both = (
        stream(["1", "x", "3", "2"])
        .map(lambda x: inverse(int(x)))
        .catch(op.skip_failed, only=ValueError)
        .catch(op.skip_failed, only=ZeroDivisionError)
    )
    assert await both.to_list() == [1, 0.5]


async def test_a_source_that_fails_has_ended_whatever_the_policy() -> None:
    async def source() -> Any:
        yield 1
        raise OSError

    for policy, expected in ((op.skip_failed, [1]), (op.stop, [1]), (op.replace("end"), [1, "end"])):
        assert await stream(source).catch(policy).to_list() == expected
    failures: list[Failure] = []
    await stream(source).catch(op.dead_letter(failures.append)).to_list()
    assert failures[0].element is MISSING


async def test_a_batch_gives_what_came_before_the_failure_first() -> None:
    async def source() -> Any:
        yield 1
        yield 2
        raise OSError

    for how in ({}, {"seconds": 9}, {"bytes_max": 99}):
        assert await stream(source).batch(10, **how).catch(op.stop).to_list() == [[1, 2]]


async def test_a_policy_may_decide_by_the_failure() -> None:
    def policy(failure: Failure) -> Any:
        return STOP if failure.element == "end" else SKIP

    assert await stream(["1", "x", "2", "end", "3"]).map(int).catch(policy).to_list() == [1, 2]


async def test_retry_gets_failures_before_a_catch_after_it() -> None:
    tried: list[int] = []

    def once_bad(x: int) -> int:
        tried.append(x)
        if len(tried) == 1:
            raise TimeoutError
        return x

    got = await stream([1, 2]).map(once_bad).retry(op.Backoff(first_s=0)).catch(op.skip_failed).to_list()

    assert got == [1, 2]
    assert tried == [1, 1, 2]


async def test_none_may_stand_for_a_result() -> None:
    assert await stream([1, 3]).map(inverse).catch(op.replace(None)).to_list() == [1, None]
