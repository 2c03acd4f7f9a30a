"""The same input through the operators of a plugin and through a durable pipeline gives the same."""

import random
import re
from collections.abc import Callable
from math import fsum
from pathlib import Path
from typing import Any, TypeVar, get_args

import pytest
from tests.support.pipelines import SECOND, Bench, chunks_of, definition, run

from apexstream.core.operators import Combine, Operator
from apexstream.plugin import operators as op
from apexstream.plugin import stream

LATENESS = 5
DOCUMENT = Path(__file__).parents[2] / "docs" / "pipelines.md"
COVERED: set[str] = set()
NONE = "\N{EN DASH}"
_T = TypeVar("_T")


def covers(*names: str) -> Callable[[_T], _T]:
    """This test runs these operators in both forms."""

    def mark(test: _T) -> _T:
        COVERED.update(names)
        return test

    return mark


def events(seed: int, late_every: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {"t": max(0, n - draw.randint(0, LATENESS - 1) - (40 if late_every and n % late_every == 1 else 0)), "i": n}
        | {"k": draw.choice("abc"), "v": draw.randint(0, 50), "tags": list(range(n % 4))}
        for n in range(200)
    ]


async def piped(
    operators: list[dict[str, Any]], made: list[Any], *, functions: Any = None, side: str = ""
) -> list[Any]:
    spec = definition(inputs=[{"stream": "s", "time": "$.t", "unit": "s"}], operators=operators)
    bench = await run(Bench(spec, functions), chunks_of(made), seed=3, crashes=8)
    return bench.side(side) if side else bench.values()


def where(path: str, test: str, value: Any) -> dict[str, Any]:
    return {"path": path, "test": test, "value": value}


def _told(values: list[int]) -> dict[str, float]:
    return {"min": min(values), "max": max(values), "mean": fsum(values) / len(values), "sum": sum(values)}


CASES: list[tuple[Any, list[dict[str, Any]]]] = [
    (lambda s: s.map(lambda x: x["v"]), [{"op": "map", "path": "$.v"}]),
    (lambda s: s.map(lambda x: {"a": x["v"], "b": x["k"]}), [{"op": "map", "pick": {"a": "$.v", "b": "$.k"}}]),
    (lambda s: s.filter(lambda x: x["v"] > 25), [{"op": "filter", "where": where("$.v", "gt", 25)}]),
    (lambda s: s.flat_map(lambda x: x["tags"]), [{"op": "flat_map", "path": "$.tags"}]),
    (lambda s: s.take(17), [{"op": "take", "count": 17}]),
    (lambda s: s.skip(17), [{"op": "skip", "count": 17}]),
    (lambda s: s.take_while(lambda x: x["i"] < 30), [{"op": "take_while", "where": where("$.i", "lt", 30)}]),
    (lambda s: s.skip_while(lambda x: x["i"] < 30), [{"op": "skip_while", "where": where("$.i", "lt", 30)}]),
    (lambda s: s.until(lambda x: x["v"] == 7), [{"op": "until", "where": where("$.v", "eq", 7)}]),
    (lambda s: s.distinct(lambda x: x["v"]), [{"op": "distinct", "key": "$.v"}]),
    (
        lambda s: s.distinct(lambda x: x["v"], remembered_max=9),
        [{"op": "distinct", "key": "$.v", "remembered_max": 9}],
    ),
    (lambda s: s.batch(7), [{"op": "batch", "count": 7}]),
    (
        lambda s: s.map(lambda x: x["v"]).scan(lambda a, b: a + b),
        [{"op": "map", "path": "$.v"}, {"op": "scan", "function": "p:add"}],
    ),
    (
        lambda s: s.map(lambda x: x["v"]).reduce(lambda a, b: a + b),
        [{"op": "map", "path": "$.v"}, {"op": "reduce", "function": "p:add"}],
    ),
    (
        lambda s: s.scan(lambda sofar, x: (sofar[0] + 1, sofar[1] + x["v"]), (0, 0))
        .skip(1)
        .map(lambda sofar: {"n": sofar[0], "sum": sofar[1]}),
        [{"op": "scan", "give": {"n": "count", "sum": "sum $.v"}}],
    ),
    (
        lambda s: s.map(lambda x: [x["v"]]).reduce(lambda a, b: a + b).map(_told),
        [{"op": "reduce", "give": {"min": "min $.v", "max": "max $.v", "mean": "mean $.v", "sum": "sum $.v"}}],
    ),
    (lambda s: s.flat_map(lambda x: x["tags"] * 2), [{"op": "flat_map", "function": "p:twice"}]),
    (lambda s: s.map(lambda x: x["v"] * 2).filter(lambda v: v % 3 == 0), [
        {"op": "map", "function": "p:double"},
        {"op": "filter", "function": "p:third"},
    ]),
]  # fmt: skip
COVERED |= {each["op"] for _, operators in CASES for each in operators}
FUNCTIONS = {
    "p:twice": lambda x: x["tags"] * 2,
    "p:add": lambda a, b: a + b,
    "p:double": lambda x: x["v"] * 2,
    "p:third": lambda v: v % 3 == 0,
}


