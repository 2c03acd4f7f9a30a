"""Every service's metrics and health, in processes as users run them, with the faults that they have to tell of."""

import asyncio
import os
import re
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families
from tests.support.system import ALL, free_ports, processes

from apexstream.log.broker import EmbeddedBroker
from apexstream.runtime.settings import Settings

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="module")]
DEADLINE_S = 60

Ports = dict[str, int]
Answers = dict[str, httpx.Response]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system() -> AsyncIterator[tuple[str, Ports, int]]:
    """(gateway's URL, port of metrics by service, the broker's pid) of a whole ApexStream; probe plugins are trusted."""
    ports = dict(zip(ALL, free_ports(len(ALL)), strict=True))
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home), Settings().cache_path, port=0) as broker:
        assert broker.pid is not None
        async with processes(
            broker.bootstrap_servers, "apex.", metrics_ports=ports, APEX_TRUSTED_PLUGINS="probe"
        ) as url:
            yield url, ports, broker.pid


async def ask(ports: Ports, path: str) -> Answers:
    async with httpx.AsyncClient(timeout=5) as http:
        return {name: await http.get(f"http://127.0.0.1:{port}{path}") for name, port in ports.items()}


async def until(ports: Ports, path: str, right: Callable[[httpx.Response], bool]) -> Answers:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answers = await ask(ports, path)
            if all(right(answer) for answer in answers.values()):
                return answers
            await asyncio.sleep(0.2)


async def complete(url: str, action: str, **params: object) -> str:
    async with httpx.AsyncClient(base_url=url, timeout=30) as http, asyncio.timeout(DEADLINE_S):
        answer = await http.post("/tasks", json={"plugin": "probe", "action": action, "params": params})
        task = str(answer.json()["task_id"])
        while (await http.get(f"/tasks/{task}")).json()["status"] != "completed":
            await asyncio.sleep(0.05)
    return task


def values(answer: httpx.Response) -> dict[tuple[str, ...], float]:
    """What a page shows, by name and label values in the order of the labels' names."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_every_service_is_ready_and_shows_its_metrics(system: tuple[str, Ports, int]) -> None:
    url, ports, _ = system
    await until(ports, "/readyz", lambda answer: answer.status_code == 200)

    task = await complete(url, "count", n=20)
    pages = await ask(ports, "/metrics")

    runner, gateway = values(pages["runner"]), values(pages["gateway"])
    assert runner["apexstream_action_chunks_total", "count", "probe"] == 20
    assert runner["apexstream_action_ends_total", "count", "completed", "probe"] == 1
    assert runner["apexstream_action_first_chunk_seconds_count", "count", "probe"] == 1
    assert runner["apexstream_action_between_chunks_seconds_count", "count", "probe"] == 19
    assert runner["apexstream_task_start_seconds_count", "normal"] == 1
    assert runner["apexstream_kafka_group_partitions", "apex.runners"] == 24
    assert gateway["apexstream_kafka_appended_records_total", "apex.tasks.normal"] == 1
    for name, page in pages.items():
        shown = values(page)
        assert shown["process_resident_memory_bytes",] > 1e6
        assert shown["apexstream_kafka_silence_seconds",] < 8
        assert any(key[0] == "apexstream_build_info" and name in key for key in shown)
        assert task not in page.text


async def test_a_broker_that_hangs_makes_every_service_unready_and_none_dead(system: tuple[str, Ports, int]) -> None:
    _, ports, broker = system
    await until(ports, "/readyz", lambda answer: answer.status_code == 200)

    os.kill(broker, signal.SIGSTOP)
    try:
        unready = await until(ports, "/readyz", lambda answer: answer.status_code == 503)
        alive = await ask(ports, "/livez")
    finally:
        os.kill(broker, signal.SIGCONT)
    again = await until(ports, "/readyz", lambda answer: answer.status_code == 200)

    for answer in unready.values():
        assert re.fullmatch(r"Kafka has not answered for \d+ s", answer.json()["checks"]["kafka"])
    assert [answer.status_code for answer in alive.values()] == [200] * len(ports)
    assert len(again) == len(ports)


async def test_a_runner_whose_loop_is_stuck_is_dead_and_still_shows_its_metrics(system: tuple[str, Ports, int]) -> None:
    url, ports, _ = system
    runner = {"runner": ports["runner"]}
    await until(runner, "/readyz", lambda answer: answer.status_code == 200)

    async with httpx.AsyncClient(base_url=url) as http:
        await http.post("/tasks", json={"plugin": "probe", "action": "stuck", "params": {"seconds": 14}})
    unready = await until(runner, "/readyz", lambda answer: answer.status_code == 503)
    dead = await until(runner, "/livez", lambda answer: answer.status_code == 503)
    page = await ask(runner, "/metrics")

    assert "in stuck (" in unready["runner"].json()["checks"]["loop"]
    assert "in stuck (" in dead["runner"].json()["checks"]["loop"]
    assert values(page["runner"])["apexstream_action_active_streams", "stuck", "probe"] == 1
