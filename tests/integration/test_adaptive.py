"""A stream whose pipeline or viewer is slower than its plugin: it is slowed down, nothing is lost, and it is let go again."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest_asyncio
import websockets
from tests.integration.conftest import Apex, running
from tests.support.jobs import processing

from apexstream.client import Client
from apexstream.client.frames import Complete, Update
from apexstream.core.throttle import SETTLE_S
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


async def test_a_stream_is_as_fast_as_its_viewer_and_fast_again_when_that_one_is(apex: Apex, tmp_path: Path) -> None:
    gate, most, seen = tmp_path / "gate", 100.0, list[int]()
    slower, faster = (meters.ACTION_PACE_CHANGES.of("probe", "until_told", way) for way in ("slower", "faster"))
    before, limited = (slower.value, faster.value), 0.0
    body = {
        "plugin": "probe",
        "action": "until_told",
        "params": {"gate": str(gate), "pad": 6_000},  # 0.6 MB a second, and a viewer may be 4 MB behind
        "task_id": "wide",
        "options": {"adaptive": True, "rate_min": 20.0, "rate_max": most},
    }
    async with asyncio.timeout(2 * DEADLINE_S), narrow_socket(apex.url) as viewer:
        await viewer.send(msgspec.json.encode({"type": "subscribe", "stream_id": "wide"}).decode())
        began = asyncio.get_running_loop().time()
        answer = await apex.http.post("/tasks", json=body)
        assert answer.status_code == 202, answer.text
        while (message := msgspec.json.decode(await viewer.recv()))["type"] != "stream_complete":
            if message["type"] == "stream_update":
                seen.append(message["data"]["i"])
            if slower.value == before[0]:
                await asyncio.sleep(0.03)  # it falls behind, but does not stand still: such a client is closed
            elif faster.value == before[1]:
                limited = meters.ACTION_PACED.values()["probe", "until_told"]
            else:
                gate.touch()

    assert seen == list(range(len(seen)))
    assert limited == 1
    took_s = asyncio.get_running_loop().time() - began
    assert len(seen) <= most * took_s * 1.1
    changes = slower.value + faster.value - sum(before)
    assert changes <= took_s / SETTLE_S + 1  # never twice within that time


@asynccontextmanager
async def narrow_socket(url: str) -> AsyncIterator[websockets.ClientConnection]:
    """A viewer's, for which nobody but the gateway holds much: a kernel may keep 32 MB for a client that takes nothing."""
    address = urlsplit(url)
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)
        raw.connect((address.hostname, address.port))
        raw.setblocking(False)
        async with websockets.connect(
            f"ws://{address.netloc}/stream", sock=raw, max_queue=4, compression=None
        ) as connected:
            yield connected
