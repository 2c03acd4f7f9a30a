"""GET /stats as users meet it: what a task did is there while it runs and afterwards, for whoever may read it."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from tests.integration.conftest import Apex
from tests.support.jobs import processing

from apexstream.client import Client, StreamingMetricsCollector
from apexstream.core.errors import InvalidRequest

pytestmark = pytest.mark.asyncio(loop_scope="module")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CHUNKS = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def counted(apex: Apex) -> AsyncIterator[tuple[Client, str]]:
    """A client, and a stream that took two seconds and has ended."""
    async with processing(apex.settings.model_copy(update={"stats": "on"})), Client(apex.url) as client:
        body = {"plugin": "probe", "action": "count", "params": {"n": CHUNKS, "interval_s": 0.05}}
        async with httpx.AsyncClient(base_url=apex.url) as http:
            answer = await http.post("/tasks", json=body, headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
        stream_id = answer.json()["stream_id"]
        async with asyncio.timeout(60):
            while not await ended(client, stream_id):
                await asyncio.sleep(0.2)
        yield client, stream_id


async def ended(client: Client, stream_id: str) -> bool:
    try:
        stats = await client.stats(stream=stream_id)
        return bool(stats.totals and stats.totals.completed and await completed(client))
    except InvalidRequest:
        return False  # nothing is kept of it yet


async def completed(client: Client) -> int:
    stats = await client.stats(action="probe.count", window="1h")
    return sum(window.completed for window in stats.history)


async def test_a_stream_has_totals_and_a_history_that_adds_up(counted: tuple[Client, str]):
    client, stream_id = counted
    stats = await client.stats(stream=stream_id)
    assert stats.totals is not None
    assert (stats.totals.chunks, stats.totals.claims, stats.action) == (CHUNKS, 1, "probe.count")
    assert sum(window.chunks for window in stats.history) == CHUNKS
    assert len(stats.history) >= 2
    assert stats.totals.latency_max_s is not None
    assert stats.scored


async def test_an_action_counts_its_tasks(counted: tuple[Client, str]):
    client, _ = counted
    collector = StreamingMetricsCollector(client, action="probe.count", window="1h")
    history = await collector.history()
    assert sum(window.started for window in history) == sum(window.completed for window in history) == 1
    assert sum(window.chunks for window in history) == CHUNKS
    assert "probe.count" in {each.action for each in await client.all_stats()}
    assert (await collector.retention())["1s"] == 600


async def test_a_stream_is_found_by_its_trace(counted: tuple[Client, str]):
    client, stream_id = counted
    async with httpx.AsyncClient(base_url=client.address.http) as http:
        found = (await http.get("/stats", params={"trace": TRACE})).json()
        unknown = await http.get("/stats", params={"trace": "0" * 32})
    assert found["name"] == stream_id
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_stats")


async def test_windows_are_watched_as_they_come(counted: tuple[Client, str]):
    client, _ = counted
    watch = StreamingMetricsCollector(client, action="probe.count").watch(every_s=0.2)
    async with asyncio.timeout(60):
        starts = [(await anext(watch)).start_us for _ in range(3)]
    await watch.aclose()
    assert starts == [starts[0] + at * 1_000_000 for at in range(3)]


@pytest.mark.parametrize(
    ("query", "status", "where"),
    [
        ({"action": "a.b", "stream": "s"}, 409, "query"),
        ({}, 404, "query"),
        ({"action": "probe.count", "window": "2s"}, 400, "window"),
        ({"action": "probe.count", "limit": "0"}, 400, "limit"),
        ({"action": "probe.count", "limit": "٣"}, 400, "limit"),
        ({"stream": "no/id"}, 400, "stream"),
    ],
)
async def test_a_mistake_is_named(counted: tuple[Client, str], query: dict[str, str], status: int, where: str):
    async with httpx.AsyncClient(base_url=counted[0].address.http) as http:
        answer = await http.get("/stats", params=query)
    assert (answer.status_code, answer.json()["error"]["where"]) == (status, where)


async def test_what_nothing_is_kept_of_is_unknown(counted: tuple[Client, str]):
    with pytest.raises(InvalidRequest, match="unknown_stats"):
        await counted[0].stats(stream="never-was")
    with pytest.raises(InvalidRequest, match="an action or a stream"):
        StreamingMetricsCollector(counted[0])
