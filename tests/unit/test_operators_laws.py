"""Operators give what the list versions give, and compose as they should, whatever the elements."""

import asyncio
import functools
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.plugin import operators as op
from apexstream.plugin.operators import Stream, StreamComposer, Uneven, stream

ELEMENTS = st.lists(st.none() | st.integers(-5, 5), max_size=20)
NUMBERS = st.lists(st.integers(-5, 5), max_size=20)
COUNT = st.integers(0, 8)
FEW = settings(max_examples=60, deadline=None)


async def listed(source: Any) -> list[Any]:
    return await stream(source).to_list()


def double(element: int | None) -> Any:
    return (element, element)


def is_small(element: int | None) -> bool:
    return element is None or element < 2


def repeated(element: int | None) -> list[Any]:
    return [element] * (0 if element is None else abs(element) % 3)


async def later(value: Any) -> Any:
    for _ in range((value or 0) % 4):  # so that calls end in another order than they began
        await asyncio.sleep(0)
    return value


@FEW
@given(ELEMENTS, COUNT)
async def test_each_operator_gives_what_its_list_version_gives(xs: list[Any], n: int) -> None:
    assert await listed(op.map(xs, double)) == [double(x) for x in xs]
    assert await listed(op.filter(xs, is_small)) == [x for x in xs if is_small(x)]
    assert await listed(op.tap(xs, double)) == xs
    assert await listed(op.flat_map(xs, repeated)) == [y for x in xs for y in repeated(x)]
    assert await listed(op.take(xs, n)) == xs[:n]
    assert await listed(op.skip(xs, n)) == xs[n:]
    assert await listed(op.take_while(xs, is_small)) == list(itertools.takewhile(is_small, xs))
    assert await listed(op.skip_while(xs, is_small)) == list(itertools.dropwhile(is_small, xs))
    assert await listed(op.distinct(xs)) == list(dict.fromkeys(xs))
    assert await listed(op.batch(xs, n + 1)) == [xs[at : at + n + 1] for at in range(0, len(xs), n + 1)]
    assert await listed(op.buffer(xs, n + 1)) == xs


@FEW
@given(NUMBERS)
async def test_folds_give_what_itertools_and_functools_give(xs: list[int]) -> None:
    add = int.__add__

    assert await listed(op.scan(xs, add)) == list(itertools.accumulate(xs))
    assert await listed(op.scan(xs, add, 10)) == list(itertools.accumulate(xs, initial=10))
    assert await listed(op.reduce(xs, add, 10)) == [functools.reduce(add, xs, 10)]
    assert await listed(op.reduce(xs, add)) == ([functools.reduce(add, xs)] if xs else [])


@FEW
@given(st.lists(ELEMENTS, max_size=4))
async def test_compositions_give_what_their_list_versions_give(lists: list[list[Any]]) -> None:
    rows = list(itertools.zip_longest(*lists, fillvalue="-"))

    assert await listed(op.concat(*lists)) == [x for xs in lists for x in xs]
    assert await listed(op.zip(*lists, length="shortest")) == list(zip(*lists, strict=False))
    assert await listed(op.zip(*lists, length="longest", fill="-")) == rows
    turns = itertools.zip_longest(*lists, fillvalue=Ellipsis)
    assert await listed(op.interleave(*lists)) == [x for turn in turns for x in turn if x is not Ellipsis]


@FEW
@given(ELEMENTS, ELEMENTS)
async def test_a_strict_zip_fails_exactly_where_the_built_in_one_does(xs: list[Any], ys: list[Any]) -> None:
    got: list[Any] = []
    zipped = StreamComposer().zip(xs, ys).tap(got.append)

    if len(xs) == len(ys):
        await zipped.to_list()
    else:
        with pytest.raises(Uneven):
            await zipped.to_list()

    assert got == list(zip(xs, ys, strict=False))


@FEW
@given(st.lists(st.lists(st.integers(), max_size=9), max_size=4), st.integers(0, 3), st.booleans())
async def test_merge_keeps_every_element_once_and_each_sources_order(
    lists: list[list[int]], ahead_max: int, priority: bool
) -> None:
    tagged = [[(place, x) for x in xs] for place, xs in enumerate(lists)]

    got = await listed(op.merge(*tagged, ahead_max=ahead_max, priority=priority))

    assert [[x for at, x in got if at == place] for place in range(len(lists))] == lists
    assert len(got) == sum(map(len, lists))


@FEW
@given(NUMBERS, st.integers(2, 5))
async def test_concurrency_changes_no_result_and_unordered_only_the_order(xs: list[int], n: int) -> None:
    async def several(x: int) -> Any:
        return repeated(await later(x))

    assert await listed(op.map(xs, later, concurrency=n)) == xs
    assert sorted(await listed(op.map(xs, later, concurrency=n, ordered=False))) == sorted(xs)
    assert await listed(op.filter(xs, later, concurrency=n)) == [x for x in xs if x]
    flat = [y for x in xs for y in repeated(x)]
    assert await listed(op.flat_map(xs, several, concurrency=n)) == flat
    assert sorted(await listed(op.flat_map(xs, several, concurrency=n, ordered=False))) == sorted(flat)


