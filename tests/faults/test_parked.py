"""A runner dies between saying that it gave a task back and committing that: nobody else does the task, and nobody loses it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.system import PLUGINS, processes

from apexstream.client import Client, Scheduling, Update
from apexstream.contracts.catalogue import load_catalogue
from apexstream.contracts.codec import Codec
from apexstream.core.events import TaskChange, TaskEvent
from apexstream.log import admin
from apexstream.log.fetcher import LogReader

pytestmark = pytest.mark.faults

DEADLINE_S = 120
PREEMPTIBLE = Scheduling(preemptible=True)
CHUNKS = 100


@contextmanager
def runner(kafka: str, prefix: str, *, point: str = "") -> Iterator["subprocess.Popen[bytes]"]:
    """A runner with one slot, which dies at ``point``."""
    environ = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": kafka,
        "APEX_TOPIC_PREFIX": prefix,
        "APEX_RUNNER_CAPACITY": "1",
        "APEX_INSTANCE": "one",
        "APEX_SOLE_INSTANCE": "true",
        "APEX_LOG_LEVEL": "warning",
        "APEX_METRICS_PORT": "0",
        "PYTHONPATH": os.pathsep.join([str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", "tests.faults.serve_with_fault", "runner"]
    process = subprocess.Popen(command, env=environ | ({"FAULT_POINT": point} if point else {}))
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


async def events(kafka: str, prefix: str, task_id: str) -> list[TaskEvent]:
    """What was said of a task, in the order of the log."""
    codec, found = Codec(), []
    async with LogReader(kafka, client_id="test") as reader:
        places = await reader.partitions(f"{prefix}task-events")
        for place, end in (await reader.ends(places)).items():
            async for records, _ in reader.scan(place, 0, end):
                found += [
                    codec.decode(each.value or b"", TaskEvent) for each in records if each.key == task_id.encode()
                ]
    return found


@pytest.mark.parametrize("point", ["before-parked:1", "during-parked:1", "after-parked:1"])
async def test_a_task_whose_runner_dies_while_it_gives_it_back_is_done_once(
    kafka: str, topic_prefix: str, tmp_path: Path, point: str
) -> None:
    gate = tmp_path / "gate"
    await admin.apply([topic.renamed(topic_prefix) for topic in load_catalogue()], kafka)
    with runner(kafka, topic_prefix, point=point) as dying:
        async with (
            processes(kafka, topic_prefix, "gateway", "dispatcher", APEX_PREEMPT="on") as url,
            Client(url) as client,
            asyncio.timeout(DEADLINE_S),
        ):
            params = {"n": CHUNKS, "gate": str(gate)}
            low = await client.submit("probe", "steady", params, tier="low", scheduling=PREEMPTIBLE)
            while (await client.task(low.task_id)).status != "running":
                await asyncio.sleep(0.05)
            high = await client.submit("probe", "count", {"n": 1}, tier="high")
            await asyncio.to_thread(dying.wait)  # it dies at its point
            gate.touch()
            with runner(kafka, topic_prefix):
                content = [frame.data async for frame in client.follow(low.task_id) if isinstance(frame, Update)]
                async for _ in client.follow(high.task_id):
                    pass
                for task_id in (low.task_id, high.task_id):
                    while (await client.task(task_id)).status != "completed":
                        await asyncio.sleep(0.05)

    said = await events(kafka, topic_prefix, low.task_id)
    assert sorted(set(content)) == list(range(CHUNKS))
    assert [event.change for event in said].count(TaskChange.COMPLETED) == 1
    ended = next(at for at, event in enumerate(said) if event.change is TaskChange.COMPLETED)
    assert not any(event.change is TaskChange.STARTED for event in said[ended:])
