"""MCP with the SDK's own client, over both transports: tools are actions, results are places in streams."""

import asyncio
import os
import re
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from tests.integration.conftest import Apex, guarded
from tests.support.tokens import ALL, Issuer, bearer

pytestmark = pytest.mark.asyncio(loop_scope="module")
TIMEOUT_S = 60
ISSUER = Issuer()
MODES = ["auto", "legacy"]


class Told:
    """Progress notifications of a call."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, str]] = []
        self.more = asyncio.Event()

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        self.heard.append((progress, message or ""))
        self.more.set()

    async def until(self, word: str) -> str:
        """The first message that has this word in it."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                found = next((message for _, message in self.heard if word in message), None)
                if found is not None:
                    return found
                self.more.clear()
                await self.more.wait()


def place(message: str) -> dict[str, str]:
    """Stream and cursor of a progress message."""
    found = re.search(r"· stream (\S+)(?: · cursor (\S+))?$", message)
    assert found, message
    return {"stream_id": found[1]} | ({"cursor": found[2]} if found[2] else {})


@asynccontextmanager
async def over_http(apex: Apex, mode: str = "auto", **headers: str) -> AsyncIterator[Client]:
    shown = {"authorization": apex.http.headers["authorization"]} | headers
    async with (
        httpx2.AsyncClient(headers=shown, timeout=httpx2.Timeout(TIMEOUT_S)) as http,
        Client(streamable_http_client(f"{apex.url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@asynccontextmanager
async def over_stdio(apex: Apex, mode: str = "auto") -> AsyncIterator[Client]:
    token = apex.http.headers["authorization"].removeprefix("Bearer ")
    command = StdioServerParameters(
        command=sys.executable,
        args=["-m", "apexstream", "mcp", "--url", apex.url],
        env={**os.environ, "APEX_LOG_LEVEL": "warning", "APEX_TOKEN": token},
    )
    async with Client(command, mode=mode) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apex(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Apex]:
    """An ApexStream with keys."""
    async with guarded(kafka, tmp_path_factory.mktemp("auth"), ISSUER) as started:
        yield started


def data_of(result: Any) -> list[Any]:
    return [chunk["data"] for chunk in result.structured_content["chunks"]]


async def call(client: Client, name: str, arguments: dict[str, Any] | None = None, **more: Any) -> Any:
    async with asyncio.timeout(TIMEOUT_S):
        return await client.call_tool(name, arguments or {}, **more)


@pytest.mark.parametrize("mode", MODES)
async def test_every_action_is_a_tool_with_its_schema(apex: Apex, mode: str) -> None:
    offered = (await apex.http.get("/actions")).json()["actions"]

    async with over_http(apex, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}

    for action in offered:
        tool = tools[f"{action['plugin']}__{action['action']}"]
        assert tool.input_schema == {"type": "object", **action["params_schema"]}
    assert set(tools) - {f"{a['plugin']}__{a['action']}" for a in offered} == {
        "apex_read_stream", "apex_cancel_task", "apex_task",
    }  # fmt: skip


async def check_a_call(apex: Apex, client: Client) -> None:
    """It gives the chunks of its stream, says how far it is, and where the stream is."""
    told = Told()
    result = await call(client, "probe__report", {"n": 3}, progress_callback=told)
    state = await call(client, "apex_task", {"task_id": result.structured_content["stream_id"]})

    outcome = result.structured_content
    assert (result.is_error, outcome["status"], outcome["finished"], data_of(result)) == (
        False, "complete", True, [0, 1, 2],
    )  # fmt: skip
    assert state.structured_content["status"] in {"running", "completed"}
    numbers = [progress for progress, _ in told.heard]
    assert numbers == sorted(set(numbers))
    assert place(told.heard[0][1]) == {"stream_id": outcome["stream_id"]}
    read = await apex.http.get(outcome["address"].partition("?")[0])
    assert [message["data"] for message in read.json() if message["type"] == "stream_update"] == [0, 1, 2]


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_gives_the_chunks_and_the_place_of_its_stream(apex: Apex, mode: str) -> None:
    async with over_http(apex, mode) as client:
        await check_a_call(apex, client)


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_that_breaks_in_the_middle_goes_on_from_what_was_told_of_it(
    apex: Apex, tmp_path: Path, mode: str
) -> None:
    gate, told = tmp_path / "gate", Told()

    async def start() -> None:
        async with over_http(apex, mode) as client:
            await call(client, "probe__gated", {"gate": str(gate)}, progress_callback=told)

    calling = asyncio.create_task(start())
    where = place(await told.until("chunk 0"))
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    gate.touch()
    async with over_http(apex, mode) as client:
        rest = await call(client, "apex_read_stream", where)
        whole = await call(client, "apex_read_stream", {"stream_id": where["stream_id"]})

    assert (data_of(rest), rest.structured_content["status"]) == ([1, 2, 3, 4, 5], "complete")
    assert data_of(whole) == [0, 1, 2, 3, 4, 5]


async def test_a_cursor_of_mcp_goes_on_over_http_and_a_websocket(apex: Apex, tmp_path: Path) -> None:
    async with over_http(apex) as client:
        stream_id = await apex.submit("gated", gate=str(tmp_path / "gate"))
        part = await call(client, "apex_read_stream", {"stream_id": stream_id, "wait_s": 1})
        (tmp_path / "gate").touch()
    messages = await apex.follow(stream_id, cursor=part.structured_content["cursor"])
    read = await apex.http.get(part.structured_content["address"])

    given = data_of(part)
    assert part.structured_content["status"] == "open"
    assert [m["data"] for m in messages if m["type"] == "stream_update"] == list(range(6))[len(given) :]
    assert [m["data"] for m in read.json() if m["type"] == "stream_update"] == list(range(6))[len(given) :]


async def test_a_result_that_is_full_says_where_there_is_more(apex: Apex) -> None:
    async with over_http(apex) as client:
        found = await call(client, "probe__count", {"n": 40, "pad": 10_000})
        first = found.structured_content
        numbers = [value["i"] for value in data_of(found)]
        while not found.structured_content["finished"]:
            where = {name: found.structured_content[name] for name in ("stream_id", "cursor")}
            found = await call(client, "apex_read_stream", where)
            numbers += [value["i"] for value in data_of(found)]

    assert (first["finished"], first["status"]) == (False, "open")
    assert numbers == list(range(40))


async def test_calls_with_one_key_are_one_task(apex: Apex) -> None:
    meta = {"apexstream/idempotency_key": secrets.token_hex(8)}
    async with over_http(apex) as client:
        results = [await call(client, "probe__kinds", meta=meta) for _ in range(2)]
    assert results[0].structured_content["stream_id"] == results[1].structured_content["stream_id"]
    assert data_of(results[0]) == data_of(results[1])


async def test_what_a_rewind_took_back_is_not_given(apex: Apex, tmp_path: Path) -> None:
    gate, told = tmp_path / "gate", Told()
    async with over_http(apex) as client:
        calling = asyncio.create_task(call(client, "probe__rewinding", {"gate": str(gate)}, progress_callback=told))
        first = place(await told.until("chunk 0"))
        gate.touch()
        whole = await calling
        told_back = await call(client, "apex_read_stream", first)

    assert [value // 10 for value in data_of(whole)] == [2] * len(data_of(whole))
    assert told_back.structured_content["forget_from"] == 0
    assert data_of(told_back) == data_of(whole)


@pytest.mark.parametrize("mode", MODES)
async def test_over_stdio_a_call_that_is_cancelled_cancels_its_task(apex: Apex, mode: str) -> None:
    told = Told()
    async with over_stdio(apex, mode) as client:
        await check_a_call(apex, client)
        calling = asyncio.create_task(call(client, "probe__silent", {"before": 1}, progress_callback=told))
        stream_id = place(await told.until("chunk 0"))["stream_id"]
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        messages = await apex.follow(stream_id)
    assert messages[-1]["type"] == "stream_cancelled"


@pytest.mark.parametrize("transport", [over_http, over_stdio])
async def test_a_connection_that_ends_cancels_nothing(apex: Apex, tmp_path: Path, transport: Any) -> None:
    gate, told = tmp_path / "gate", Told()
    async with transport(apex) as client:
        calling = asyncio.create_task(call(client, "probe__gated", {"gate": str(gate)}, progress_callback=told))
        await told.until("chunk 0")
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    gate.touch()

    messages = await apex.follow(place(told.heard[0][1])["stream_id"])
    assert messages[-1]["type"] == "stream_complete"


async def test_a_task_is_cancelled_by_the_tool_for_it(apex: Apex) -> None:
    stream_id = await apex.submit("silent")
    async with over_http(apex) as client:
        asked = await call(client, "apex_cancel_task", {"task_id": stream_id, "reason": "enough"})
        found = await call(client, "apex_read_stream", {"stream_id": stream_id})
    assert asked.is_error is False
    assert found.structured_content["status"] == "cancelled"
    assert found.structured_content["receipt"]["reason"] == "enough"


@pytest.mark.parametrize(
    ("name", "arguments", "code"),
    [
        ("probe__count", {"n": "many"}, "invalid_parameters"),
        ("apex_read_stream", {"stream_id": "never-written"}, "unknown_task"),
        ("apex_read_stream", {"stream_id": "../x"}, "bad_request"),
        ("apex_read_stream", {"stream": "x"}, "invalid_parameters"),
        ("apex_task", {"task_id": "never-written"}, "unknown_task"),
    ],
)
async def test_what_a_model_can_mend_is_a_result_that_says_how(
    apex: Apex, name: str, arguments: dict[str, Any], code: str
) -> None:
    async with over_http(apex) as client:
        result = await call(client, name, arguments)
    assert result.is_error
    assert f'"code":"{code}"' in result.content[0].text


async def test_a_tool_that_does_not_exist_is_an_error_of_the_protocol(apex: Apex) -> None:
    async with over_http(apex) as client:
        with pytest.raises(MCPError, match="there is no tool"):
            await call(client, "probe__nothing")


async def test_an_action_that_fails_gives_its_error(apex: Apex) -> None:
    async with over_http(apex) as client:
        result = await call(client, "probe__flaky", {"n": 3, "fail_at": [1], "error": "permanent"})
    assert (result.is_error, result.structured_content["status"], data_of(result)) == (True, "error", [0])
    assert "at 1" in result.structured_content["error"]["message"]


async def test_tools_and_streams_are_those_of_the_caller(apex: Apex) -> None:
    mine = ISSUER.token("submit:probe.count", "read", tenant="mine")
    theirs = ISSUER.token(*ALL, tenant="theirs")
    async with over_http(apex, **bearer(mine)) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        made = await call(client, "probe__count", {"n": 2})
        hidden = await client.call_tool("apex_cancel_task", {"task_id": made.structured_content["stream_id"]})
        with pytest.raises(MCPError, match="there is no tool"):
            await call(client, "probe__kinds")
    async with over_http(apex, **bearer(theirs)) as client:
        read = await call(client, "apex_read_stream", {"stream_id": made.structured_content["stream_id"]})

    assert names == {"probe__count", "apex_read_stream", "apex_cancel_task", "apex_task"}
    assert made.structured_content["status"] == "complete"
    assert '"code":"forbidden"' in hidden.content[0].text
    assert (read.is_error, read.structured_content["error"]["code"]) == (True, "unknown_task")


async def test_without_a_token_nobody_gets_in_and_a_foreign_page_neither(apex: Apex) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    none = await apex.http.post("/mcp", json=body, headers={"authorization": ""})
    page = await apex.http.post("/mcp", json=body, headers={"origin": "https://evil.example"})
    got = await apex.http.get("/mcp")
    assert (none.status_code, page.status_code, got.status_code) == (401, 403, 405)
    assert got.headers["allow"] == "POST"
