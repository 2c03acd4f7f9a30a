"""One WebSocket: its commands in, its frames out.

Frames go straight to the transport, all of one turn of the event loop in one write: the number of writes is what relaying
costs. They are complete and pass around uvicorn's frame encoder, which only writes whole frames too, so both may be mixed.
"""

import asyncio
from typing import Any

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from apexstream.core.errors import ApexError, InvalidRequest
from apexstream.core.fold import UNTOLD
from apexstream.gateway.cursors import Position
from apexstream.gateway.frames import PONG, JsonFrames, Ping, Subscribe, error_message, read_command, websocket_frame
from apexstream.gateway.hub import Hub
from apexstream.gateway.parts import Parts
from apexstream.gateway.subscription import Subscription
from apexstream.runtime import meters

BEHIND_BYTES_MAX = 4 * 1024 * 1024  # unread by the client; past this it is closed, and may come back and resume
SUBSCRIPTIONS_MAX = 1_000
CLOSE_SLOW = 4008  # 4000-4499: reconnect and resume

JSON_FRAMES = JsonFrames()
_EXTENSION = "apexstream.socket"


class FrameSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, made reachable for the application so that it can write frames itself."""

    def handle_connect(self, event: Request) -> None:
        """Offer this connection to the application."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["extensions"][_EXTENSION] = self  # type: ignore[assignment]  # typed for JSON-like values


class SocketViewer:
    """The viewer behind one socket; see :class:`apexstream.gateway.subscription.Viewer`."""

    def __init__(self, socket: FrameSocket) -> None:
        self._socket = socket
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._bytes = 0
        self.too_slow = asyncio.Event()

    def began(self, subscription: Subscription) -> None:
        """Nothing to say."""

    def send(self, subscription: Subscription, data: bytes) -> None:  # noqa: ARG002
        """Write with whatever else this turn of the loop brings."""
        self.write(data)

    def caught_up(self, subscription: Subscription) -> None:
        """Nothing to say."""

    def failed(self, subscription: Subscription, problem: ApexError) -> None:
        """Tell the client; the socket stays open."""
        self.write(websocket_frame(error_message(problem, subscription.stream_id)))

    def write(self, frames: bytes) -> None:
        """Queue complete frames."""
        if not self._frames:
            self._loop.call_soon(self._flush)
        self._frames.append(frames)
        self._bytes += len(frames)

    async def room(self) -> None:
        """Wait until the transport has passed on most of what was written."""
        await asyncio.sleep(0)  # lets the flush run, and other viewers have their turn
        await self._socket.writable.wait()

    def _flush(self) -> None:
        data = b"".join(self._frames)
        self._frames.clear()
        self._bytes = 0
        transport = self._socket.transport
        if self._socket.disconnected or self._socket.close_sent or transport.is_closing() or self.too_slow.is_set():
            return
        if transport.get_write_buffer_size() > BEHIND_BYTES_MAX:
            self.too_slow.set()
            return
        transport.write(data)


class WebSockets:
    """The route."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def routes(self) -> list[BaseRoute]:
        """Where it is."""
        return [WebSocketRoute("/stream", self.stream)]

    async def stream(self, websocket: WebSocket) -> None:
        """The WebSocket at ``/stream``."""
        await serve_socket(websocket, self._parts.hub)


async def serve_socket(websocket: WebSocket, hub: Hub) -> None:
    """Speak the protocol of ``schemas/gateway/PROTOCOL.md`` until the client leaves or falls too far behind."""
    await websocket.accept()
    open_sockets = meters.VIEWERS.of("websocket")
    open_sockets.value += 1
    viewer = SocketViewer(websocket.scope["extensions"][_EXTENSION])
    subscriptions: dict[str, Subscription] = {}
    commands = asyncio.create_task(_commands(websocket, viewer, hub, subscriptions), name="commands")
    slow = asyncio.create_task(viewer.too_slow.wait(), name="slow")
    try:
        await asyncio.wait([commands, slow], return_when=asyncio.FIRST_COMPLETED)
        if viewer.too_slow.is_set():
            meters.SLOW_CLOSES.of("websocket").value += 1
            websocket.scope["extensions"][_EXTENSION].transport.abort()
    finally:
        for subscription in subscriptions.values():
            hub.unsubscribe(subscription)
        for task in (commands, slow):
            task.cancel()
        open_sockets.value -= 1
        await asyncio.gather(commands, slow, return_exceptions=True)


async def _commands(
    websocket: WebSocket, viewer: SocketViewer, hub: Hub, subscriptions: dict[str, Subscription]
) -> None:
    while True:
        try:
            message = await websocket.receive()
        except WebSocketDisconnect:
            return
        if message["type"] == "websocket.disconnect":
            return
        try:
            _follow(message, viewer, hub, subscriptions)
        except InvalidRequest as problem:
            viewer.write(websocket_frame(error_message(problem)))


def _follow(message: Any, viewer: SocketViewer, hub: Hub, subscriptions: dict[str, Subscription]) -> None:
    command = read_command(message.get("text") or message.get("bytes") or b"")
    if isinstance(command, Ping):
        viewer.write(websocket_frame(PONG))
        return
    old = subscriptions.pop(command.stream_id, None)
    if old is not None:
        hub.unsubscribe(old)
    if isinstance(command, Subscribe):
        if len(subscriptions) >= SUBSCRIPTIONS_MAX:
            raise InvalidRequest(f"more than {SUBSCRIPTIONS_MAX} streams on one socket", hint="Open another socket")
        subscriptions[command.stream_id] = hub.subscribe(
            command.stream_id, Position(command.from_seq, UNTOLD), viewer, JSON_FRAMES
        )
