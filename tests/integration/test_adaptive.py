"""A stream whose pipeline is slower than its plugin: it is slowed down, nothing is lost, and it is let go at the end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from tests.integration.conftest import Apex, running
from tests.support.jobs import processing

from apexstream.client import Client
from apexstream.client.frames import Complete, Update
from apexstream.processors import feeder
from apexstream.runtime import meters
from apexstream.runtime.settings import Settings

DEADLINE_S = 60.0


@pytest_asyncio.fixture
async def apex(kafka: str, topic_prefix: str) -> AsyncIterator[Apex]:
    async with running(Settings(bootstrap_servers=kafka, topic_prefix=topic_prefix, port=0)) as started:
        yield started


async def test_a_stream_is_as_fast_as_its_pipeline_and_loses_nothing(apex: Apex, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(feeder, "AHEAD_CHUNKS_MAX", 100)  # so that being behind shows early
    gate, slower = tmp_path / "gate", meters.ACTION_PACE_CHANGES.of("probe", "until_told", "slower")
    before = slower.value
    # The function takes 8 ms, so the pipeline can take 125 chunks a second at most; the stream begins with 200.
    pipeline = {"inputs": [{"stream": "fast"}], "operators": [{"op": "map", "function": "probe:slowly"}]}
    options = {"adaptive": True, "rate_min": 20.0, "rate_max": 200.0}
    body = {
        "plugin": "probe",
        "action": "until_told",
        "params": {"gate": str(gate)},
        "task_id": "fast",
        "options": options,
    }
    async with (
        asyncio.timeout(2 * DEADLINE_S),
        processing(apex.settings.model_copy(update={"stats": "off"})),
        Client(apex.url) as client,
    ):
        warm = await client.submit("probe", "count", {"n": 1})
        await client.submit_pipeline({"inputs": [{"stream": warm.stream_id}]}, pipeline_id="warm")
        assert (
            len([frame async for frame in client.follow("warm")]) == 2
        )  # now processors work, and no backlog grows before
        await client.submit_pipeline(pipeline, pipeline_id="slow")
        answer = await apex.http.post("/tasks", json=body)
        assert answer.status_code == 202, answer.text
        while slower.value == before:
            await asyncio.sleep(0.05)
        gate.touch()
        frames = [frame async for frame in client.follow("slow")]
        written = [frame.data["i"] async for frame in client.follow("fast") if isinstance(frame, Update)]

    assert [frame.data["i"] for frame in frames if isinstance(frame, Update)] == written == list(range(len(written)))
    assert isinstance(frames[-1], Complete)
