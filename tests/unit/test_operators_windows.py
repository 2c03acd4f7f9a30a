"""Windows and joins against a few lines over the whole sorted input, whatever the order of arrival."""

import itertools
from collections import Counter
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.plugin import operators as op
from apexstream.plugin.operators import MISSING, Hopping, LateElement, Overflow, Session, Sliding, Tumbling, stream
from apexstream.plugin.operators.joining import Join

LATENESS = 6
SOME = settings(max_examples=200, deadline=None)


class Event(NamedTuple):
    """An event; its number makes it unlike all others."""

    time: int
    key: str
    number: int


def time_of(event: Event) -> int:
    return event.time


def key_of(event: Event) -> str:
    return event.key


@st.composite
def arrivals(draw: st.DrawFn) -> list[Event]:
    """Events of which none comes more than ``LATENESS`` after a later one."""
    keyed = draw(st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab")), max_size=25))
    events = [Event(time, key, number) for number, (time, key) in enumerate(keyed)]
    delays = draw(st.lists(st.integers(0, LATENESS), min_size=len(events), max_size=len(events)))
    return [event for _, event in sorted(zip(delays, events, strict=True), key=lambda d: d[0] + d[1].time)]


def expected_windows(kind: Any, events: list[Event]) -> Counter[Any]:
    """(start, end, key, elements) of every window, from the whole input."""
    found: Counter[Any] = Counter()
    for key in {event.key for event in events}:
        ours = sorted(event for event in events if event.key == key)
        for start, end, inside in _bounds(kind, ours):
            held = tuple(event for event in ours if inside(event.time))
            if held:
                found[start, end, key, held] += 1
    return found


def _bounds(kind: Any, ours: list[Event]) -> Any:
    match kind:
        case Tumbling(size) | Hopping(size, _):
            hop = getattr(kind, "hop", size)
            for start in (number * hop for number in range(-60, 60)):
                yield start, start + size, range(start, start + size).__contains__
        case Sliding(size):
            for time in {event.time for event in ours}:
                yield time - size, time, range(time - size + 1, time + 1).__contains__
        case Session(gap):
            times = sorted(event.time for event in ours)
            cuts = [0, *(at for at in range(1, len(times)) if times[at] - times[at - 1] >= gap), len(times)]
            for first, last in itertools.pairwise(cuts):
                yield times[first], times[last - 1] + gap, range(times[first], times[last - 1] + 1).__contains__


KINDS = (
    st.integers(1, 12).map(Tumbling)
    | st.tuples(st.integers(1, 12), st.integers(1, 12)).map(lambda pair: Hopping(max(pair), min(pair)))
    | st.integers(1, 12).map(Sliding)
    | st.integers(1, 12).map(Session)
)


@SOME
@given(KINDS, arrivals())
async def test_windows_are_those_of_the_whole_sorted_input(kind: Any, events: list[Event]) -> None:
    windows = stream(events).window(kind, time_of=time_of, key_of=key_of, lateness=LATENESS)

    got = await windows.to_list()

    by_time = [(w.start, w.end, w.key, tuple(sorted(w.elements))) for w in got]
    assert Counter(by_time) == expected_windows(kind, events)
    assert [(w.end, w.start) for w in got] == sorted((w.end, w.start) for w in got)
    assert all(list(map(time_of, w.elements)) == sorted(map(time_of, w.elements)) for w in got)


@SOME
@given(KINDS, arrivals())
async def test_a_window_is_given_with_the_first_element_that_closes_it(kind: Any, events: list[Event]) -> None:
    taken: list[Event] = []
    windows = stream(events).tap(taken.append).window(kind, time_of=time_of, lateness=LATENESS)

    def closed_by(window: Any, seen: list[Event]) -> bool:
        watermark = max(map(time_of, seen), default=-100) - LATENESS
        return watermark > window.end if isinstance(kind, Sliding) else watermark >= window.end

    async with windows.opened() as elements:
        async for window in elements:
            assert closed_by(window, taken) or taken == events
            assert not closed_by(window, taken[:-1]) or taken == events


@SOME
@given(KINDS, st.lists(st.tuples(st.integers(0, 30), st.sampled_from("ab")), max_size=25), st.integers(0, 5))
async def test_every_element_is_in_a_window_or_late(kind: Any, keyed: list[Any], lateness: int) -> None:
    events = [Event(time, key, number) for number, (time, key) in enumerate(keyed)]
    late: list[Event] = []

    got = (
        await stream(events).window(kind, time_of=time_of, key_of=key_of, lateness=lateness, late=late.append).to_list()
    )

    inside = {event for window in got for event in window.elements}
    assert inside | set(late) == set(events)
    assert not inside & set(late)


async def test_a_late_element_fails_the_stream_unless_somebody_takes_it() -> None:
    with pytest.raises(LateElement, match="lateness"):
        await stream([1, 20, 2]).window(Tumbling(5), time_of=lambda x: x).to_list()


async def test_a_watermark_closes_windows_and_is_no_element() -> None:
    given: list[Any] = []

    async def source() -> Any:
        yield 1
        yield op.Watermark(5)
        assert len(given) == 1
        yield 7

    await stream(source).window(Tumbling(5), time_of=lambda x: x).for_each(given.append)

    assert [window.elements for window in given] == [(1,), (7,)]


async def test_open_windows_are_bounded() -> None:
    with pytest.raises(Overflow, match="100"):
        await stream(range(101)).window(Tumbling(1000), time_of=lambda x: x, held_max=100).to_list()


@pytest.mark.parametrize("kind", [Tumbling(3), Hopping(6, 3), Sliding(5), Session(2)])
async def test_what_is_closed_is_not_held_on_to(kind: Any) -> None:
    events = (Event(time, str(time), time) for time in range(5000))

    got = stream(events).window(kind, time_of=time_of, key_of=key_of, held_max=40)

    assert await got.for_each(lambda _: None) >= 5000


async def test_a_time_that_is_none_is_refused() -> None:
    for time in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="no time"):
            await stream([time]).window(Tumbling(3), time_of=lambda x: x).to_list()


