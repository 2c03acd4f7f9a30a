"""Every query of every dashboard, asked of a real Prometheus that scrapes the real services while they work."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
import websockets
from tests.monitoring.prometheus import MISSING, ROOT, Prometheus, prometheus
from tests.support.system import free_ports, processes

from apexstream.cli.serve import SERVICES
from apexstream.log.broker import EmbeddedBroker
from apexstream.runtime.settings import Settings

pytestmark = [
    pytest.mark.monitoring,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason=MISSING),
]
VARIABLES = {"$__rate_interval": "30s", "$plugin": ".*", "$action": ".*"}
DEADLINE_S = 90


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watched() -> AsyncIterator[tuple[Prometheus, str]]:
    """(Prometheus, gateway's URL) of services that have all kinds of work, for as long as the module's tests take."""
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home), Settings().cache_path, port=0) as broker:
        async with (
            processes(broker.bootstrap_servers, "apex.", *SERVICES, metrics_ports=ports, APEX_SEAL_AFTER_S="1") as url,
            prometheus(ports) as server,
        ):
            async with asyncio.timeout(DEADLINE_S):  # what happens once, at the start, has to be seen to change
                while len(await server.query("up == 1")) < len(SERVICES):
                    await asyncio.sleep(0.2)
            load = asyncio.create_task(work(url))
            try:
                yield server, url
            finally:
                load.cancel()
                await asyncio.gather(load, return_exceptions=True)


async def work(url: str) -> None:
    """Tasks that succeed, fail, are tried again and ask others, each watched, the last one by a pipeline, for ever."""
    async with httpx.AsyncClient(base_url=url, timeout=30) as http, asyncio.TaskGroup() as tasks:
        while True:
            for action, params in (
                ("steady", {"n": 100, "interval_s": 0.02}),
                ("flaky", {"n": 4, "fail_at": [1]}),
                ("fail", {}),
                ("counts", {"times": 1, "scope": "shared"}),
            ):
                body = {"plugin": "probe", "action": action, "params": params}
                task = (await http.post("/tasks", json=body)).json()["task_id"]
                tasks.create_task(watch(url, task))
            definition = {"inputs": [{"stream": task}], "operators": []}
            assert (await http.post("/pipelines", json={"definition": definition})).status_code == 202
            await asyncio.sleep(1)


async def watch(url: str, task: str) -> None:
    async with websockets.connect(f"ws{url.removeprefix('http')}/stream") as socket:
        await socket.send(msgspec.json.encode({"type": "subscribe", "stream_id": task}).decode())
        async for message in socket:
            if msgspec.json.decode(message)["type"] in {"stream_complete", "stream_error", "error"}:
                return


def queries() -> list[tuple[str, str]]:
    return [
        (f"{path.stem}: {panel['title']}: {target['refId']}", filled(target["expr"]))
        for path in sorted((ROOT / "dashboards").glob("*.json"))
        for panel in msgspec.json.decode(path.read_bytes())["panels"]
        for target in panel.get("targets", ())
    ]


def filled(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def has_data(series: list[dict[str, Any]]) -> bool:
    return any(each["value"][1] != "NaN" for each in series)


async def test_every_panel_of_every_dashboard_shows_data(watched: tuple[Prometheus, str]) -> None:
    server, _ = watched
    empty = dict(queries())
    assert len(empty) > 60

    try:
        async with asyncio.timeout(DEADLINE_S):
            while empty:
                for name, expr in list(empty.items()):
                    if has_data(await server.query(expr)):
                        del empty[name]
                await asyncio.sleep(1)
    except TimeoutError:
        pass

    assert empty == {}
