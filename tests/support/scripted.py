"""A gateway that follows a script: the cases of ``schemas/gateway/conformance``, each at an address of its own."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
from websockets.asyncio.server import Request, Response, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

FOLLOWING = Path(__file__).parents[2] / "schemas" / "gateway" / "conformance" / "following.json"
TIMEOUT_S = 60


def cases() -> list[dict[str, Any]]:
    """All of them."""
    return list(json.loads(FOLLOWING.read_text())["cases"])


@dataclass
class Scripted:
    """``problems``: what clients did that the script does not have."""

    url: str
    problems: list[str] = field(default_factory=list)
    connections: dict[int, int] = field(default_factory=dict)

    def address(self, case: int) -> str:
        """Where case ``case`` is played."""
        return f"{self.url}/{case}"

    def next(self, path: str) -> dict[str, Any] | None:
        """The script of the next connection at ``path``."""
        case = int(path.split("/")[1])
        at = self.connections[case] = self.connections.get(case, -1) + 1
        script = cases()[case]
        if at < len(script["connections"]):
            return dict(script["connections"][at])
        self.problems.append(f"{script['name']}: a connection too many")
        return None


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    """Play all cases, each any number of times in order of its connections."""
    gateway = Scripted("")

    def handshake(connection: ServerConnection, request: Request) -> Response | None:
        script = gateway.next(request.path)
        connection.script = script  # type: ignore[attr-defined]
        if script is None or "refuse" not in script:
            return None
        response = connection.respond(HTTPStatus(script["refuse"]), "later")
        response.headers.update(script["headers"])
        return response

    async def play(socket: ServerConnection) -> None:
        script: dict[str, Any] | None = socket.script  # type: ignore[attr-defined]
        if script is None:
            await socket.close(4500, "not in the script")
            return
        command = msgspec.json.decode(await socket.recv())
        place = {name: command[name] for name in ("from_seq", "cursor") if name in command}
        if (command["type"], command["stream_id"], place) != ("subscribe", "s", script["asks"]):
            gateway.problems.append(f"{command} instead of {script['asks']}")
        for message in script["say"]:
            await socket.send(msgspec.json.encode(message).decode())
        match script["then"]:
            case "hold":
                await socket.wait_closed()
            case "drop":
                await asyncio.wait_for(await socket.ping(), TIMEOUT_S)  # by its pong the messages have arrived
                socket.transport.abort()
            case then:
                await socket.close(then["close"], "so it is written")

    async def handle(socket: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):  # the client may leave
            await play(socket)

    async with serve(handle, "127.0.0.1", 0, process_request=handshake) as server:
        gateway.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield gateway
