"""The steps of pipelines, against what their results must be, whatever the runs, the order between inputs, and the crashes."""

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.pipelines import SECOND, Bench, chunks_of, definition, joined, run, windows_of

from apexstream.core.chunk import WATERMARK_TYPE, Chunk, Kind
from apexstream.processors.items import Overflow, PipelineFailed

KEYS = ("a", "b", "c")
LATENESS = 5


def events(count: int, seed: int, late_every: int = 0) -> list[dict[str, Any]]:
    """Times of seconds that rise, shuffled within the lateness; every ``late_every``-th far too late."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        t = number - draw.randint(0, LATENESS - 1)
        if late_every and number % late_every == late_every - 1:
            t = number - 40
        made.append({"t": max(t, 0), "k": draw.choice(KEYS), "v": draw.randint(0, 9) / 10, "i": number})
    return made


def one(operators: list[dict[str, Any]], **more: Any) -> Any:
    return definition(inputs=[{"stream": "s", "time": "$.t", "unit": "s"}], operators=operators, **more)


def two(combine: dict[str, Any], **more: Any) -> Any:
    inputs = [{"stream": name, "time": "$.t", "unit": "s", "key": "$.k"} for name in ("left", "right")]
    return definition(inputs=inputs, combine=combine, **more)


def in_time(made: list[dict[str, Any]], lateness: int) -> tuple[list[Any], list[Any]]:
    """Those that an input takes, and those that it finds late."""
    highest, kept, late = -(10**9), [], []
    for event in made:
        (late if event["t"] < highest - lateness else kept).append(event)
        highest = max(highest, event["t"])
    return kept, late


@pytest.mark.parametrize(("kind", "size", "hop"), [("tumbling", 10, 10), ("hopping", 10, 5), ("hopping", 9, 4)])
@pytest.mark.parametrize("crashes", [0, 25])
async def test_windows_are_those_of_the_whole_sorted_input(kind: str, size: int, hop: int, crashes: int) -> None:
    made = events(300, seed=size)
    window = {"op": "window", "kind": kind, "size_s": size, "lateness_s": LATENESS, "key": "$.k"}
    more = {"hop_s": hop} if kind == "hopping" else {}
    give = {"n": "count", "sum": "sum $.v", "all": "list $.i", "first": "first $.i"}
    spec = one([{**window, **more, "give": give}])
    expected = {
        (key, start * SECOND): (len(found), round(sum(x["v"] for x in found), 9), [x["i"] for x in found])
        for key in KEYS
        for start, found in windows_of([(x["t"], x) for x in made if x["k"] == key], size, hop).items()
    }

    bench = await run(Bench(spec), chunks_of(made), seed=1, crashes=crashes)

    got = {(x["key"], x["start"]): (x["n"], round(x["sum"], 9), x["all"]) for x in bench.values()}
    assert got == expected
    assert len(bench.values()) == len(expected)
    assert all(x["first"] == x["all"][0] for x in bench.values())


async def test_sliding_windows_and_sessions_are_those_of_the_sorted_input() -> None:
    made = events(120, seed=3)
    slides = one(
        [{"op": "window", "kind": "sliding", "size_s": 7, "lateness_s": LATENESS, "give": {"all": "list $.i"}}]
    )
    sessions = one(
        [
            {
                "op": "window",
                "kind": "session",
                "gap_s": 3,
                "key": "$.k",
                "lateness_s": LATENESS,
                "give": {"all": "list $.i"},
            }
        ]
    )
    ordered = sorted(made, key=lambda x: (x["t"], x["i"]))
    expected_slides = [
        [x["i"] for x in ordered if time - 7 < x["t"] <= time] for time in sorted({x["t"] for x in made})
    ]
    expected_sessions = set()
    for key in KEYS:
        open_: list[Any] = []
        for event in [x for x in ordered if x["k"] == key]:
            if open_ and event["t"] - open_[-1]["t"] >= 3:
                expected_sessions.add(tuple(x["i"] for x in open_))
                open_ = []
            open_.append(event)
        expected_sessions.add(tuple(x["i"] for x in open_))

    slid = await run(Bench(slides), chunks_of(made), seed=5, crashes=10)
    sessioned = await run(Bench(sessions), chunks_of(made), seed=6, crashes=10)

    assert [x["all"] for x in slid.values()] == expected_slides
    assert {tuple(x["all"]) for x in sessioned.values()} == expected_sessions
    assert len(sessioned.values()) == len(expected_sessions)


async def test_what_is_late_for_all_its_windows_goes_to_the_side_and_nowhere_else() -> None:
    made = events(300, seed=8, late_every=20)
    spec = one(
        [{"op": "window", "kind": "tumbling", "size_s": 10, "lateness_s": LATENESS, "give": {"all": "list $.i"}}]
    )

    bench = await run(Bench(spec), chunks_of(made), seed=2, crashes=15)

    windowed = [i for x in bench.values() for i in x["all"]]
    late = [x["i"] for x in bench.side("late")]
    assert sorted(windowed + late) == list(range(300))
    assert late == [x["i"] for x in made if x["i"] % 20 == 19]


@pytest.mark.parametrize("how", ["inner", "left", "right", "outer"])
@pytest.mark.parametrize("crashes", [0, 30])
async def test_joins_are_those_of_the_whole_input_without_what_is_late(how: str, crashes: int) -> None:
    left, right = events(150, seed=11, late_every=25), events(150, seed=12, late_every=30)
    spec = two({"op": "join", "within_s": 2, "how": how, "lateness_s": LATENESS})
    (kept_left, late_left), (kept_right, late_right) = in_time(left, LATENESS), in_time(right, LATENESS)

    bench = await run(Bench(spec), chunks_of(left), chunks_of(right), seed=4, crashes=crashes)

    def pair(a: Any, b: Any) -> tuple[Any, Any]:
        return a and a["i"], b and b["i"]

    got = [pair(x.get("left"), x.get("right")) for x in bench.values()]
    expected = [pair(a, b) for a, b in joined(kept_left, kept_right, 2, how)]
    assert sorted(got, key=str) == sorted(expected, key=str)
    assert [x["i"] for x in bench.side("late0")] == [x["i"] for x in late_left]
    assert [x["i"] for x in bench.side("late1")] == [x["i"] for x in late_right]


async def test_a_lookup_gives_the_newest_table_value_that_is_not_younger() -> None:
    stream, table = events(200, seed=21), events(60, seed=22)
    for event in table:
        event["t"] *= 3
    spec = two({"op": "lookup", "how": "left", "lateness_s": 15})
    kept, _ = in_time(table, 15)

    bench = await run(Bench(spec), chunks_of(stream), chunks_of(table), seed=7, crashes=25)

    def newest(event: Any) -> Any:
        older = [
            x for x in sorted(kept, key=lambda x: (x["t"], x["i"])) if x["k"] == event["k"] and x["t"] <= event["t"]
        ]
        return older[-1]["i"] if older else None

    got = {x["left"]["i"]: x.get("right", {}).get("i") for x in bench.values()}
    assert got == {x["i"]: newest(x) for x in stream}


@settings(max_examples=40, deadline=None)
@given(
    combine=st.sampled_from(
        [
            {"op": "join", "within_s": 3, "how": "outer", "lateness_s": 2},
            {"op": "lookup", "how": "left", "lateness_s": 2},
            {"op": "merge", "lateness_s": 2},
            {"op": "concat"},
            {"op": "zip", "length": "shortest"},
        ]
    ),
    seeds=st.tuples(st.integers(0, 999), st.integers(0, 999)),
    crashes=st.integers(0, 12),
)
def test_output_is_a_function_of_the_inputs_alone(combine: Any, seeds: tuple[int, int], crashes: int) -> None:
    """Runs, the order in which inputs are read, and crashes in the middle of a commit never show."""
    left, right = chunks_of(events(60, 31, late_every=9)), chunks_of(events(45, 32, late_every=7))
    windows = {"op": "window", "kind": "session", "gap_s": 2, "give": {"n": "count", "sum": "sum $.v"}}
    operators = [] if combine["op"] in {"join", "lookup", "zip"} else [windows]
    spec = two(combine, operators=operators, on_failure="dead_letter")

    async def outputs(seed: int, times: int) -> Any:
        bench = await run(Bench(spec), left, right, seed=seed, crashes=times)
        return bench.output, bench.sides

    once = asyncio.run(outputs(seeds[0], 0))
    again = asyncio.run(outputs(seeds[1], crashes))

    assert once == again


async def test_stateless_and_counting_operators_give_what_their_list_versions_give() -> None:
    made = [{"t": i, "k": KEYS[i % 3], "v": i, "tags": list(range(i % 3))} for i in range(60)]
    spec = one(
        [
            {"op": "filter", "where": {"path": "$.v", "test": "ge", "value": 5}},
            {"op": "skip", "count": 2},
            {"op": "take", "count": 40},
            {"op": "flat_map", "path": "$.tags"},
            {"op": "scan", "give": {"n": "count", "sum": "sum $"}},
            {"op": "map", "pick": {"total": "$.sum", "n": "$.n"}},
            {"op": "batch", "count": 4},
        ]
    )
    tags = [tag for event in made[5:][2:][:40] for tag in event["tags"]]
    running = [{"total": sum(tags[: at + 1]), "n": at + 1} for at in range(len(tags))]

    bench = await run(Bench(spec), chunks_of(made), seed=3, crashes=12)

    assert bench.values() == [running[at : at + 4] for at in range(0, len(running), 4)]


async def test_gates_distinct_and_reduce_give_what_their_list_versions_give() -> None:
    made = [{"t": i, "v": v} for i, v in enumerate([0, 0, 3, 1, 3, 2, 9, 1, 5])]
    below = {"path": "$.v", "test": "lt", "value": 3}
    cases: list[tuple[list[dict[str, Any]], list[Any]]] = [
        ([{"op": "take_while", "where": below}], [0, 0]),
        ([{"op": "skip_while", "where": below}], [3, 1, 3, 2, 9, 1, 5]),
        ([{"op": "until", "where": {"path": "$.v", "test": "gt", "value": 5}}], [0, 0, 3, 1, 3, 2, 9]),
        ([{"op": "distinct", "key": "$.v"}], [0, 3, 1, 2, 9, 5]),
        ([{"op": "distinct", "key": "$.v", "remembered_max": 2}], [0, 3, 1, 2, 9, 1, 5]),
    ]
    for operators, expected in cases:
        bench = await run(Bench(one([*operators, {"op": "map", "path": "$.v"}])), chunks_of(made), seed=9, crashes=4)
        assert bench.values() == expected, operators
    reduced = one([{"op": "reduce", "give": {"most": "max $.v", "mean": "mean $.v"}}])
    bench = await run(Bench(reduced), chunks_of(made), seed=9, crashes=4)
    assert bench.values() == [{"most": 9, "mean": 24 / 9}]


async def test_users_functions_map_filter_and_fold() -> None:
    spec = one(
        [
            {"op": "map", "function": "p:double"},
            {"op": "filter", "function": "p:even"},
            {"op": "scan", "function": "p:add"},
        ]
    )
    functions = {"p:double": lambda x: x["v"] * 3, "p:even": lambda x: x % 2 == 0, "p:add": lambda a, b: a + b}
    made = [{"t": i, "v": i} for i in range(9)]

    bench = await run(Bench(spec, functions), chunks_of(made), seed=1, crashes=5)

    assert bench.values() == [0, 6, 18, 36, 60]


async def test_parts_share_the_elements_and_keep_the_order_of_a_key() -> None:
    made = events(100, seed=41)
    outputs = []
    for part in range(3):
        spec = one([], parts=3, part_by="$.k")
        outputs.append((await run(Bench(spec, part=part), chunks_of(made), seed=part)).values())

    assert sorted(x["i"] for output in outputs for x in output) == list(range(100))
    for key in KEYS:
        (holder,) = [output for output in outputs if any(x["k"] == key for x in output)]
        assert [x["i"] for x in holder if x["k"] == key] == [x["i"] for x in made if x["k"] == key]


# Time.


async def test_a_watermark_closes_windows_without_an_event_of_any_key() -> None:
    spec = one([{"op": "window", "kind": "tumbling", "size_s": 10, "key": "$.k", "give": {"n": "count"}}])
    bench = Bench(spec)
    await bench.step(0, chunks_of([{"t": 1, "k": "a"}, {"t": 2, "k": "b"}], closed=False))
    assert bench.values() == []

    await bench.step(0, [Chunk(Kind.DATA, b"10", 0, WATERMARK_TYPE)])

    assert [(x["key"], x["n"]) for x in bench.values()] == [("a", 1), ("b", 1)]


async def test_progress_moves_time_on_where_elements_have_the_time_of_their_chunk() -> None:
    spec = definition(
        inputs=[{"stream": "s"}], operators=[{"op": "window", "kind": "tumbling", "size_s": 10, "give": {"n": "count"}}]
    )
    bench = Bench(spec)
    await bench.step(0, [Chunk(Kind.DATA, b"1", 3 * SECOND)])

    await bench.step(0, [Chunk(Kind.PROGRESS, b"{}", 10 * SECOND)])

    assert [x["n"] for x in bench.values()] == [1]


# What goes wrong.


@pytest.mark.parametrize(
    ("payload", "content_type", "says"),
    [
        (b"{broken", "", "no JSON"),
        (b"\xff\x00", "image/png", "neither JSON nor text"),
        (b'{"v": 1}', "", "there is no $.t"),
        (b'{"t": "noon"}', "", "is no time"),
        (b'{"t": 1e300}', "", "is no time"),
    ],
)
async def test_a_poison_record_goes_where_the_definition_says(payload: bytes, content_type: str, says: str) -> None:
    chunks = [*chunks_of([{"t": 1}], closed=False), Chunk(Kind.DATA, payload, 1, content_type), *chunks_of([{"t": 2}])]
    lettered, skipped, failed = (Bench(one([], on_failure=what)) for what in ("dead_letter", "skip", "fail"))

    await lettered.step(0, chunks)
    await skipped.step(0, chunks)
    with pytest.raises(PipelineFailed, match=says.replace("$", r"\$")):
        await failed.step(0, chunks)

    assert lettered.values() == skipped.values() == [{"t": 1}, {"t": 2}]
    assert says in lettered.side("failed")[0]["error"]["message"]
    assert skipped.sides == {}


async def test_what_a_function_may_not_give_fails_the_element() -> None:
    functions = {"p:maybe": lambda x: x["v"], "p:list": lambda x: x["v"]}
    made = [{"t": i, "v": v} for i, v in enumerate([True, 1, None, "yes", [2, 3]])]
    filtered = Bench(one([{"op": "filter", "function": "p:maybe"}], on_failure="dead_letter"), functions)
    flattened = Bench(one([{"op": "flat_map", "function": "p:list"}], on_failure="dead_letter"), functions)

    await filtered.step(0, chunks_of(made))
    await flattened.step(0, chunks_of(made))

    assert [x["v"] for x in filtered.values()] == [True]
    assert len(filtered.side("failed")) == 4
    assert flattened.values() == [2, 3]
    assert len(flattened.side("failed")) == 4


async def test_a_table_over_its_bound_ends_the_pipeline_and_says_why() -> None:
    spec = one(
        [{"op": "window", "kind": "tumbling", "size_s": 1000, "key": "$.v", "give": {"n": "count"}}], rows_max=10
    )
    bench = Bench(spec)

    with pytest.raises(Overflow, match="more than 10 rows"):
        await bench.step(0, chunks_of([{"t": 1, "v": v} for v in range(20)], closed=False))


async def test_a_join_whose_other_side_never_comes_holds_its_bound_and_is_not_read_on() -> None:
    spec = two({"op": "join", "within_s": 1, "lateness_s": LATENESS}, held_max=50)
    bench = Bench(spec)

    await bench.step(0, chunks_of(events(60, 1), closed=False))

    assert bench.values() == []
    assert not bench.chain.wants(0)
    assert bench.chain.wants(1)


async def test_both_sides_over_their_bound_end_the_pipeline() -> None:
    spec = two({"op": "join", "within_s": 1, "lateness_s": 1000}, held_max=50)
    bench = Bench(spec)
    await bench.step(0, chunks_of(events(60, 1), closed=False))

    with pytest.raises(Overflow, match="every input holds 50"):
        await bench.step(1, chunks_of(events(60, 2), closed=False))


async def test_state_that_another_process_wrote_into_is_not_believed() -> None:
    spec = one([{"op": "window", "kind": "tumbling", "size_s": 1000, "key": "$.k", "give": {"n": "count"}}])
    bench = Bench(spec)
    await bench.step(0, chunks_of(events(30, 1), closed=False))
    old = dict(bench.table)
    await bench.step(0, chunks_of(events(30, 2), closed=False))
    some = next(key for key in old if b"/" in key and b"clock" not in key)
    bench.table[some] = old[some]  # a late write of who had the job before

    bench._open()

    assert bench.restarts == 1
    assert bench.next == [0]
