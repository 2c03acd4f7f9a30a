"""Tasks that work on what others made."""

import asyncio
from typing import Any

import pytest
from tests.integration.conftest import Apex
from tests.integration.test_dispatch import ended_graph, member, submit_graph
from tests.integration.test_streams import until

from apexstream.client import Client, EnhancedTaskQueue, result_of, stream_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE_S = 60


async def data(apex: Apex, stream_id: str) -> list[Any]:
    """What the stream holds."""
    return [each["data"] for each in await apex.follow(stream_id) if each["type"] == "stream_update"]


async def test_a_graph_hands_results_and_streams_on_by_the_names_in_it(apex: Apex) -> None:
    graph_id = await submit_graph(
        apex,
        member("numbers", action="steady", params={"n": 5, "interval_s": 0}),
        member("sum", action="total", params={"value": {"$result": "numbers"}, "others": {"$stream": "numbers"}}),
    )

    states = await ended_graph(apex, graph_id)

    assert {state["status"] for state in states.values()} == {"completed"}
    assert await data(apex, f"{graph_id}.sum") == [{"value": 4, "others": [0, 1, 2, 3, 4], "sum": 14}]


async def test_what_a_failed_task_published_is_an_input_and_what_is_missing_has_a_default_or_fails(apex: Apex) -> None:
    none, some = {"$result": "none"}, {"$stream": "some"}
    graph_id = await submit_graph(
        apex,
        member("none", action="fail", params={"after": 0}, options={"max_attempts": 1}),
        member("some", action="fail", params={"after": 2}, options={"max_attempts": 1}),
        member("with", action="total", params={"value": none | {"default": 7}, "others": some}, when="ended"),
        member("without", action="total", params={"value": none}, when="ended"),
    )

    states = await ended_graph(apex, graph_id)

    assert states["with"]["status"] == "completed"
    assert await data(apex, f"{graph_id}.with") == [{"value": 7, "others": [0, 1], "sum": 8}]
    assert (states["without"]["status"], states["without"]["attempt"]) == ("failed", 1)
    assert states["without"]["error"]["code"] == "input_missing"
    assert states["without"]["error"]["where"] == f"{graph_id}.none"


async def test_an_upstream_that_was_erased_is_missing(apex: Apex) -> None:
    upstream = await apex.submit("steady", n=3, interval_s=0)
    await until(apex, upstream, "completed")
    assert (await apex.http.delete(f"/streams/{upstream}")).status_code == 202
    async with asyncio.timeout(DEADLINE_S):
        while True:
            last = (await apex.follow(upstream))[-1]
            if last["type"] == "error":
                break

    lost = await apex.submit("total", value={"$result": upstream})
    spared = await apex.submit("total", value={"$result": upstream, "default": 1})

    assert (await until(apex, lost, "failed"))["error"]["message"] == "the stream was erased"
    await until(apex, spared, "completed")


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"value": {"$result": "nobody"}}, "is not known"),
        ({"value": {"$result": "nobody", "more": 1}}, "a reference is"),
        ({"value": "text", "others": {"$stream": "nobody"}}, "is not of type 'integer'"),
    ],
)
async def test_a_reference_that_can_never_be_followed_is_refused(apex: Apex, params: dict[str, Any], told: str) -> None:
    if "integer" in told:
        await until(apex, await apex.submit("count", n=0), "completed")
        params = params | {"others": {"$stream": (await apex.submit("count", n=0))}}

    answer = await apex.http.post("/tasks", json={"plugin": "probe", "action": "total", "params": params})

    assert answer.status_code in {400, 422}
    assert told in answer.text


async def test_the_queue_of_python_programs_hands_on_what_tasks_made(apex: Apex) -> None:
    async with Client(apex.url) as client:
        queue = EnhancedTaskQueue(client)
        numbers = await queue.add("probe", "steady", {"n": 3, "interval_s": 0})
        total = await queue.add("probe", "total", {"value": result_of(numbers), "others": stream_of(numbers)})

        assert (await queue.wait(total, timeout_s=DEADLINE_S)).status == "completed"

    assert await data(apex, total.task_id) == [{"value": 2, "others": [0, 1, 2], "sum": 5}]
