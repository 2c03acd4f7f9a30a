"""A gateway without keys, from outside: it serves this machine, and no page or name from elsewhere."""

import asyncio
import json

import httpx
import pytest
import websockets
from tests.integration.conftest import Apex
from tests.support.rawsocket import raw_socket

import apexstream.gateway.build
from apexstream.core.errors import InvalidConfiguration
from apexstream.runtime.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_an_open_gateway_takes_only_names_of_this_machine(apex: Apex) -> None:
    port = apex.url.rpartition(":")[2]
    async with httpx.AsyncClient(base_url=apex.url, timeout=30) as http:
        for host in (f"rebound.example:{port}", "rebound.example", "127.0.0.1.evil.example"):
            answer = await http.get("/tasks", headers={"host": host})
            assert (answer.status_code, answer.json()["error"]["where"]) == (403, "host")
        assert (await http.get("/tasks", headers={"host": f"localhost:{port}"})).status_code == 200
    async with raw_socket(apex.url, {"host": "rebound.example"}) as socket:
        assert " 403 " in socket.head


async def test_another_page_makes_an_open_gateway_do_nothing(apex: Apex) -> None:
    body = json.dumps({"plugin": "probe", "action": "count", "params": {"n": 1}})
    async with httpx.AsyncClient(base_url=apex.url, timeout=30) as http:
        simple = {"origin": "https://evil.example", "content-type": "text/plain"}
        assert (await http.post("/tasks", content=body, headers=simple)).status_code == 403
        assert (await http.get("/tasks")).json() == {"tasks": []}
    with pytest.raises(websockets.InvalidStatus):
        await websockets.connect(f"ws{apex.url.removeprefix('http')}/stream", origin="https://evil.example")


async def test_a_gateway_that_others_reach_does_not_start_without_keys(kafka: str) -> None:
    settings = Settings(bootstrap_servers=kafka, host="0.0.0.0", port=0)
    with pytest.raises(InvalidConfiguration, match="there are no keys to tell them apart"):
        await apexstream.gateway.build.serve(settings, ready=lambda _: None, stop=asyncio.Event())
