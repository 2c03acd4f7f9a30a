"""Text, CSV, JSON paths, samples and statistics."""

import csv
import io
import random
import statistics
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.plugin import operators as op
from apexstream.plugin.operators import BadRow, Overflow, stream

SOME = settings(max_examples=100, deadline=None)
TEXT = st.text("ab\n\r\u2028é\U0001f600", max_size=40)


def pieces(whole: Any, seed: int) -> list[Any]:
    """``whole`` cut at random places."""
    cuts = sorted(random.Random(seed).randrange(len(whole) + 1) for _ in range(5))
    return [whole[first:last] for first, last in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@SOME
@given(TEXT, st.integers(0, 99))
async def test_lines_are_the_same_however_the_text_is_cut(text: str, seed: int) -> None:
    *complete, rest = text.split("\n")
    expected = [line.removesuffix("\r") for line in complete] + ([rest] if rest else [])

    assert await stream(pieces(text, seed)).lines().to_list() == expected
    assert await stream(pieces(text.encode(), seed)).lines().to_list() == expected
    assert "".join(await stream(op.lines(pieces(text, seed), keep_ends=True)).to_list()) == text


async def test_a_line_without_end_is_bounded_and_broken_text_is_an_error() -> None:
    with pytest.raises(Overflow):
        await stream(["x" * 60, "x" * 60]).lines(line_chars_max=100).to_list()
    with pytest.raises(UnicodeDecodeError):
        await stream([b"\xff\n"]).lines().to_list()
    with pytest.raises(UnicodeDecodeError):
        await stream(["é".encode()[:1]]).lines().to_list()


CELLS = st.text('ab,;"\n é', max_size=6)


@SOME
@given(st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=6), st.integers(0, 99), st.sampled_from(",;"))
async def test_csv_rows_are_those_that_were_written(rows: list[list[str]], seed: int, delimiter: str) -> None:
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([["x", "y"], *rows])

    got = await stream(pieces(file.getvalue(), seed)).csv_rows(delimiter=delimiter).to_list()
    plain = await stream(op.csv_rows(pieces(file.getvalue(), seed), header=False, delimiter=delimiter)).to_list()

    assert got == [{"x": x, "y": y} for x, y in rows]
    assert plain == [["x", "y"], *rows]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a,b\n1\n", "line 2"),
        ('a\n"1\n2\n', "line 2"),
        ('a\n"1"x\n', "line 2"),
        ("a,a\n1,2\n", "line 1"),
        ('a\n\n\n"1"x', "line 4"),
    ],
)
async def test_a_bad_row_is_an_error_that_names_its_line(text: str, line: str) -> None:
    with pytest.raises(BadRow, match=line):
        await stream([text]).csv_rows().to_list()


async def test_a_quote_that_is_never_closed_is_bounded_and_quick() -> None:
    with pytest.raises(Overflow):
        await stream(op.csv_rows(['a\n"', *['""\n'] * 100_000], row_chars_max=100_000)).to_list()


DOCUMENT = {"a": [{"b": 1}, {"b": None}, {"c": 3}], "d e": {"x": [1, 2, 3, 4]}}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$", [DOCUMENT]),
        ("$.a[*].b", [1, None]),
        ("$.a[0]", [{"b": 1}]),
        ("$.a[-1].c", [3]),
        ("$.a[9]", []),
        ("$['d e'].x[1:3]", [2, 3]),
        ('$["d e"]["x"][-2:]', [3, 4]),
        ("$.a.b", []),
        ("$.*.x[:1]", [1]),
        ("$.a[*][*]", [1, None, 3]),
    ],
)
async def test_json_paths_find_what_rfc_9535_says(path: str, expected: list[Any]) -> None:
    assert await stream([DOCUMENT]).json_path(path).to_list() == expected


@pytest.mark.parametrize("path", ["a", "$..a", "$[?@.b]", "$.a[0,1]", "$.a[::2]", "$a", "$.", "$['a", '$["\\u0061"]'])
def test_a_path_beyond_the_subset_is_refused_when_the_stream_is_built(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|understood"):
        stream([1]).json_path(path)


async def test_tokens_are_counted_piece_by_piece_with_the_sum() -> None:
    counted = await stream(["Hello, world!", "", "it's"]).count_tokens().to_list()

    assert [(c.tokens, c.total) for c in counted] == [(4, 4), (0, 4), (3, 7)]
    assert (await stream(["abc"]).count_tokens(list).first()).tokens == 3


async def test_a_sample_is_repeatable_and_about_as_large_as_asked() -> None:
    first = await stream(range(10_000)).sample(0.1, seed=7).to_list()

    assert first == await stream(range(10_000)).sample(0.1, seed=7).to_list()
    assert first != await stream(range(10_000)).sample(0.1, seed=8).to_list()
    assert 900 < len(first) < 1100
    assert await stream(range(5)).sample(0, seed=1).to_list() == []


async def test_every_element_is_as_likely_to_be_in_the_reservoir() -> None:
    counts: Counter[int] = Counter()
    for seed in range(2000):
        (held,) = await stream(range(10)).reservoir(3, seed=seed).to_list()
        assert len(held) == 3
        assert held == sorted(held)
        counts.update(held)

    assert all(500 < counts[x] < 700 for x in range(10))


async def test_a_reservoir_of_few_elements_holds_them_all() -> None:
    assert await stream([None, 1]).reservoir(5, seed=1).to_list() == [[None, 1]]
    assert await stream([]).reservoir(5, seed=1).to_list() == [[]]


@SOME
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.sampled_from([0.0, 1e9]))
async def test_running_statistics_are_those_of_the_numbers_so_far(numbers: list[float], offset: float) -> None:
    shifted = [number + offset for number in numbers]

    got = await stream(shifted).statistics().to_list()

    last = got[-1]
    assert [found.count for found in got] == list(range(1, len(numbers) + 1))
    assert (last.minimum, last.maximum) == (min(shifted), max(shifted))
    assert last.mean == pytest.approx(statistics.fmean(shifted), rel=1e-9, abs=1e-6)
    if len(numbers) > 1:
        assert last.deviation == pytest.approx(statistics.stdev(shifted), rel=1e-4, abs=1e-4)
