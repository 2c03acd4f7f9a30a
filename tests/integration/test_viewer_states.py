"""Every state that a stream can be in, seen over every protocol: the same answer everywhere, in each one's own words."""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import httpx2
import msgspec
import pytest
import pytest_asyncio
import websockets
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from tests.integration.conftest import Apex, guarded
from tests.support.tokens import Issuer, bearer

from apexstream.gateway.cursors import Cursors, Position, shared_key

pytestmark = pytest.mark.asyncio(loop_scope="module")
ISSUER = Issuer()
TIMEOUT_S = 60
WAITS = "waits"
VIEW = '{"operators":[{"op":"map","path":"$"}]}'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apex(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Apex]:
    async with guarded(kafka, tmp_path_factory.mktemp("auth"), ISSUER, seal_after_s=0.2) as started:
        yield started


@dataclass(frozen=True)
class Streams:
    """A stream in each state."""

    finished: str
    erased: str
    expired: str
    unknown: str = "never-written"


# Each of these says what a viewer is shown, as it comes: a value, or one word. After a code nothing follows.
Sights = AsyncGenerator[str, None]
VALUE = "value"


async def over_websocket(url: str, token: str, stream_id: str) -> Sights:
    address = f"ws{url.removeprefix('http')}/stream"
    async with websockets.connect(address, additional_headers=bearer(token), compression=None) as socket:
        await socket.send(json.dumps({"type": "subscribe", "stream_id": stream_id, "id": 1}))
        while True:
            message = msgspec.json.decode(await socket.recv())
            match message["type"]:
                case "waiting":
                    yield WAITS
                case "error":
                    yield message["error"]["code"]
                case "stream_update":
                    yield VALUE
                case "stream_complete":
                    return


async def over_events(url: str, token: str, stream_id: str) -> Sights:
    async for message in _lines(url, token, f"/streams/{stream_id}/events", "data:"):
        yield WAITS if message is None else VALUE if message["type"] == "stream_update" else ""


async def over_view(url: str, token: str, stream_id: str) -> Sights:
    async for message in _lines(url, token, f"/streams/{stream_id}/view?live=true&view={quote(VIEW)}", ""):
        yield VALUE if message is not None and message["type"] == "stream_update" else ""


async def over_ui_messages(url: str, token: str, stream_id: str) -> Sights:
    async for message in _lines(url, token, f"/streams/{stream_id}/ui-messages", "data:"):
        yield VALUE if message is not None and message["type"] == "data-chunk" else ""


async def over_ag_ui(url: str, token: str, stream_id: str) -> Sights:
    async for message in _lines(url, token, f"/streams/{stream_id}/ag-ui", "data:"):
        yield VALUE if message is not None and message.get("name") == "chunk" else ""


class Refused(Exception):
    """The answer's code."""


async def _lines(url: str, token: str, path: str, before: str) -> AsyncGenerator[dict[str, Any] | None, None]:
    """The messages of an answer, None for a sign of life."""
    async with (
        httpx.AsyncClient(base_url=url, headers=bearer(token), timeout=TIMEOUT_S) as http,
        http.stream("GET", path) as answer,
    ):
        if answer.status_code != 200:
            raise Refused(json.loads(await answer.aread())["error"]["code"])
        async for line in answer.aiter_lines():
            data = line.removeprefix(before).strip()
            if line.startswith(":"):
                yield None
            elif line.startswith(before) and data not in {"", "[DONE]"}:
                yield msgspec.json.decode(data)


async def over_ds(url: str, token: str, stream_id: str) -> Sights:
    async with httpx.AsyncClient(base_url=url, headers=bearer(token), timeout=TIMEOUT_S) as http:
        offset, closed = "-1", False
        while not closed:
            answer = await http.get(f"/ds/streams/{stream_id}", params={"offset": offset, "live": "long-poll"})
            if answer.status_code not in {200, 204}:
                raise Refused(answer.json()["error"]["code"])
            for message in answer.json() if answer.status_code == 200 else ():
                yield VALUE if message["type"] == "stream_update" else ""
            offset, closed = answer.headers["stream-next-offset"], "stream-closed" in answer.headers


