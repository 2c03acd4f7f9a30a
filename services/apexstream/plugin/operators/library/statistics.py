"""Running statistics of numbers, in constant memory."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from math import sqrt

from apexstream.plugin.operators.stream import Guard, Source, Stream, opened


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of the numbers so far. ``variance`` is that of a sample (n - 1), 0 for one number."""

    count: int
    mean: float
    variance: float
    minimum: float
    maximum: float

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return sqrt(self.variance)


def statistics(source: Source[float]) -> Stream[Statistics]:
    """The statistics after each number (by Welford's method, which stays exact for large means); ``last()`` for all of them."""

    async def run(guard: Guard | None) -> AsyncGenerator[Statistics, None]:
        count, mean, squares, minimum, maximum = 0, 0.0, 0.0, float("inf"), float("-inf")
        async with opened(source, guard) as numbers:
            async for number in numbers:
                count += 1
                off = number - mean
                mean += off / count
                squares += off * (number - mean)
                minimum, maximum = min(minimum, number), max(maximum, number)
                yield Statistics(count, mean, squares / (count - 1) if count > 1 else 0.0, minimum, maximum)

    return Stream(run, source)
