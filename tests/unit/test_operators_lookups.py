"""lookup: what it gives is what the whole sorted input says, whichever side is read first; what it holds is bounded."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.plugin import operators as op
from apexstream.plugin import stream
from apexstream.plugin.operators.lookups import Lookup

LATENESS = 4
Events = list[tuple[str, int, int]]  # key, time, number


@st.composite
def arrivals(draw: st.DrawFn) -> Events:
    """Events out of order by less than the lateness."""
    times = draw(st.lists(st.integers(0, 40), max_size=25))
    order = sorted(range(len(times)), key=lambda at: times[at] + draw(st.integers(0, LATENESS)))
    return [(draw(st.sampled_from("ab")), times[at], number) for number, at in enumerate(order)]


def expected(left: Events, table: Events, how: str) -> list[tuple[Any, Any]]:
    found = []
    for element in sorted(left, key=lambda e: e[1]):
        known = [row for row in table if row[0] == element[0] and row[1] <= element[1]]
        newest = max(known, key=lambda row: row[1:], default=None)
        if newest or how == "left":
            found.append((element, newest or op.MISSING))
    return found


@settings(deadline=None)
@given(arrivals(), arrivals(), st.sampled_from(["inner", "left"]))
async def test_a_lookup_is_that_of_the_whole_input(left: Events, table: Events, how: Any) -> None:
    looking = op.lookup(left, table, key_of=lambda e: e[0], time_of=lambda e: e[1], how=how, lateness=LATENESS)

    got = [(pair.left, pair.right) for pair in await stream(looking).to_list()]

    assert got == expected(left, table, how)


@settings(deadline=None)
@given(arrivals(), arrivals(), st.data())
async def test_a_lookup_does_not_depend_on_which_side_is_read_first(
    left: Events, table: Events, data: st.DataObject
) -> None:
    looking, sides, got = Lookup(LATENESS, "left", 100), [list(left), list(table)], []
    while any(sides):
        side = data.draw(st.sampled_from([place for place in (0, 1) if sides[place]]))
        event = sides[side].pop(0)
        looking.add(side, event[1], event[0], event)
        got += looking.ready()
    looking.advance(0, float("inf"))
    looking.advance(1, float("inf"))
    got += looking.ready()

    assert [(pair.left, pair.right) for pair in got] == expected(left, table, "left")
    assert looking.held == [0, 0]


def looked_up(left: Any, table: Any, **more: Any) -> Any:
    return stream(op.lookup(left, table, key_of=lambda e: e[0], time_of=lambda e: e[1], **more))


async def test_an_element_below_its_own_sides_watermark_is_late_or_fails_the_stream() -> None:
    late: list[Any] = []
    events = [("a", 10, 0), ("a", 3, 1)]
    assert len(await looked_up(events, [("a", 0, 0)], late=late.append).to_list()) == 1
    assert late == [("a", 3, 1)]
    with pytest.raises(op.LateElement, match="watermark 10"):
        await looked_up(events, []).to_list()


async def test_a_table_larger_than_its_bound_and_two_sides_that_hold_too_much_fail() -> None:
    table = [(str(n), n, n) for n in range(11)]
    with pytest.raises(op.Overflow, match="more than 10 keys"):
        await looked_up([], table, keys_max=10).to_list()
    together = [("a", 5, n) for n in range(20)]
    with pytest.raises(op.Overflow, match="both sides of a lookup"):
        await looked_up(together, together, held_max=10).to_list()


async def test_a_table_that_never_comes_holds_the_source_back() -> None:
    clock = op.ManualClock()
    asked: list[Any] = []

    async def silent() -> Any:
        await clock.sleep(1e9)
        yield

    silence = stream(silent, clock=clock).timeout(60)
    source = stream([("a", n, n) for n in range(500)]).tap(asked.append)

    with pytest.raises(op.TimedOut):
        await clock.run(looked_up(source, silence, held_max=50).to_list())
    assert len(asked) <= 52


async def test_a_watermark_lets_a_quiet_table_go_on() -> None:
    seen: list[Any] = []

    async def table() -> Any:
        yield ("a", 0, 0)
        yield op.Watermark(100)
        while not seen:
            await op.LoopClock().sleep(0)
        yield ("a", 200, 1)

    source = [("a", n, n) for n in (1, 2, 50)]
    await looked_up(source, table).for_each(seen.append)
    assert [pair.left[1] for pair in seen] == [1, 2, 50]


@pytest.mark.parametrize("wrong", [{"how": "outer"}, {"lateness": -1}, {"held_max": 0}, {"keys_max": 0}])
def test_wrong_parameters_are_refused_when_the_stream_is_built(wrong: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own text
        looked_up([], [], **wrong)


async def test_the_composer_has_it_too() -> None:
    chain = op.StreamComposer().lookup([("a", 1, 0)], [("a", 0, 7)], key_of=lambda e: e[0], time_of=lambda e: e[1])
    assert await chain.map(lambda pair: pair.right[2]).to_list() == [7]
