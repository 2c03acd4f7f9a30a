"""Every state that a stream can be in, seen over every protocol: the same answer everywhere, in each one's own words."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
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
VIEW = '{"operators":[{"op":"map","path":"$.i"}]}'


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


async def over_websocket(url: str, token: str, stream_id: str) -> Any:
    values = 0
    address = f"ws{url.removeprefix('http')}/stream"
    async with websockets.connect(address, additional_headers=bearer(token), compression=None) as socket:
        await socket.send(json.dumps({"type": "subscribe", "stream_id": stream_id, "id": 1}))
        while True:
            message = msgspec.json.decode(await socket.recv())
            match message["type"]:
                case "waiting":
                    return WAITS
                case "error":
                    return message["error"]["code"]
                case "stream_update":
                    values += 1
                case "stream_complete":
                    return values


async def over_events(url: str, token: str, stream_id: str) -> Any:
    async with httpx.AsyncClient(base_url=url, headers=bearer(token), timeout=TIMEOUT_S) as http:
        return await _lines(http, f"/streams/{stream_id}/events", "data:")


async def over_view(url: str, token: str, stream_id: str) -> Any:
    async with httpx.AsyncClient(base_url=url, headers=bearer(token), timeout=TIMEOUT_S) as http:
        return await _lines(http, f"/streams/{stream_id}/view?view={quote(VIEW)}", "")


async def _lines(http: httpx.AsyncClient, path: str, before: str) -> Any:
    values = 0
    async with http.stream("GET", path) as answer:
        if answer.status_code != 200:
            return json.loads(await answer.aread())["error"]["code"]
        async for line in answer.aiter_lines():
            if line.startswith(":"):
                return WAITS
            if not line.startswith(before) or not line.removeprefix(before).strip():
                continue
            message = msgspec.json.decode(line.removeprefix(before))
            if message["type"] == "stream_update":
                values += 1
    return values


async def over_ds(url: str, token: str, stream_id: str) -> Any:
    async with httpx.AsyncClient(base_url=url, headers=bearer(token), timeout=TIMEOUT_S) as http:
        answer = await http.get(f"/ds/streams/{stream_id}")
    if answer.status_code != 200:
        return answer.json()["error"]["code"]
    return sum(message["type"] == "stream_update" for message in answer.json())


async def over_mcp(url: str, token: str, stream_id: str) -> Any:
    async with (
        httpx2.AsyncClient(headers=bearer(token), timeout=httpx2.Timeout(TIMEOUT_S)) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        result = await client.call_tool("apex_read_stream", {"stream_id": stream_id, "wait_s": 30})
    found = result.structured_content
    return found["error"]["code"] if found.get("error") else len(found["chunks"])


Look = Callable[[str, str, str], Awaitable[Any]]
LOOKS: list[tuple[Look, str]] = [  # and what a stream is that is not there: early, or refused
    (over_websocket, WAITS),
    (over_events, WAITS),
    (over_view, "unknown_task"),
    (over_ds, "unknown_task"),
    (over_mcp, "unknown_task"),
]


async def look(over: Look, apex: Apex, stream_id: str, *scopes: str, tenant: str = "acme") -> Any:
    async with asyncio.timeout(TIMEOUT_S):
        return await over(apex.url, ISSUER.token(*scopes, tenant=tenant), stream_id)


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
            while await over_ds(apex.url, ISSUER.token("read"), stream_id) != wanted:
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
