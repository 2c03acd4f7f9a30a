"""The sieve counts right, in any segments and from any place."""

from itertools import pairwise

import pytest
from apexstream_plugin_longrun.sieve import Progress, primes_below, segments


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def test_small_primes():
    for limit in range(60):
        assert primes_below(limit) == [number for number in range(limit) if is_prime(number)]


@pytest.mark.parametrize(("stop", "count"), [(0, 0), (2, 0), (3, 1), (10, 4), (1_000, 168), (1_000_000, 78_498)])
@pytest.mark.parametrize("size", [1000, 1024, 65_537, 1 << 20])
def test_known_counts(stop: int, count: int, size: int):
    progress = Progress(0, 0)
    list(segments(progress, stop, size))
    assert (progress.next, progress.total) == (stop, count)


def test_ten_million():
    *_, last = segments(Progress(0, 0), 10_000_000, 1 << 20)
    assert (last.total, last.largest) == (664_579, 9_999_991)


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4, 100, 101, 997, 10_007, 999_983])
@pytest.mark.parametrize("length", [1, 2, 3, 1000])
def test_any_place(start: int, length: int):
    found = list(segments(Progress(start, 0), start + length, 97))
    primes = [number for number in range(start, start + length) if is_prime(number)]
    assert sum(segment.primes for segment in found) == len(primes)
    assert max((segment.largest for segment in found if segment.largest is not None), default=None) == (
        primes[-1] if primes else None
    )


def test_segments_join_without_a_seam():
    found = list(segments(Progress(5, 0), 100_000, 1234))
    assert found[0].low == 5
    assert all(before.high == after.low for before, after in pairwise(found))
    assert found[-1].high == 100_000


def test_far_out():
    *_, last = segments(Progress(10**12, 0), 10**12 + 200, 64)
    assert last.total == sum(is_prime(number) for number in range(10**12, 10**12 + 200))