async def over_mcp(url: str, token: str, stream_id: str) -> Sights:
    async with (
        httpx2.AsyncClient(headers=bearer(token), timeout=httpx2.Timeout(TIMEOUT_S)) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        found: dict[str, Any] = {"finished": False, "cursor": ""}
        while not found["finished"] and "error" not in found:
            where = {"stream_id": stream_id, "cursor": found["cursor"], "wait_s": 1}
            found = (await client.call_tool("apex_read_stream", where)).structured_content
            for _ in found.get("chunks", ()):
                yield VALUE
    if "error" in found:
        raise Refused(found["error"]["code"])


Look = Callable[[str, str, str], Sights]
LOOKS: list[tuple[Look, str]] = [  # and what a stream is that is not there: early, or refused
    (over_websocket, WAITS),
    (over_events, WAITS),
    (over_view, "unknown_task"),
    (over_ui_messages, "unknown_task"),
    (over_ag_ui, "unknown_task"),
    (over_ds, "unknown_task"),
    (over_mcp, "unknown_task"),
]


async def look(over: Look, apex: Apex, stream_id: str, *scopes: str, tenant: str = "acme") -> Any:
    """How many values a viewer was shown by the end of the stream, or the word that came instead."""
    values = 0
    async with (
        asyncio.timeout(TIMEOUT_S),
        aclosing(over(apex.url, ISSUER.token(*scopes, tenant=tenant), stream_id)) as sights,
    ):
        try:
            async for sight in sights:
                if sight not in {VALUE, ""}:
                    return sight
                values += sight == VALUE
        except Refused as refused:
            return str(refused)
    return values


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def streams(apex: Apex) -> Streams:
    finished, erased = [await apex.submit("count", n=2) for _ in range(2)]
    expired = await apex.submit("count", n=2, options={"ttl_s": 0.1})
    for stream_id in (finished, erased):
        await apex.follow(stream_id)
    async with asyncio.timeout(TIMEOUT_S):
        while (await apex.http.delete(f"/streams/{erased}")).status_code != 202:
            await asyncio.sleep(0.05)  # its end is in the stream before the event of it is here
        for stream_id, wanted in ((erased, "erased"), (expired, "expired")):
            while await look(over_ds, apex, stream_id, "read") != wanted:
                await asyncio.sleep(0.05)  # of what the archiver does to content no event tells
    return Streams(finished, erased, expired)


@pytest.mark.parametrize("over", [over for over, _ in LOOKS])
@pytest.mark.parametrize(("state", "seen"), [("finished", 2), ("erased", "erased"), ("expired", "expired")])
async def test_its_owner_sees_what_became_of_it(
    apex: Apex, streams: Streams, over: Look, state: str, seen: Any
) -> None:
    assert await look(over, apex, getattr(streams, state), "read") == seen


@pytest.mark.parametrize(("over", "nothing"), LOOKS)
@pytest.mark.parametrize("state", ["finished", "erased", "expired", "unknown"])
async def test_to_another_tenant_it_is_as_if_it_had_never_been(
    apex: Apex, streams: Streams, over: Look, nothing: str, state: str
) -> None:
    assert await look(over, apex, getattr(streams, state), "read", tenant="evil") == nothing


@pytest.mark.parametrize("over", [over for over, _ in LOOKS])
@pytest.mark.parametrize("state", ["finished", "unknown"])
async def test_without_the_scope_it_is_forbidden_whether_it_is_there_or_not(
    apex: Apex, streams: Streams, over: Look, state: str
) -> None:
    assert await look(over, apex, getattr(streams, state), "read:other-*", "submit") == "forbidden"


@pytest.mark.parametrize("over", [over for over, _ in LOOKS])
async def test_who_comes_late_gets_what_there_is_and_then_what_comes(apex: Apex, tmp_path: Path, over: Look) -> None:
    gate, values = tmp_path / "gate", 0
    stream_id = await apex.submit("gated", gate=str(gate), n=3)
    async with asyncio.timeout(TIMEOUT_S), aclosing(over(apex.url, ISSUER.token("read"), stream_id)) as sights:
        async for sight in sights:
            values += sight == VALUE
            if values == 3:
                gate.touch()  # only now the rest is written
    assert values == 6


@pytest.mark.parametrize("over", [over for over, nothing in LOOKS if nothing == WAITS])
async def test_who_comes_before_the_task_gets_all_of_it_once_it_is_there(apex: Apex, over: Look) -> None:
    stream_id, values = secrets.token_hex(8), 0
    async with asyncio.timeout(TIMEOUT_S), aclosing(over(apex.url, ISSUER.token("read"), stream_id)) as sights:
        async for sight in sights:
            values += sight == VALUE
            if sight == WAITS and not values:
                body = {"plugin": "probe", "action": "count", "params": {"n": 2}, "task_id": stream_id}
                assert (await apex.http.post("/tasks", json=body)).is_success
    assert values == 2


@pytest.mark.parametrize("dialect", ["ui-messages", "ag-ui"])
async def test_a_chat_begins_before_its_task_does(apex: Apex, tmp_path: Path, dialect: str) -> None:
    gate = tmp_path / "gate"
    first = await apex.submit("gated", gate=str(gate), n=1)
    body = {"plugin": "probe", "action": "count", "params": {"n": 2}, "scheduling": {"after": [first]}}
    stream_id = (await apex.http.post("/tasks", json=body)).json()["task_id"]
    found = []
    async with asyncio.timeout(TIMEOUT_S):
        async for message in _lines(apex.url, ISSUER.token("read"), f"/streams/{stream_id}/{dialect}", "data:"):
            if message is not None:
                found.append(message["type"])
                gate.touch()
    assert found[0] in {"start", "RUN_STARTED"}
    assert sum(kind in {"data-chunk", "CUSTOM"} for kind in found) == 2


# Chats are named by their ids: of one there is an answer that is being written, or none.


async def test_a_chats_answer_is_for_its_own_tenant_while_it_is_written_and_gone_once_it_is_erased(
    apex: Apex, tmp_path: Path
) -> None:
    gate, path = tmp_path / "gate", "/chat/probe/converse"
    message = {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}
    asked = {"id": "chat-1", "messages": [message], "trigger": "submit-message", "gate": str(gate)}
    async with asyncio.timeout(TIMEOUT_S), apex.http.stream("POST", path, json=asked) as answer:
        assert answer.status_code == 200
        await anext(answer.aiter_lines())
        for chat, scopes, tenant, status in (
            ("chat-1", ["read"], "evil", 204),
            ("chat-2", ["read"], "acme", 204),
            ("chat-1", ["submit"], "acme", 403),
            ("chat-1", ["read:other-*"], "acme", 403),
        ):
            shown = bearer(ISSUER.token(*scopes, tenant=tenant))
            assert (await apex.http.get(f"{path}/{chat}/stream", headers=shown)).status_code == status, (chat, scopes)
        async with apex.http.stream("GET", f"{path}/chat-1/stream") as resumed:
            assert resumed.status_code == 200
            gate.touch()
            assert "[DONE]" in (await resumed.aread()).decode()
        stream_id = answer.headers["stream-id"]
    while (await apex.http.get(f"/tasks/{stream_id}")).json()["status"] != "completed":
        await asyncio.sleep(0.05)  # its end is in the stream before the event of it is here
    assert (await apex.http.get(f"{path}/chat-1/stream")).status_code == 204
    assert (await apex.http.delete(f"/streams/{stream_id}")).status_code == 202
    async with asyncio.timeout(TIMEOUT_S):
        while (again := await apex.http.post(path, json=asked)).status_code != 410:
            await asyncio.sleep(0.05)  # of what the archiver does to content no event tells
    assert again.json()["error"]["code"] == "erased"


@pytest.mark.parametrize("state", ["erased", "expired"])
async def test_an_answer_that_is_gone_is_refused_with_a_status_and_not_begun(
    apex: Apex, streams: Streams, state: str
) -> None:
    for dialect in ("ui-messages", "ag-ui"):
        answer = await apex.http.get(f"/streams/{getattr(streams, state)}/{dialect}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, state)


# B35: cursors that are none of this stream's.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strange(apex: Apex, streams: Streams) -> dict[str, tuple[str, str]]:
    """Cursors that do not fit the finished stream, and the code that each is refused with."""
    tail = (await apex.http.head(f"/ds/streams/{streams.finished}")).headers["stream-next-offset"]
    other = await apex.submit("count", n=2)
    await apex.follow(other)
    foreign = (await apex.http.head(f"/ds/streams/{other}")).headers["stream-next-offset"]
    recreated = Cursors(shared_key(apex.settings), "a topic of another id").mint(streams.finished, Position(1))
    return {
        "forged": (f"{tail[:-22]}{'A' if tail[-22] != 'A' else 'B'}{tail[-21:]}", "cursor_invalid"),
        "moved": (tail.replace(tail[:16], f"{1:016d}"), "cursor_invalid"),
        "foreign": (foreign, "cursor_invalid"),
        "of another log": (recreated, "cursor_epoch"),
    }


@pytest.mark.parametrize("kind", ["forged", "moved", "foreign", "of another log"])
async def test_b35_a_cursor_that_is_not_of_this_stream_is_refused_in_every_protocol(
    apex: Apex, streams: Streams, strange: dict[str, tuple[str, str]], kind: str
) -> None:
    cursor, code = strange[kind]
    for path in ("/ds/streams/{}?offset={}", "/streams/{}/events?cursor={}"):
        answer = await apex.http.get(path.format(streams.finished, cursor))
        assert answer.json()["error"]["code"] == code, path
    viewed = await apex.http.get(f"/streams/{streams.finished}/view", params={"view": VIEW, "cursor": cursor})
    assert viewed.json()["error"]["code"] == "cursor_invalid"  # whatever it is of, it is not of this view
    assert (await apex.follow(streams.finished, cursor=cursor))[-1]["error"]["code"] == code
    async with (
        httpx2.AsyncClient(headers=bearer(ISSUER.token("read")), timeout=httpx2.Timeout(TIMEOUT_S)) as http,
        Client(streamable_http_client(f"{apex.url}/mcp", http_client=http)) as client,
    ):
        result = await client.call_tool("apex_read_stream", {"stream_id": streams.finished, "cursor": cursor})
    assert result.structured_content["error"]["code"] == code