@pytest.mark.parametrize(("plugin", "operators"), CASES, ids=[str(case[1])[:60] for case in CASES])
async def test_an_operator_gives_the_same_in_both_forms(plugin: Any, operators: list[dict[str, Any]]) -> None:
    made = events(1)

    assert await piped(operators, made, functions=FUNCTIONS) == await plugin(stream(made)).to_list()


@covers("window")
@pytest.mark.parametrize(
    ("kind", "operator"),
    [
        (op.Tumbling(10), {"kind": "tumbling", "size_s": 10}),
        (op.Hopping(10, 4), {"kind": "hopping", "size_s": 10, "hop_s": 4}),
        (op.Sliding(6), {"kind": "sliding", "size_s": 6}),
        (op.Session(4), {"kind": "session", "gap_s": 4}),
    ],
)
@pytest.mark.parametrize("late_every", [0, 17])
async def test_windows_and_what_is_late_are_the_same_in_both_forms(kind: Any, operator: Any, late_every: int) -> None:
    made = events(2, late_every)
    late: list[Any] = []
    windows = await (
        stream(made)
        .window(kind, time_of=lambda x: x["t"], key_of=lambda x: x["k"], lateness=LATENESS, late=late.append)
        .to_list()
    )
    durable = {"op": "window", "key": "$.k", "lateness_s": LATENESS, "give": {"all": "list $.i"}, **operator}

    got = await piped([durable], made)

    assert [(x["key"], x["start"], x["end"], x["all"]) for x in got] == [
        (w.key, w.start * SECOND, w.end * SECOND, [x["i"] for x in w.elements]) for w in windows
    ]
    assert await piped([durable], made, side="late") == late
    assert bool(late) == bool(late_every)


@covers("join")
@pytest.mark.parametrize("how", ["inner", "left", "right", "outer"])
async def test_joins_are_the_same_in_both_forms(how: str) -> None:
    left, right = events(3, 23), events(4, 19)
    late: list[Any] = []
    joining = op.join(
        left,
        right,
        within=3,
        key_of=lambda x: x["k"],
        time_of=lambda x: x["t"],
        how=how,  # type: ignore[arg-type]
        lateness=LATENESS,
        late=late.append,
    )
    joined = await stream(joining).to_list()
    inputs = [{"stream": name, "time": "$.t", "unit": "s", "key": "$.k"} for name in ("left", "right")]
    spec = definition(inputs=inputs, combine={"op": "join", "within_s": 3, "how": how, "lateness_s": LATENESS})

    bench = await run(Bench(spec), chunks_of(left), chunks_of(right), seed=5, crashes=8)

    def place(side: Any) -> Any:
        return None if side is op.MISSING or side is None else side["i"]

    got = [(x["key"], place(x.get("left")), place(x.get("right"))) for x in bench.values()]
    assert sorted(got, key=str) == sorted(((j.key, place(j.left), place(j.right)) for j in joined), key=str)
    assert sorted(x["i"] for side in ("late0", "late1") for x in bench.side(side)) == sorted(x["i"] for x in late)


