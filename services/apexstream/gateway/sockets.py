"""uvicorn's WebSocket connection, made reachable for the application: frames go straight to the transport.

The number of writes is what relaying costs, so frames of one turn of the event loop must leave in one: uvloop gathers all
that is written to a transport in a turn. Frames are complete and pass around uvicorn's frame encoder, which only writes
whole frames too, so both may be mixed.
"""

from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.http11 import Request

from apexstream.gateway.stalling import StallWatch, waiting_bytes
from apexstream.gateway.waiting import Flag, Inbox

CLOSE_GRACE_S = 2.0  # for a client that is told to go

EXTENSION = "apexstream.socket"


class FrameSocket(WebSocketsSansIOProtocol):
    """``on_stalled`` is called once if the client stops reading.

    A connection that is idle costs memory only, so that is what is saved here: attributes in slots, those of uvicorn's class
    too, which else lie in a dictionary of 1.6 KB; no queue or event of asyncio's; and nothing of the handshake, see :meth:`open`.
    """

    __slots__ = (
        "_watch",
        "_written",
        "app",
        "app_state",
        "asgi_version",
        "client",
        "close_sent",
        "close_timeout",
        "close_timer",
        "config",
        "conn",
        "connections",
        "curr_msg_data_type",
        "default_headers",
        "disconnected",
        "frames",
        "handshake_complete",
        "handshake_initiated",
        "initial_response",
        "last_ping_rtt",
        "logger",
        "loop",
        "on_stalled",
        "pending_ping_payload",
        "ping_interval",
        "ping_sent_at",
        "ping_timeout",
        "ping_timer",
        "pong_timer",
        "queue",
        "read_paused",
        "request",
        "response",
        "root_path",
        "scheme",
        "scope",
        "server",
        "tasks",
        "transport",
        "writable",
    )  # fmt: skip

    def __init__(self, config: Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        self.app = config.app  # without what looks at proxies' headers: nothing here depends on them
        self.queue = Inbox()  # type: ignore[assignment]  # all that is used of a queue
        self.writable = Flag()  # type: ignore[assignment]  # all that is used of an event
        self.on_stalled: Callable[[], None] | None = None
        self._written = 0
        self._watch: StallWatch | None = None

    def handle_connect(self, event: Request) -> None:
        """Offer this connection to the application."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]  # typed for JSON-like values

    def open(self) -> None:
        """The handshake is over: what it was made of goes."""
        del self.request, self.response
        self.scope["headers"].clear()  # type: ignore[attr-defined]  # the list that handle_connect made

    def write(self, frames: bytes) -> int:
        """Write complete frames; how many bytes the client has yet to take."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return 0
        self._written += len(frames)
        self.transport.write(frames)
        return self.transport.get_write_buffer_size()

    @property
    def untaken_bytes(self) -> int:
        """What the client has yet to take."""
        return self.transport.get_write_buffer_size()

    def finish(self, code: int, reason: str, grace_s: float) -> None:
        """Close with ``code``, after what was written; the client has ``grace_s`` to take it."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        try:
            self.conn.send_close(code, reason)
        except InvalidState:
            return  # the client is closing already
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(grace_s, self.transport.abort)

    def pause_writing(self) -> None:
        """The client does not take what is written."""
        super().pause_writing()
        if self._watch is None:
            self._watch = StallWatch(self.loop, self._taken, self._stalled)
        self._watch.start()

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        self._stop_watching()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_watching()
        super().connection_lost(exc)

    def _taken(self) -> int:
        return self._written - waiting_bytes(self.transport)

    def _stalled(self) -> None:
        if self.on_stalled is not None:
            self.on_stalled()
        else:
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.stop()
