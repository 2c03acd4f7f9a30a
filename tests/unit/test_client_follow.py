"""What following does besides the cases of ``schemas/gateway/conformance``: addresses, tokens, sizes, giving up."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import Request, Response, ServerConnection, serve

from apexstream.client import Client, Frame, ReconnectPolicy
from apexstream.core.errors import DataCorruption, InvalidRequest, Unauthenticated, Unavailable

POLICY = ReconnectPolicy(base_s=0.001, cap_s=0.01, offline_max_s=5)


def update(seq: int, data: Any = None) -> dict[str, Any]:
    return {"type": "stream_update", "stream_id": "s", "seq": seq, "data": seq if data is None else data}


def complete(seq: int) -> dict[str, Any]:
    return {"type": "stream_complete", "stream_id": "s", "seq": seq}


@dataclass
class Gateway:
    """Answers the n-th connection with the n-th script: messages, then an end of the connection."""

    scripts: Sequence[Callable[[ServerConnection, int], Any]]
    subscriptions: list[tuple[str, int | str]] = field(default_factory=list)
    url: str = ""

    async def handle(self, socket: ServerConnection) -> None:
        command = msgspec.json.decode(await socket.recv())
        assert command["type"] == "subscribe"
        assert command["cursors"] is True
        place = command.get("from_seq", command.get("cursor"))
        self.subscriptions.append((command["stream_id"], place))
        await self.scripts[len(self.subscriptions) - 1](socket, place)


@asynccontextmanager
async def gateway(*scripts: Callable[[ServerConnection, int], Any], **options: Any) -> AsyncIterator[Gateway]:
    served = Gateway(scripts)
    async with serve(served.handle, "127.0.0.1", 0, **options) as server:
        served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield served


def sends(*messages: Any, then: str = "abort") -> Callable[[ServerConnection, int], Any]:
    """A script: send the messages, then break the connection (abort), close it with a code, or hold it (hold)."""

    async def script(socket: ServerConnection, _: int) -> None:
        for message in messages:
            await socket.send(message if isinstance(message, str) else msgspec.json.encode(message).decode())
        if then == "hold":
            await socket.wait_closed()
        elif then == "abort":
            await socket.ping()  # a ping is answered in order: by its pong the messages have arrived
            await asyncio.wait_for(await socket.ping(), 5)
            socket.transport.abort()
        else:
            await socket.close(int(then))

    return script


async def follow(url: str, from_seq: int = 0, policy: ReconnectPolicy = POLICY) -> list[Frame]:
    async with Client(url, reconnect=policy) as client:
        return [frame async for frame in client.follow("s", from_seq)]


async def test_a_gap_that_stays_is_an_error_and_never_skipped() -> None:
    skipping = sends(update(0), update(2), then="hold")
    async with gateway(skipping, skipping) as server:
        with pytest.raises(DataCorruption, match="seq 2 twice instead of 1"):
            await follow(server.url)


async def test_without_any_gateway_it_gives_up_after_the_bound(unused_tcp_port: int) -> None:
    policy = ReconnectPolicy(base_s=0.01, cap_s=0.02, offline_max_s=0.2)

    with pytest.raises(Unavailable, match=r"no connection for 0\.2 s"):
        await asyncio.wait_for(follow(f"http://127.0.0.1:{unused_tcp_port}", policy=policy), 5)


async def test_an_address_without_a_socket_is_an_error_at_once() -> None:
    def refuse(connection: ServerConnection, request: Request) -> Response:
        return connection.respond(HTTPStatus.NOT_FOUND, "no")

    async with gateway(process_request=refuse) as server:
        with pytest.raises(InvalidRequest, match="HTTP 404"):
            await asyncio.wait_for(follow(server.url), 5)


async def test_a_handshake_that_is_refused_with_a_pause_is_made_again_after_it() -> None:
    refusals = [HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS]
    at = []

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        at.append(asyncio.get_running_loop().time())
        if not refusals:
            return None
        response = connection.respond(refusals.pop(), "later")
        response.headers["retry-after"] = "0.2"
        return response

    async with gateway(sends(complete(0), then="hold"), process_request=refuse) as server:
        assert len(await follow(server.url)) == 1
    assert at[1] - at[0] >= 0.2
    assert at[2] - at[1] >= 0.2


async def test_leaving_a_stream_early_closes_its_connection() -> None:
    closed = asyncio.Event()

    async def script(socket: ServerConnection, _: int) -> None:
        await socket.send(msgspec.json.encode(update(0)).decode())
        await socket.wait_closed()
        closed.set()

    async with gateway(script) as server, Client(server.url) as client:
        async with aclosing(client.follow("s")) as frames:
            await anext(frames)

        await asyncio.wait_for(closed.wait(), 5)


async def test_a_chunk_of_the_largest_size_comes_through() -> None:
    data = "\x01" * 512 * 1024  # JSON needs six characters for each
    async with gateway(sends(update(0, data), complete(1), then="hold")) as server:
        frames = await follow(server.url)

    assert frames[0].data == data


@pytest.mark.parametrize(("stream_id", "from_seq"), [("../x", 0), ("", 0), ("s", -1)])
async def test_what_cannot_be_a_stream_is_refused_before_connecting(stream_id: str, from_seq: int) -> None:
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest):
            await anext(client.follow(stream_id, from_seq))


async def test_a_socket_closed_for_want_of_a_token_is_opened_again_with_the_renewed_one() -> None:
    tokens = iter(["old", "new", "new"])
    async with (
        gateway(sends(update(0), then="4401"), sends(complete(1), then="hold")) as server,
        Client(server.url, reconnect=POLICY, token=lambda: next(tokens)) as client,
    ):
        frames = [frame async for frame in client.follow("s")]
    assert [frame.seq for frame in frames] == [0, 1]
    assert server.subscriptions == [("s", 0), ("s", 1)]


async def test_a_socket_closed_for_want_of_a_token_is_the_end_if_there_is_no_other() -> None:
    async with (
        gateway(sends(update(0), then="4401")) as server,
        Client(server.url, reconnect=POLICY, token="old") as client,
    ):
        with pytest.raises(Unauthenticated, match="APEX_TOKEN_FILE"):
            _ = [frame async for frame in client.follow("s")]


async def test_the_token_is_in_the_handshakes_header(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    def look(_: ServerConnection, request: Request) -> None:
        shown.append(request.headers.get("authorization"))

    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("APEX_TOKEN_FILE", str(tmp_path / "token"))
    async with gateway(sends(complete(0), then="hold"), process_request=look) as server:
        await follow(server.url)
    assert shown == ["Bearer secret"]
