"""What every operator owes its sources: laziness, closing, cancellation; and that None is a value like any other."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from apexstream.plugin import operators as op
from apexstream.plugin.operators import ManualClock, Stream, Tumbling, stream

CLOCK = ManualClock()


class Tracked:
    """A source that counts what is asked of it: ``count`` elements, then the end, an error, or silence."""

    def __init__(
        self, count: int = 1000, *, then: Exception | None = None, silent: bool = False, value: Any = 1
    ) -> None:
        self.count, self.then, self.silent, self.value = count, then, silent, value
        self.asked = 0
        self.closed = 0

    def __aiter__(self) -> "Tracked":
        return self

    async def __anext__(self) -> Any:
        self.asked += 1
        await asyncio.sleep(0)
        if self.asked <= self.count:
            return self.value
        if self.silent:
            await asyncio.Event().wait()
        raise self.then or StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


def same(value: Any) -> Any:
    return value


async def slowly(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


ONE: dict[str, Callable[[Any], Stream[Any]]] = {
    "stream": stream,
    "map": lambda s: op.map(s, same),
    "map async": lambda s: op.map(s, slowly),
    "map concurrent": lambda s: op.map(s, slowly, concurrency=3),
    "map unordered": lambda s: op.map(s, slowly, concurrency=3, ordered=False),
    "filter": lambda s: op.filter(s, lambda _: True),
    "filter concurrent": lambda s: op.filter(s, lambda _: True, concurrency=2),
    "tap": lambda s: op.tap(s, same),
    "custom": lambda s: op.custom(s, lambda elements: elements),
    "flat_map": lambda s: op.flat_map(s, lambda x: [x]),
    "flat_map concurrent": lambda s: op.flat_map(s, lambda x: [x], concurrency=2),
    "flat_map unordered": lambda s: op.flat_map(s, lambda x: [x], concurrency=2, ordered=False),
    "switch": lambda s: op.switch(op.map(op.take(s, 1), lambda x: [x])),
    "scan": lambda s: op.scan(s, lambda _, x: x),
    "batch": lambda s: op.map(op.batch(s, 1), lambda b: b[0]),
    "batch bytes": lambda s: op.map(op.batch(s, bytes_max=1), lambda b: b[0]),
    "batch seconds": lambda s: op.map(op.batch(s, 1, seconds=9, clock=CLOCK), lambda b: b[0]),
    "take": lambda s: op.take(s, 10_000),
    "skip": lambda s: op.skip(s, 0),
    "take_while": lambda s: op.take_while(s, lambda _: True),
    "skip_while": lambda s: op.skip_while(s, lambda _: False),
    "until": lambda s: op.until(s, lambda _: False),
    "until_done": lambda s: op.until_done(s, asyncio.Event().wait),
    "distinct": lambda s: op.distinct(s, lambda _: object()),
    "throttle": lambda s: op.throttle(s, 9, clock=CLOCK),
    "throttle last": lambda s: op.throttle(s, 9, keep="last", clock=CLOCK),
    "rate_limit": lambda s: op.rate_limit(s, 1, burst=10_000, clock=CLOCK),
    "buffer": lambda s: op.buffer(s, 2),
    "buffer dropping": lambda s: op.buffer(s, 2, when_full="drop_oldest"),
    "retry": lambda s: op.retry(s, when=lambda _: False),
    "timeout": lambda s: op.timeout(s, 9, clock=CLOCK),
    "catch": lambda s: op.catch(s, op.stop, only=KeyError),
    "merge": lambda s: op.merge(s, []),
    "merge priority": lambda s: op.merge(s, [], priority=True),
    "zip": lambda s: op.map(op.zip(s, [], length="longest"), lambda row: row[0]),
    "concat": lambda s: op.concat([], s),
    "interleave": lambda s: op.interleave([], s),
    "combine_latest": lambda s: op.map(op.combine_latest(s), lambda row: row[0]),
    "race": lambda s: op.race(s, []),
    "partition": lambda s: op.flat_map(
        op.partition(s, lambda _: 0), lambda branch: branch[1], concurrency=2, ordered=False
    ),
    "sample": lambda s: op.sample(s, 1, seed=1),
    "statistics": lambda s: op.map(op.statistics(s), lambda found: found.minimum),
}
# These give nothing before the end or the next element.
AT_THE_END: dict[str, Callable[[Any], Stream[Any]]] = {
    "reduce": lambda s: op.reduce(s, lambda _, x: x),
    "window": lambda s: op.window(s, Tumbling(1), time_of=lambda _: 1),
    "window by arrival": lambda s: op.window(s, Tumbling(1), clock=CLOCK),
    "debounce": lambda s: op.debounce(s, 9, clock=CLOCK),
    "reservoir": lambda s: op.reservoir(s, 1, seed=1),
    "join": lambda s: op.join(s, [], within=0, key_of=same, time_of=lambda _: 1, how="left"),
}
ALL = ONE | AT_THE_END


def each_of(table: dict[str, Any], *, but: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """A test for each operator of ``table``."""
    chosen = [pytest.param(build, id=name) for name, build in table.items() if name not in but]
    return pytest.mark.parametrize("build", chosen)


@each_of(ALL)
async def test_nothing_is_asked_of_a_source_before_the_first_element_is_asked_for(build: Any) -> None:
    source = Tracked()

    elements = aiter(build(source))
    await asyncio.sleep(0.001)

    assert source.asked == 0
    await elements.aclose()


@each_of(ALL)
async def test_a_source_is_closed_when_an_operator_that_was_never_begun_is(build: Any) -> None:
    source = Tracked()

    await build(build(source)).aclose()

    assert (source.asked, source.closed) == (0, 1)


@each_of(ALL)
async def test_a_source_is_closed_when_whoever_was_to_read_it_ends_without(build: Any) -> None:
    source = Tracked()

    assert await stream(op.concat([1], build(build(source)))).first() == 1

    assert source.asked == 0
    assert source.closed


@each_of(ALL)
async def test_a_source_is_closed_at_its_end(build: Any) -> None:
    source = Tracked(3)

    await stream(build(source)).to_list()

    assert source.closed


@each_of(ONE, but=("buffer dropping",))  # which reads on, by its nature
async def test_a_source_is_closed_at_an_early_exit_and_little_is_read_ahead(build: Any) -> None:
    source = Tracked()

    assert await stream(build(source)).first() == 1

    assert source.closed
    assert source.asked <= 6


@each_of(ALL, but=("switch",))  # as it is built here it reads one element only
async def test_an_error_of_a_source_passes_through_and_closes_it(build: Any) -> None:
    source = Tracked(2, then=ZeroDivisionError("source"))

    with pytest.raises(ZeroDivisionError, match="source"):
        await stream(build(source)).to_list()

    assert source.closed


@each_of(ALL)
async def test_an_error_of_the_consumer_closes_the_source(build: Any) -> None:
    source = Tracked(3)

    async def consume() -> None:
        async with build(source).opened() as elements:
            async for _ in elements:
                raise KeyError

    with pytest.raises(KeyError):
        await consume()

    assert source.closed


@each_of(ALL, but=("switch",))
async def test_cancellation_ends_at_once_and_closes_the_source(build: Any) -> None:
    source = Tracked(1, silent=True)
    reading = asyncio.create_task(stream(build(source)).to_list())
    await asyncio.sleep(0.002)

    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(reading, 1)

    assert source.closed
    assert len(asyncio.all_tasks()) == 1


@each_of(ONE, but=("statistics",))
async def test_none_is_a_value(build: Any) -> None:
    source = Tracked(1, value=None)

    assert await stream(build(source)).to_list() == [None]


@each_of(ONE)
async def test_no_task_is_left_after_an_early_exit(build: Any) -> None:
    await stream(build(Tracked())).first()

    assert len(asyncio.all_tasks()) == 1


@each_of(ALL)
async def test_what_can_be_read_again_is_read_again(build: Any) -> None:
    again = build([1, 1])

    assert await stream(lambda: again).to_list() == await stream(lambda: again).to_list() != []


@pytest.mark.parametrize("compose", [op.merge, op.zip, op.concat, op.interleave, op.combine_latest, op.race])
async def test_every_source_of_a_composition_is_closed_when_one_fails(compose: Any) -> None:
    sources = [Tracked(0, then=ZeroDivisionError()), Tracked(3), Tracked(0, then=ZeroDivisionError())]

    with nullcontext() if compose is op.race else pytest.raises(ZeroDivisionError):  # the second wins the race
        await stream(compose(*sources)).to_list()

    assert all(source.closed for source in sources)


@pytest.mark.parametrize("compose", [op.merge, op.zip, op.concat, op.interleave, op.combine_latest, op.race])
async def test_every_source_of_a_composition_is_closed_at_an_early_exit(compose: Any) -> None:
    sources = [Tracked(), Tracked(), Tracked()]

    await stream(compose(*sources)).first()

    assert all(source.closed for source in sources)


async def test_a_failure_of_closing_reaches_the_consumer() -> None:
    async def source() -> Any:
        try:
            yield 1
        finally:
            raise OSError("closing")

    with pytest.raises(OSError, match="closing"):
        await stream(op.merge(source())).first()


async def test_a_failure_of_closing_does_not_hide_the_failure_before_it() -> None:
    class Both(Tracked):
        async def aclose(self) -> None:
            raise OSError("closing")

    with pytest.raises(ZeroDivisionError) as raised:
        await stream(op.map(Both(0, then=ZeroDivisionError()), same)).to_list()

    assert "closing" in str(raised.value.__notes__)


async def test_an_iterator_is_not_silently_empty_the_second_time() -> None:
    once = stream(iter([1, 2])).map(same)
    await once.to_list()

    with pytest.raises(op.Spent):
        await once.to_list()


async def test_sync_generators_are_closed_and_do_not_keep_others_waiting() -> None:
    closed = asyncio.Event()

    def numbers() -> Any:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    reading = asyncio.create_task(stream(numbers()).for_each(same))
    await asyncio.sleep(0.001)
    reading.cancel()
    await asyncio.wait([reading])

    assert closed.is_set()


async def test_a_source_may_be_opened_by_an_async_function() -> None:
    async def connect() -> list[int]:
        return [1, 2]

    assert await stream(connect).map(same).to_list() == [1, 2]


async def test_text_is_no_source_by_mistake() -> None:
    with pytest.raises(TypeError, match="one value"):
        await stream("text").to_list()


@pytest.mark.parametrize("blocking", [True, False])
async def test_an_open_file_is_closed(tmp_path: Path, blocking: bool) -> None:
    (tmp_path / "file").write_text("a\nb\n")
    file = (tmp_path / "file").open()

    assert await stream(file, blocking=blocking).take(1).to_list() == ["a\n"]

    assert file.closed


async def test_a_blocking_source_runs_in_a_thread() -> None:
    def names() -> Any:
        yield threading.current_thread() is threading.main_thread()

    assert await stream(names, blocking=True).to_list() == [False]


async def test_a_source_is_closed_that_was_opened_and_never_asked_for_anything() -> None:
    source = Tracked()

    assert await stream(op.custom(op.map(source, same), lambda _: [7])).to_list() == [7]

    assert source.asked == 0
    assert source.closed
