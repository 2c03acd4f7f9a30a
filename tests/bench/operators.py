"""Operators in a plugin: what map + filter + batch cost for each element, against a loop written by hand and aiostream.

All ways read the same async generator and do the same calls; the first row is that source, read and nothing else. aiostream
is no dependency: where it is not installed the table says so.
"""

import importlib.util
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from tests.bench.measure import median_ratio, table

from apexstream.plugin.operators import stream

ELEMENTS, ROUNDS, BATCH = 100_000, 7, 100

Way = Callable[[], Awaitable[int]]


async def source() -> AsyncIterator[int]:
    """What all read."""
    for number in range(ELEMENTS):
        yield number


def double(element: int) -> int:
    """For map, as a plain function."""
    return element * 2


async def double_later(element: int) -> int:
    """For map, as an async function."""
    return element * 2


def wanted(element: int) -> bool:
    """For filter: three of four."""
    return element % 8 != 0


async def nothing() -> int:
    """The source alone."""
    count = 0
    async with aclosing(source()) as elements:
        async for _ in elements:
            count += 1
    return count


async def by_hand() -> int:
    """The three as one loop."""
    count, batch = 0, []
    async with aclosing(source()) as elements:
        async for element in elements:
            doubled = double(element)
            if wanted(doubled):
                batch.append(doubled)
                if len(batch) == BATCH:
                    count += len(batch)
                    batch = []
    return count + len(batch)


async def generators_by_hand() -> int:
    """The three as async generators that are written for it."""

    async def mapped() -> AsyncIterator[int]:
        async with aclosing(source()) as elements:
            async for element in elements:
                yield double(element)

    async def filtered() -> AsyncIterator[int]:
        async with aclosing(mapped()) as elements:
            async for element in elements:
                if wanted(element):
                    yield element

    count, batch = 0, []
    async with aclosing(filtered()) as elements:
        async for element in elements:
            batch.append(element)
            if len(batch) == BATCH:
                count += len(batch)
                batch = []
    return count + len(batch)


async def operators() -> int:
    """The three as operators."""
    return await _counted(stream(source).map(double).filter(wanted).batch(BATCH))


async def operators_async() -> int:
    """The same, with an async function for map."""
    return await _counted(stream(source).map(double_later).filter(wanted).batch(BATCH))


async def by_hand_async() -> int:
    """The loop, with an async function for map."""
    count, batch = 0, []
    async with aclosing(source()) as elements:
        async for element in elements:
            doubled = await double_later(element)
            if wanted(doubled):
                batch.append(doubled)
                if len(batch) == BATCH:
                    count += len(batch)
                    batch = []
    return count + len(batch)


async def _counted(batches: AsyncIterator[list[int]]) -> int:
    count = 0
    async for batch in batches:
        count += len(batch)
    return count


async def aiostream_operators() -> int:
    """The three of aiostream."""
    from aiostream import pipe  # type: ignore[import-not-found,unused-ignore]
    from aiostream import stream as theirs

    chunks = theirs.iterate(source()) | pipe.map(double) | pipe.filter(wanted) | pipe.chunks(BATCH)
    async with chunks.stream() as batches:
        return await _counted(batches)


async def aiostream_operators_async() -> int:
    """The same, with an async function for map, one at a time."""
    from aiostream import pipe
    from aiostream import stream as theirs

    mapped = theirs.iterate(source()) | pipe.map(double_later, ordered=True, task_limit=1)
    async with (mapped | pipe.filter(wanted) | pipe.chunks(BATCH)).stream() as batches:
        return await _counted(batches)


async def _ns(way: Way) -> float:
    """Nanoseconds for each element of the source."""
    before = time.perf_counter_ns()
    await way()
    return (time.perf_counter_ns() - before) / ELEMENTS


async def run() -> str:
    """All rounds, interleaved, and the table."""
    ways: dict[str, tuple[Way, Way]] = {
        "the source alone": (nothing, by_hand),
        "a loop by hand": (by_hand, by_hand),
        "three async generators by hand": (generators_by_hand, by_hand),
        "operators": (operators, by_hand),
        "a loop by hand, async function": (by_hand_async, by_hand_async),
        "operators, async function": (operators_async, by_hand_async),
    }
    installed = importlib.util.find_spec("aiostream") is not None
    if installed:
        ways["aiostream"] = (aiostream_operators, by_hand)
        ways["aiostream, async function"] = (aiostream_operators_async, by_hand_async)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (way, _by_hand) in ways.items():
            times[name].append(await _ns(way))
    names = {way: name for name, (way, _by_hand) in ways.items()}
    rows: list[list[object]] = [
        [name, statistics.median(times[name]), median_ratio(times[name], times[names[by_hand_of]])]
        for name, (_way, by_hand_of) in ways.items()
    ]
    if not installed:
        rows.append(["aiostream", "not installed", ""])
    return table(
        f"map + filter + batch({BATCH}) in a plugin, {ELEMENTS} elements", ["", "ns an element", "of the loop"], rows
    )