def expected_pairs(left: list[Event], right: list[Event], within: int, how: str) -> Counter[Any]:
    pairs = [(a, b) for a in left for b in right if a.key == b.key and abs(a.time - b.time) <= within]
    alone: list[Any] = []
    if how in {"left", "outer"}:
        alone += [(a, MISSING) for a in left if a not in {pair[0] for pair in pairs}]
    if how in {"right", "outer"}:
        alone += [(MISSING, b) for b in right if b not in {pair[1] for pair in pairs}]
    return Counter(pairs + alone)


@SOME
@given(arrivals(), arrivals(), st.integers(0, 8), st.sampled_from(["inner", "left", "right", "outer"]))
async def test_a_join_is_that_of_the_whole_input(left: list[Event], right: list[Event], within: int, how: Any) -> None:
    joined = op.join(left, right, within=within, key_of=key_of, time_of=time_of, how=how, lateness=LATENESS)

    got = await stream(joined).to_list()

    assert Counter((pair.left, pair.right) for pair in got) == expected_pairs(left, right, within, how)


@SOME
@given(arrivals(), arrivals(), st.data())
async def test_a_join_does_not_depend_on_which_side_arrives_first(
    left: list[Event], right: list[Event], data: st.DataObject
) -> None:
    joining = Join(within=4, lateness=LATENESS, how="outer")
    sides = [list(left), list(right)]
    got: list[Any] = []
    while any(sides):
        side = data.draw(st.sampled_from([place for place in (0, 1) if sides[place]]))
        event = sides[side].pop(0)
        got += joining.add(side, event.time, event.key, event)
    got += joining.end(0) + joining.end(1)

    assert Counter((pair.left, pair.right) for pair in got) == expected_pairs(left, right, 4, "outer")
    assert not any(map(len, joining.sides))


async def test_a_join_holds_little_of_sides_that_move_together() -> None:
    left, right = ((Event(t, "k", t) for t in range(3000)) for _ in range(2))

    joined = op.join(left, right, within=2, key_of=key_of, time_of=time_of, held_max=12)

    assert await stream(joined).for_each(lambda _: None) == 5 * 3000 - 6


async def test_a_join_whose_other_side_never_comes_holds_the_source_back() -> None:
    clock = op.ManualClock()
    asked: list[int] = []

    async def silent() -> Any:
        await clock.sleep(1e9)
        yield

    silence = stream(silent, clock=clock).timeout(60)
    joined = op.join(
        stream(range(1000)).tap(asked.append), silence, within=1, key_of=lambda _: 0, time_of=lambda x: x, held_max=50
    )

    with pytest.raises(op.TimedOut):
        await clock.run(stream(joined).to_list())
    assert len(asked) <= 52


async def test_a_join_of_two_sides_that_both_hold_too_much_fails() -> None:
    events = [Event(1, "k", number) for number in range(60)]

    with pytest.raises(Overflow):
        await stream(op.join(events, events, within=1, key_of=key_of, time_of=time_of, held_max=50)).to_list()


async def test_late_elements_of_a_join_are_handed_over() -> None:
    late: list[int] = []

    joined = op.join([10, 3, 11], [10, 11], within=0, key_of=lambda _: 0, time_of=lambda x: x, late=late.append)

    assert [pair.left for pair in await stream(joined).to_list()] == [10, 11]
    assert late == [3]
