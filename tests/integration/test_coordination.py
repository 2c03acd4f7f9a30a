"""Tasks that meet, in plugin processes of real runners: barriers, signals, shared values, and a runner killed in between."""

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.system import PLUGINS, processes

from apexstream.client import Client
from apexstream.client.frames import Error, Update
from apexstream.contracts.catalogue import load_catalogue
from apexstream.log import admin

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEADLINE_S = 60.0


class Runner:
    """A runner's process under a name that it keeps."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self._environ = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "APEX_TOPIC_PREFIX": prefix,
            "APEX_INSTANCE": "meeting-point",
            "APEX_SOLE_INSTANCE": "true",
            "APEX_LOG_LEVEL": "warning",
            "PYTHONPATH": os.pathsep.join([str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "apexstream", "serve", "runner"], env=self._environ)

    def end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(30)


class System:
    def __init__(self, client: Client, runner: Runner) -> None:
        self.client, self.runner = client, runner

    async def said(self, stream_id: str) -> list[Any]:
        """The data of a stream to its end; the message of its error, if it ends with one."""
        said: list[Any] = []
        async with asyncio.timeout(DEADLINE_S):
            async for frame in self.client.follow(stream_id):
                if isinstance(frame, Update):
                    del said[frame.seq :]
                    said.append(frame.data)
                elif isinstance(frame, Error):
                    said.append(frame.error.message)
        return said

    async def graph(self, name: str, action: str, *params: dict[str, Any]) -> list[list[Any]]:
        """What the tasks of a graph say, in order."""
        tasks = [
            {"plugin": "probe", "action": action, "params": each, "task_id": str(at)} for at, each in enumerate(params)
        ]
        await self.client.submit_graph(tasks, graph_id=name)
        return await asyncio.gather(*(self.said(f"{name}.{at}") for at in range(len(params))))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(kafka: str) -> AsyncIterator[System]:
    prefix = f"meet{secrets.token_hex(4)}."
    await admin.apply([topic.renamed(prefix) for topic in load_catalogue()], kafka)
    runner = Runner(kafka, prefix)
    runner.start()
    try:
        async with processes(kafka, prefix, "gateway", "dispatcher") as url, Client(url) as client:
            yield System(client, runner)
    finally:
        runner.end(signal.SIGTERM)


async def test_the_tasks_of_a_graph_meet_and_hear_the_same_signal(system: System):
    said = await system.graph("met", "meet", *({"parties": 3, "me": me} for me in "cab"))
    assert said == [[["a", "b", "c"], "a"]] * 3


async def test_tasks_count_together_and_lose_nothing(system: System):
    said = await system.graph("counted", "counts", *({"times": 20, "scope": "count"},) * 3)
    assert max(last for (last,) in said) == 60


async def test_a_killed_runners_tasks_see_what_they_saw_and_are_counted_once(system: System, tmp_path: Path):
    here = tmp_path / "here"
    first = await system.client.submit("probe", "resumed", {"here": str(here), "scope": "killed"})
    async with asyncio.timeout(DEADLINE_S):
        while not here.exists():
            await asyncio.sleep(0.05)
    # Another one changes what the first has read, and then the runner dies with the first at the barrier or before it.
    changing = await system.client.submit("probe", "counts", {"times": 5, "scope": "killed"})
    assert await system.said(changing.stream_id) == [5]
    system.runner.end(signal.SIGKILL)
    here.unlink()
    system.runner.start()
    second = await system.client.submit("probe", "told", {"scope": "killed"})

    said = await asyncio.gather(system.said(first.stream_id), system.said(second.stream_id))

    both = ["resumed", "told"]
    assert said == [[{"seen": None, "version": 0, "visits": 1}, both], [5, both, 1]]
    assert here.read_text() == "2"


@pytest.mark.parametrize(("what", "code"), [("signal", "coordination_timeout"), ("barrier", "barrier_broken")])
async def test_nobody_who_comes_is_an_error_that_stays_and_a_broken_barrier_is_broken_for_who_comes_later(
    system: System, what: str, code: str
):
    for _ in range(2):
        task = await system.client.submit("probe", "waits", {"what": what, "scope": what})
        assert await system.said(task.stream_id) == [code] * 2


async def test_a_task_in_no_graph_has_to_name_a_scope(system: System):
    task = await system.client.submit("probe", "meet", {"parties": 1, "me": "a"})
    (message,) = await system.said(task.stream_id)
    assert "in no graph" in message
