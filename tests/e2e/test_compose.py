"""The project's own compose file, run for real: healthy, closed to strangers, scraped, and nothing lost when containers die.

``make test-compose``. Needs Docker with compose; DOCKER_BUILD may hold arguments that this machine's builds need.
"""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from tests.support.compose import Composed, build_image, composed, eventually, missing

from apexstream.cli.serve import SERVICES
from apexstream.client import Client, Task
from apexstream.client.frames import Complete, Rewind, Update
from apexstream.core.errors import OutcomeUnknown, Unavailable

pytestmark = pytest.mark.compose

PRIMES_BELOW, SEGMENT, PRIMES = 10**9, 1 << 18, 50_847_534  # OEIS A006880
CHUNKS = -(-PRIMES_BELOW // SEGMENT)
STREAM_TIMEOUT_S = 240.0
BEFORE_KILL = 20


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    if why := missing():
        pytest.fail(f"these tests need containers: {why}")
    build_image()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    services = ["kafka", *SERVICES, "prometheus"]
    with composed(tmp_path_factory.mktemp("keys"), files=["deploy/compose.yaml"], services=services) as up:
        yield up


async def count_primes(up: Composed, at: asyncio.Event | None = None) -> list[Update]:
    """The stream of a sieve as its viewer has it at the end; ``at`` is set once some of it has been seen."""
    seen: dict[int, Update] = {}
    async with asyncio.timeout(STREAM_TIMEOUT_S), Client(up.url, token=up.token) as client:
        task = await submit_primes(client)
        async with aclosing(client.follow(task.stream_id)) as frames:
            async for frame in frames:
                if isinstance(frame, Update):
                    assert frame.seq not in seen, f"seq {frame.seq} twice"
                    seen[frame.seq] = frame
                elif isinstance(frame, Rewind):
                    seen = {seq: update for seq, update in seen.items() if seq < frame.seq}
                if at is not None and len(seen) >= BEFORE_KILL:
                    at.set()
                if isinstance(frame, Complete):
                    return [seen[seq] for seq in sorted(seen)]
    raise AssertionError("the stream ended otherwise")


async def submit_primes(client: Client) -> Task:
    """Asked again while no gateway answers; the task's id makes that safe."""
    params = {"stop": PRIMES_BELOW, "segment": SEGMENT, "checkpoint_s": 1.0}
    task_id = uuid4().hex
    while True:
        try:
            return await client.submit("longrun", "primes", params, task_id=task_id)
        except (OutcomeUnknown, Unavailable):
            await asyncio.sleep(0.2)


async def write_from_outside(up: Composed) -> None:
    """A stream at /ds, which needs rights on the topics of paths and chunks."""
    headers = {"authorization": f"Bearer {up.token}", "content-type": "text/plain"}
    async with httpx.AsyncClient(base_url=up.url, headers=headers, timeout=30) as http:
        assert (await http.put("/ds/rights")).status_code == 201
        assert (await http.post("/ds/rights", content="written")).is_success
        assert (await http.get("/ds/rights")).text == "written"


async def take_from(up: Composed, *, count: int) -> list[int]:
    """The first chunks of a stream as a pipeline gives them, which needs rights on the topics and groups of processors."""
    async with asyncio.timeout(STREAM_TIMEOUT_S), Client(up.url, token=up.token) as client:
        task = await submit_primes(client)
        definition = {"inputs": [{"stream": task.stream_id}], "operators": [{"op": "take", "count": count}]}
        pipeline = await client.submit_pipeline(definition)
        async with aclosing(client.follow(pipeline.pipeline_id)) as frames:
            lows = [frame.data["low"] async for frame in frames if isinstance(frame, Update)]
        await client.cancel(task.task_id)
        return lows


def check(updates: list[Update]) -> None:
    """Every segment once and in order, and as many primes as there are."""
    lows = [update.data["low"] for update in updates]
    assert lows == [SEGMENT * number for number in range(CHUNKS)]
    assert sum(update.data["primes"] for update in updates) == PRIMES


def test_every_container_is_healthy(platform: Composed):
    states = platform.states()
    assert {states[service] for service in ("kafka", *SERVICES)} == {"healthy"}


async def test_a_stranger_gets_nothing(platform: Composed):
    async with httpx.AsyncClient(base_url=platform.url) as http:
        assert (await http.get("/tasks")).status_code == 401
        assert (await http.post("/tasks", json={"plugin": "monitor", "action": "host"})).status_code == 401


async def test_a_task_from_outside_runs_and_is_followed(platform: Composed):
    check(await count_primes(platform))


def test_prometheus_has_all_targets_up(platform: Composed):
    eventually("every target is up", lambda: platform.targets() == dict.fromkeys(SERVICES, "up"), timeout_s=60)


@pytest.mark.parametrize("service", ["runner", "gateway", "dispatcher", "archiver", "processors", "kafka"])
async def test_a_container_that_is_killed_loses_nothing(platform: Composed, service: str):
    under_way = asyncio.Event()
    following = asyncio.create_task(count_primes(platform, under_way))
    await asyncio.wait([following, waiting := asyncio.create_task(under_way.wait())], return_when="FIRST_COMPLETED")
    waiting.cancel()
    await asyncio.to_thread(platform.kill, service)
    await asyncio.to_thread(platform.start, service)
    check(await following)


async def test_a_rolling_restart_of_every_service_loses_nothing(platform: Composed):
    """New containers, one service after the other, while streams run; their viewers come back by themselves."""
    replaced = asyncio.Event()

    async def keep_counting() -> int:
        """Stream after stream, so that there is one under way whichever service is being replaced."""
        streams = 0
        while not replaced.is_set():
            check(await count_primes(platform))
            streams += 1
        return streams

    counting = [asyncio.create_task(keep_counting()) for _ in range(2)]
    for service in SERVICES:
        command = ("up", "--detach", "--no-build", "--no-deps", "--force-recreate", "--wait", service)
        await asyncio.to_thread(platform.compose, *command)
    replaced.set()
    assert sum([await each for each in counting]) >= len(counting)


async def test_services_need_no_more_rights_on_kafka_than_the_catalogue_gives(tmp_path: Path):
    """Under an authorizer that allows nothing else, as users of their own names."""
    files = ["deploy/compose.yaml", "deploy/compose.sasl.yaml"]
    with composed(tmp_path / "keys", files=files, services=["kafka", *SERVICES]) as up:
        check(await count_primes(up))
        await write_from_outside(up)
        assert await take_from(up, count=5) == [SEGMENT * number for number in range(5)]
        assert "not authorized" not in up.compose("logs", *SERVICES)
