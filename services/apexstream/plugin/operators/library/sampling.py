"""Samples of streams, seeded so that a run can be repeated."""

import random
from collections.abc import AsyncGenerator
from typing import TypeVar

from apexstream.plugin.operators.calls import above
from apexstream.plugin.operators.stream import Guard, Source, Stream, opened

T = TypeVar("T")


def sample(source: Source[T], share: float, *, seed: int) -> Stream[T]:
    """Each element with probability ``share``, 0 to 1. The same seed takes the same places."""
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}, and must be 0 to 1")

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        draw = random.Random(seed).random  # noqa: S311 - a sample, not a secret
        async with opened(source, guard) as elements:
            async for element in elements:
                if draw() < share:
                    yield element

    return Stream(run, source)


def reservoir(source: Source[T], count: int, *, seed: int) -> Stream[list[T]]:
    """One list at the source's end: ``count`` of its elements (all, if it has fewer), every choice equally likely, in the
    source's order. Holds no more than that.
    """
    above(0, count=count)

    async def run(guard: Guard | None) -> AsyncGenerator[list[T], None]:
        pick = random.Random(seed).randrange  # noqa: S311 - a sample, not a secret
        held: list[tuple[int, T]] = []
        number = 0
        async with opened(source, guard) as elements:
            async for element in elements:
                if number < count:
                    held.append((number, element))
                elif (place := pick(number + 1)) < count:
                    held[place] = (number, element)
                number += 1
        yield [element for _, element in sorted(held, key=lambda numbered: numbered[0])]

    return Stream(run, source)
