"""A segmented sieve of Eratosthenes over odd numbers, resumable after any segment."""

from collections.abc import Iterator
from math import isqrt

import msgspec


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """The primes from ``low`` (inclusive) to ``high`` (exclusive): how many, the last of them (None: none), and how many
    there are from 0 to ``high`` or from where the job began."""

    low: int
    high: int
    primes: int
    largest: int | None
    total: int


class Progress(msgspec.Struct, array_like=True):
    """The state: the next number to look at, and how many primes were found before it."""

    next: int
    total: int


def segments(progress: Progress, stop: int, size: int) -> Iterator[Segment]:
    """Sieve from ``progress`` to ``stop`` (exclusive), ``size`` numbers at a time; ``progress`` is kept up to date.

    Memory is ``size / 2`` bytes and the primes up to the square root of ``stop``.
    """
    base = primes_below(isqrt(max(stop - 1, 0)) + 1)[1:]  # odd ones
    while progress.next < stop:
        low, high = progress.next, min(progress.next + size, stop)
        count, largest = _sieve(low, high, base)
        progress.next, progress.total = high, progress.total + count
        yield Segment(low=low, high=high, primes=count, largest=largest, total=progress.total)


def primes_below(limit: int) -> list[int]:
    """All primes below ``limit``."""
    if limit <= 2:
        return []
    odd = bytearray([1]) * (limit // 2)  # odd[i] stands for 2 * i + 1
    odd[0] = 0
    for i in range(1, isqrt(limit - 1) // 2 + 1):
        if odd[i]:
            step = 2 * i + 1
            start = step * step // 2
            odd[start::step] = bytes(len(range(start, len(odd), step)))
    return [2, *(2 * i + 1 for i, prime in enumerate(odd) if prime)]


def _sieve(low: int, high: int, base: list[int]) -> tuple[int, int | None]:
    """How many primes are in ``low`` to ``high`` (exclusive), and the last of them."""
    first = low | 1
    odd = bytearray([1]) * max(0, (high - first + 1) // 2)  # odd[i] stands for first + 2 * i
    if first == 1 and odd:
        odd[0] = 0
    for prime in base:
        square = prime * prime
        if square >= high:
            break
        multiple = max(square, (first + prime - 1) // prime * prime)
        multiple += 0 if multiple & 1 else prime
        start = (multiple - first) // 2
        if start < len(odd):
            odd[start::prime] = bytes(len(range(start, len(odd), prime)))
    two = low <= 2 < high
    last = odd.rfind(1)
    return odd.count(1) + two, first + 2 * last if last >= 0 else 2 if two else None
