"""Pipelines on a real broker: what processors write is what the definition says, live and replayed, whatever happens."""

import asyncio
import base64
from collections.abc import AsyncIterator

import pytest
import structlog
from tests.support.jobs import Log, processing, values
from tests.support.pipelines import chunks_of
from tests.support.streams import Author

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.claims import ClaimWords

FILTER = [{"op": "filter", "where": {"path": "$.v", "test": "ge", "value": 5}}]


@pytest.fixture
async def log(kafka: str) -> AsyncIterator[Log]:
    async with Log.open(kafka) as opened:
        yield opened


async def test_a_finished_stream_is_filtered_from_its_start(log: Log) -> None:
    await log.whole("s", chunks_of([{"v": v} for v in range(1000)]))
    async with processing(log.settings):
        await log.submit("out", inputs=[{"stream": "s"}], operators=FILTER)

        content = await log.until("out")

    assert values(content) == [{"v": v} for v in range(5, 1000)]
    assert content.fold.closed is Kind.COMPLETE


async def test_what_is_appended_later_flows_on_and_replays_to_the_same_bytes(log: Log) -> None:
    window = {"op": "window", "kind": "tumbling", "size_s": 10, "give": {"n": "count", "sum": "sum $.v"}}
    definition = {"inputs": [{"stream": "s", "time": "$.t", "unit": "s"}], "operators": [*FILTER, window]}
    chunks = chunks_of([{"t": v, "v": v % 7} for v in range(400)])
    author = Author("s")
    async with processing(log.settings):
        await log.submit("live", **definition)
        await log.append("s", author.claim(0), author.run(chunks[:150]))
        early = await log.until("live", count=10)
        for at in range(150, len(chunks), 50):
            await log.append("s", author.run(chunks[at : at + 50]))
        live = await log.until("live")
        await log.submit("replayed", **definition)

        replayed = await log.until("replayed")

    assert early.fold.closed is None
    assert live.chunks == replayed.chunks
    assert [x["n"] for x in values(live)] == [sum(t // 10 == w and t % 7 >= 5 for t in range(400)) for w in range(40)]


async def test_a_rewind_of_the_input_rewinds_the_output(log: Log) -> None:
    first, second = Author("s"), Author("s", attempt=2, writer="w2")
    async with processing(log.settings):
        await log.submit("out", inputs=[{"stream": "s"}], operators=FILTER)
        await log.append("s", first.claim(0), first.run(chunks_of([{"v": 5}, {"v": 6}], closed=False)))
        before = await log.until("out", count=2)
        await log.append("s", second.claim(0), second.run(chunks_of([{"v": 7}])))

        after = await log.until("out")

    assert values(before) == [{"v": 5}, {"v": 6}]
    assert values(after) == [{"v": 7}]


async def test_a_second_life_writes_on_where_the_output_ends(log: Log) -> None:
    author = Author("s")
    chunks = chunks_of([{"v": v} for v in range(300)])
    async with processing(log.settings):
        await log.submit("out", inputs=[{"stream": "s"}], operators=[{"op": "scan", "give": {"sum": "sum $.v"}}])
        await log.append("s", author.claim(0), author.run(chunks[:100]))
        await log.until("out", count=100)
    await log.append("s", author.run(chunks[100:]))
    async with processing(log.settings):
        content = await log.until("out")

    assert [x["sum"] for x in values(content)] == [v * (v + 1) // 2 for v in range(300)]
    assert content.fold.attempt == 2


@pytest.mark.parametrize(("last", "kind"), [(Kind.ERROR, Kind.ERROR), (Kind.CANCELLED, Kind.ERROR)])
async def test_an_input_that_does_not_complete_ends_the_output_with_an_error(log: Log, last: Kind, kind: Kind) -> None:
    chunks = [*chunks_of([{"v": 9}], closed=False), Chunk(last, b'{"message": "the disk is full"}', 5)]
    await log.whole("s", chunks)
    async with processing(log.settings):
        await log.submit("out", inputs=[{"stream": "s"}], operators=FILTER)

        content = await log.until("out")

    assert values(content) == [{"v": 9}]
    assert content.fold.closed is kind
    assert b"the disk is full" in content.chunks[-1].payload


async def test_functions_that_raise_hang_and_die_cost_their_element_and_nobody_else_waits(log: Log) -> None:
    await log.whole("s", chunks_of(["fine", "raise", "hang", "die", "nonsense", "fine too"]))
    async with processing(log.settings):
        trouble = [{"op": "map", "function": "probe:trouble"}]
        await log.submit(
            "bad", inputs=[{"stream": "s"}], operators=trouble, on_failure="dead_letter", function_timeout_s=2
        )
        await log.submit("missing", inputs=[{"stream": "s"}], operators=[{"op": "map", "function": "probe:nothing"}])
        await log.submit("good", inputs=[{"stream": "s"}])
        good = await log.until("good")
        missing = await log.until("missing")
        bad = await log.until("bad")
        letters = await log.until("bad.failed")

    assert len(values(good)) == 6
    assert b"no function 'nothing'" in missing.chunks[-1].payload
    assert values(bad) == ["FINE", "FINE TOO"]
    assert [letter["value"] for letter in values(letters)] == ["raise", "hang", "die", "nonsense"]
    assert "took longer than 2 s" in values(letters)[1]["error"]["message"]


async def test_a_failure_in_the_middle_writes_what_came_before_however_runs_are_cut(log: Log) -> None:
    chunks = chunks_of([{"v": v} if v != 57 else {"no": v} for v in range(100)])
    operators = [{"op": "map", "path": "$.v"}]
    await log.whole("one", chunks, run_size=100)
    await log.whole("many", chunks, run_size=3)
    async with processing(log.settings):
        await log.submit("from-one", inputs=[{"stream": "one"}], operators=operators)
        await log.submit("from-many", inputs=[{"stream": "many"}], operators=operators)
        outputs = [await log.until("from-one"), await log.until("from-many")]

    assert outputs[0].chunks == outputs[1].chunks
    assert values(outputs[0]) == list(range(57))
    assert outputs[0].fold.closed is Kind.ERROR


async def test_a_cancelled_pipeline_ends_its_output_with_a_receipt(log: Log) -> None:
    author = Author("s")
    definition = {"inputs": [{"stream": "s"}]}
    await log.append("s", author.claim(0), author.run(chunks_of([1, 2], closed=False)))
    async with processing(log.settings):
        await log.submit("out", **definition)
        await log.until("out", count=2)
        await log.submit("out", cancelled_us=5, **definition)

        content = await log.until("out")

    assert content.fold.closed is Kind.CANCELLED
    assert b'"reason":"enough","stopped_at_seq":2' in content.chunks[-1].payload


async def test_take_ends_the_output_while_the_input_goes_on(log: Log) -> None:
    author = Author("s")
    await log.append("s", author.claim(0), author.run(chunks_of(list(range(50)), closed=False)))
    async with processing(log.settings):
        await log.submit("out", inputs=[{"stream": "s"}], operators=[{"op": "take", "count": 3}])

        content = await log.until("out")

    assert values(content) == [0, 1, 2]
    assert content.fold.closed is Kind.COMPLETE


@pytest.mark.parametrize("exists", [True, False])
async def test_a_pipeline_reads_no_stream_of_another_tenant(log: Log, exists: bool) -> None:
    author = Author("theirs")
    runs = [author.claim(0, b'{"tenant":"them"}'), author.run(chunks_of([{"v": 9}]))]
    if exists:
        await log.append("theirs", *runs)
    async with processing(log.settings):
        await log.submit("ours", tenant="us", inputs=[{"stream": "theirs"}])
        if not exists:
            async with asyncio.timeout(30):
                while (await log.content("ours")).fold.attempt == 0:  # it waits for a stream of this name
                    await asyncio.sleep(0.05)
            await log.append("theirs", *runs)
        content = await log.until("ours")

    assert values(content) == []
    assert b"there is no such stream" in content.chunks[-1].payload


async def test_rows_that_were_deleted_stay_deleted_in_the_next_life(log: Log) -> None:
    window = {"op": "window", "kind": "tumbling", "size_s": 10, "key": "$.k", "give": {"n": "count"}}
    chunks = chunks_of([{"t": t, "k": t // 10} for t in range(200)])  # a row for each window
    author = Author("s")
    async with processing(log.settings):
        await log.submit("out", inputs=[{"stream": "s", "time": "$.t", "unit": "s"}], operators=[window])
        await log.append("s", author.claim(0))
        for at in range(0, 150, 25):  # a row is written by one step, deleted by the next, and a tombstone one later
            await log.append("s", author.run(chunks[at : at + 25]))
            await log.until("out", count=max(1, (at + 24) // 10))
    await log.append("s", author.run(chunks[150:]))
    with structlog.testing.capture_logs() as said:
        async with processing(log.settings):
            content = await log.until("out")

    assert [x["n"] for x in values(content)] == [10] * 20
    assert [line for line in said if line["log_level"] in {"warning", "error"}] == []


@pytest.mark.parametrize("sealed_from", [1, 2])
async def test_a_stream_that_is_encrypted_is_no_input_and_nothing_of_it_is_kept(log: Log, sealed_from: int) -> None:
    words = ClaimWords(key=base64.b64encode(b"wrapped").decode()).encode()
    first, second = Author("s"), Author("s", attempt=2, writer="w2")
    async with processing(log.settings):
        await log.submit("out", inputs=[{"stream": "s"}], operators=[])
        await log.append("s", first.claim(0, words if sealed_from == 1 else b""))
        await log.append("s", first.run(chunks_of([{"v": "secret"}], closed=False)))
        if sealed_from == 2:
            await log.until("out", count=1)
            await log.append("s", second.claim(0, words), second.run(chunks_of([{"v": "secret"}])))

        content = await log.until("out")

    assert content.fold.closed is Kind.ERROR
    assert b"encrypted" in content.chunks[-1].payload
    assert values(content) == []