@covers("lookup")
@pytest.mark.parametrize("how", ["inner", "left"])
async def test_lookups_and_what_is_late_are_the_same_in_both_forms(how: Any) -> None:
    left, table = events(7, 23), events(8, 19)[::3]
    late: list[Any] = []
    looking = op.lookup(
        left, table, key_of=lambda x: x["k"], time_of=lambda x: x["t"], how=how, lateness=LATENESS, late=late.append
    )
    inputs = [{"stream": name, "time": "$.t", "unit": "s", "key": "$.k"} for name in ("left", "table")]
    spec = definition(inputs=inputs, combine={"op": "lookup", "how": how, "lateness_s": LATENESS})

    found = await stream(looking).to_list()
    bench = await run(Bench(spec), chunks_of(left), chunks_of(table), seed=5, crashes=8)

    assert bench.values() == [
        {"key": j.key, "left": j.left} | ({} if j.right is op.MISSING else {"right": j.right}) for j in found
    ]
    assert bench.side("late0") + bench.side("late1") == sorted(late, key=lambda x: x not in left)
    assert late


@covers("merge")
async def test_a_merge_gives_the_same_elements_in_both_forms_and_in_a_pipeline_by_their_time() -> None:
    left, right = events(9), events(10)
    inputs = [{"stream": name, "time": "$.t", "unit": "s"} for name in ("left", "right")]
    spec = definition(inputs=inputs, combine={"op": "merge", "lateness_s": LATENESS})

    merged = await stream(op.merge(left, right)).to_list()
    bench = await run(Bench(spec), chunks_of(left), chunks_of(right), seed=6, crashes=8)

    assert sorted(bench.values(), key=str) == sorted(merged, key=str)
    assert [x["t"] for x in bench.values()] == sorted(x["t"] for x in merged)


async def test_a_partition_gives_each_key_to_one_part_and_keeps_its_order() -> None:
    made = events(11)
    branches = op.flat_map(
        op.partition(made, lambda x: x["k"]), lambda branch: op.batch(branch[1], 1_000), concurrency=3, ordered=False
    )
    spec = definition(inputs=[{"stream": "s"}], parts=4, part_by="$.k")

    parts = [(await run(Bench(spec, part=part), chunks_of(made), seed=part)).values() for part in range(4)]

    for branch in await stream(branches).to_list():
        key = branch[0]["k"]
        (home,) = [part for part in parts if any(x["k"] == key for x in part)]
        assert [x for x in home if x["k"] == key] == branch


@covers("zip", "concat")
async def test_zip_and_concat_are_the_same_in_both_forms() -> None:
    left, right = events(5)[:30], events(6)[:40]
    inputs = [{"stream": name} for name in ("left", "right")]
    zipped = definition(inputs=inputs, combine={"op": "zip", "length": "shortest"})
    concatenated = definition(inputs=inputs, combine={"op": "concat"})

    durable_zip = await run(Bench(zipped), chunks_of(left), chunks_of(right), seed=1, crashes=6)
    durable_concat = await run(Bench(concatenated), chunks_of(left), chunks_of(right), seed=2, crashes=6)

    assert durable_zip.values() == [
        list(pair) for pair in await stream(op.zip(left, right, length="shortest")).to_list()
    ]
    assert durable_concat.values() == await stream(op.concat(left, right)).to_list()


def _rows() -> dict[str, tuple[str, str]]:
    """The document's table: of each operator what there is in a plugin, and what in a pipeline."""
    text = DOCUMENT.read_text().partition("## Operators, in both forms")[2]
    found: dict[str, tuple[str, str]] = {}
    for line in re.findall(r"^\| `.*$", text, re.MULTILINE):
        names, plugin, pipeline = (cell.strip() for cell in line.strip("|").split("|")[:3])
        for name in re.findall(r"`(\w+)`", names):
            found[name] = (plugin, pipeline)
    return found


def test_every_operator_of_a_pipeline_is_run_in_both_forms() -> None:
    assert {str(kind.__struct_config__.tag) for kind in (*get_args(Operator), *get_args(Combine))} == COVERED


def test_the_document_says_of_every_operator_in_which_forms_it_exists() -> None:
    rows = _rows()
    values = {"threaded", "opened", "stream", "retrying", "words", "worth_retrying", "payload_bytes", "replace", "stop"}
    own = {name for name in op.__all__ if name[0].islower()} - values - {"dead_letter", "skip_failed"}
    assert {name for name, (plugin, _) in rows.items() if not plugin.startswith(NONE)} >= own
    durable = {name for name, (_, pipeline) in rows.items() if not pipeline.startswith(NONE)}
    assert durable == COVERED | {"partition", "split"}
