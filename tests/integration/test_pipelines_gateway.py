"""Pipelines as users meet them: submitted over HTTP, followed like any stream."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.integration.conftest import Apex
from tests.support.jobs import processing

from apexstream.client import Client
from apexstream.core.errors import ApexError, InvalidRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def piped(apex: Apex) -> AsyncIterator[Apex]:
    async with processing(apex.settings):
        yield apex


async def test_a_pipeline_is_submitted_followed_and_forgotten(piped: Apex) -> None:
    task = await piped.submit("count", n=200)
    async with Client(piped.url) as client:
        definition = {
            "inputs": [{"stream": task}],
            "operators": [
                {"op": "filter", "where": {"path": "$.i", "test": "lt", "value": 5}},
                {"op": "map", "function": "probe:double_i"},
                {"op": "map", "path": "$.i"},
            ],
        }
        made = await client.submit_pipeline(definition, pipeline_id="doubled")
        again = await client.submit_pipeline(definition, pipeline_id="doubled")

        frames = await piped.follow("doubled")

        assert [frame["data"] for frame in frames[:-1]] == [0, 2, 4, 6, 8]
        assert frames[-1]["type"] == "stream_complete"
        assert (made.streams, again.pipeline_id) == (("doubled",), "doubled")
        async with asyncio.timeout(30):
            while (await client.pipeline("doubled")).status != "complete":
                await asyncio.sleep(0.1)  # until its end is sealed
        assert [each.pipeline_id for each in await client.pipelines()] == ["doubled"]
        await client.cancel_pipeline("doubled")
        async with asyncio.timeout(30):
            while await client.pipelines():
                await asyncio.sleep(0.05)
        assert len(await piped.follow("doubled")) == len(frames)


async def test_a_watermark_that_a_plugin_yields_closes_windows_while_its_stream_is_open(piped: Apex) -> None:
    task = await piped.submit("readings", times=(1, 2), watermark=10)
    window = {"op": "window", "kind": "tumbling", "size_s": 10, "give": {"n": "count"}}
    async with Client(piped.url) as client:
        await client.submit_pipeline(
            {"inputs": [{"stream": task, "time": "$.t", "unit": "s"}], "operators": [window]}, pipeline_id="windowed"
        )
        frames = await piped.follow("windowed")

    assert [frame["data"]["n"] for frame in frames[:-1]] == [2]


async def test_a_running_pipeline_is_cancelled_with_a_receipt(piped: Apex) -> None:
    task = await piped.submit("silent", before=2)
    async with Client(piped.url) as client:
        await client.submit_pipeline({"inputs": [{"stream": task}]}, pipeline_id="endless")
        following = asyncio.create_task(piped.follow("endless"))
        cancelling = await client.cancel_pipeline("endless")
        frames = await following
        await client.cancel(task)

    assert cancelling.status == "cancelling"
    assert frames[-1]["type"] == "stream_cancelled"


@pytest.mark.parametrize(
    ("definition", "where", "says"),
    [
        ({"inputs": []}, "$.inputs", "not from 1 to 8"),
        ({"inputs": [{"stream": "a b"}]}, "$.inputs[0].stream", "not a valid stream_id"),
        ({"inputs": [{"stream": "s"}], "operators": [{"op": "mop"}]}, "$.operators[0].op", "mop"),
        ({"inputs": [{"stream": "s"}], "operators": [{"op": "map"}]}, "$.operators[0]", "exactly one of path, pick"),
        ({"inputs": [{"stream": "s"}], "operators": [{"op": "take", "n": 3}]}, "$.operators[0]", "unknown field `n`"),
        ({"inputs": [{"stream": "s", "time": "ts"}]}, "$.inputs[0].time", "no path"),
        ({"inputs": [{"stream": "a"}, {"stream": "b"}]}, "$.combine", "2 inputs and no combine"),
        (
            {"inputs": [{"stream": "a"}, {"stream": "b"}], "combine": {"op": "join", "within_s": 1}},
            "$.inputs[0].key",
            "a key is missing",
        ),
        (
            {
                "inputs": [{"stream": "s"}],
                "operators": [{"op": "window", "kind": "hopping", "size_s": 1, "hop_s": 2, "give": {"n": "count"}}],
            },
            "$.operators[0].hop_s",
            "at most size_s",
        ),
        (
            {"inputs": [{"stream": "s"}], "operators": [{"op": "reduce", "give": {"n": "median $.v"}}]},
            "$.operators[0].give.n",
            "is no fold",
        ),
        ({"inputs": [{"stream": "mine"}]}, "$.inputs[0].stream", "read what it writes"),
    ],
)
async def test_a_definition_that_could_never_run_is_refused_with_its_place(
    apex: Apex, definition: Any, where: str, says: str
) -> None:
    answer = await apex.http.post("/pipelines", json={"pipeline_id": "mine", "definition": definition})

    error = answer.json()["error"]
    assert answer.status_code == 422
    assert error["code"] == "invalid_pipeline"
    assert (error["where"], says in error["message"].lower()) == (where, True), error


async def test_an_id_that_is_taken_is_refused(piped: Apex) -> None:
    task = await piped.submit("count", n=1)
    async with Client(piped.url) as client:
        with pytest.raises((InvalidRequest, ApexError), match="exists"):
            await client.submit_pipeline({"inputs": [{"stream": "x"}]}, pipeline_id=task)
        with pytest.raises(ApexError, match="no pipeline"):
            await client.pipeline("nothing-here")