@FEW
@given(ELEMENTS, COUNT, COUNT)
async def test_composition_laws_hold(xs: list[Any], m: int, n: int) -> None:
    def same(left: Stream[Any], right: Stream[Any]) -> Any:
        return _same(left, right)

    await same(op.map(xs, lambda x: x), stream(xs))
    await same(op.map(op.map(xs, double), str), op.map(xs, lambda x: str(double(x))))
    await same(op.filter(op.filter(xs, is_small), bool), op.filter(xs, lambda x: is_small(x) and bool(x)))
    await same(op.filter(op.map(xs, double), all), op.map(op.filter(xs, lambda x: all(double(x))), double))
    await same(op.flat_map(xs, lambda x: [x]), stream(xs))
    await same(
        op.flat_map(op.flat_map(xs, repeated), double), op.flat_map(xs, lambda x: op.flat_map(repeated(x), double))
    )
    await same(op.take(op.take(xs, m), n), op.take(xs, min(m, n)))
    await same(op.skip(op.skip(xs, m), n), op.skip(xs, m + n))
    await same(op.concat(op.take(xs, n), op.skip(xs, n)), stream(xs))
    await same(op.distinct(op.distinct(xs)), op.distinct(xs))
    await same(op.flat_map(op.batch(xs, n + 1), lambda b: b), stream(xs))
    await same(op.concat(op.concat(xs, xs), xs), op.concat(xs, op.concat(xs, xs)))
    await same(op.merge(xs), stream(xs))
    await same(op.race(xs), stream(xs))
    await same(op.until(xs, is_small), op.take(xs, next((i + 1 for i, x in enumerate(xs) if is_small(x)), len(xs))))


async def _same(left: Stream[Any], right: Stream[Any]) -> None:
    assert await listed(left) == await listed(right)


@FEW
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 25), st.integers(1, 5))
async def test_batches_hold_everything_and_never_more_than_their_bounds(
    sizes: list[int], most: int, count: int
) -> None:
    batches = await listed(op.batch(sizes, count, bytes_max=most, size_of=lambda size: size))

    assert [size for batch in batches for size in batch] == sizes
    assert all(len(batch) <= count and (sum(batch) <= most or len(batch) == 1) for batch in batches)
    for batch, following in itertools.pairwise(batches):
        assert len(batch) == count or sum(batch) + following[0] > most or sum(batch) >= most


@FEW
@given(st.lists(st.integers(0, 6), max_size=40), st.integers(1, 7))
async def test_distinct_forgets_the_key_not_seen_for_longest(keys: list[int], most: int) -> None:
    recent: list[int] = []
    expected = []
    for key in keys:
        if key in recent:
            recent.remove(key)
        else:
            expected.append(key)
        recent = [*recent, key][-most:]

    assert await listed(op.distinct(keys, remembered_max=most)) == expected


@FEW
@given(ELEMENTS, st.integers(1, 4))
async def test_every_consumer_of_a_broadcast_gets_everything(xs: list[Any], consumers: int) -> None:
    hub = op.broadcast(xs, ahead_max=2, consumers_min=consumers)
    streams = [hub.subscribe() for _ in range(consumers)]

    async with hub:
        got = await asyncio.gather(*map(listed, streams))

    assert got == [xs] * consumers


@FEW
@given(NUMBERS)
async def test_branches_of_a_split_and_of_a_partition_hold_each_element_once(xs: list[int]) -> None:
    async with op.split(xs, lambda x: x < 0, lambda x: x % 2) as branches:
        negative, odd, rest = await asyncio.gather(*map(listed, branches))
    parts = op.partition(xs, lambda x: x % 3)
    collected = op.flat_map(parts, lambda part: op.batch(op.map(part[1], lambda x: (part[0], x)), 99), concurrency=3)

    assert negative == [x for x in xs if x < 0]
    assert odd == [x for x in xs if x >= 0 and x % 2]
    assert rest == [x for x in xs if x >= 0 and x % 2 == 0]
    got = {batch[0][0]: [x for _, x in batch] for batch in await listed(collected)}
    assert got == {key: [x for x in xs if x % 3 == key] for key in {x % 3 for x in xs}}


@FEW
@given(st.lists(st.sampled_from("ab"), max_size=12))
async def test_combine_latest_gives_the_newest_of_each_at_every_arrival(script: list[str]) -> None:
    told = {name: asyncio.Queue[int]() for name in "ab"}

    async def source(name: str) -> Any:
        while (value := await told[name].get()) >= 0:
            yield value

    got: list[Any] = []
    reading = asyncio.create_task(stream(op.combine_latest(source("a"), source("b"))).for_each(got.append))
    expected, newest = [], dict[str, int]()
    for value, name in enumerate(script):
        told[name].put_nowait(value)
        newest[name] = value
        if len(newest) == 2:
            expected.append((newest["a"], newest["b"]))
        for _ in range(12):
            await asyncio.sleep(0)
    for queue in told.values():
        queue.put_nowait(-1)
    await reading

    assert got == expected
