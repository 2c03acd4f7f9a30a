"""uvicorn's WebSocket connection, made reachable for the application: frames go straight to the transport.

The number of writes is what relaying costs, and uvloop writes at once what it is given. So frames of one turn of the event loop
are gathered here and leave in one write (:class:`Outbox`). They are complete and pass around uvicorn's frame encoder, which only
writes whole frames too, so both may be mixed.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.http11 import Request

from apexstream.gateway.stalling import StallWatch, waiting_bytes
from apexstream.gateway.waiting import Flag, Inbox

JOINED_BYTES_MAX = 256 * 1024  # of what is copied into one write
CLOSE_GRACE_S = 2.0  # for a client that is told to go

EXTENSION = "apexstream.socket"


class Outbox:
    """The sockets that have something to send at the end of this turn of the event loop."""

    __slots__ = ("_sockets",)

    def __init__(self) -> None:
        self._sockets: list[FrameSocket] = []

    def add(self, socket: "FrameSocket") -> None:
        """Have the socket flushed."""
        if not self._sockets:
            asyncio.get_running_loop().call_soon(self._flush)
        self._sockets.append(socket)

    def _flush(self) -> None:
        sockets, self._sockets = self._sockets, []
        for socket in sockets:
            socket.flush()


class FrameSocket(WebSocketsSansIOProtocol):
    """``on_stalled`` is called once if the client stops reading.

    A connection that is idle costs memory only, so that is what is saved here: attributes in slots, those of uvicorn's class
    too, which else lie in a dictionary of 1.6 KB; no queue or event of asyncio's; and nothing of the handshake, see :meth:`open`.
    """

    __slots__ = (
        "_held", "_held_bytes", "_outbox", "_paused", "_watch",
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

    def __init__(self, outbox: Outbox, config: Config, *arguments: Any, **more: Any) -> None:
        super().__init__(config, *arguments, **more)
        self._outbox = outbox
        self.app = config.app  # without what looks at proxies' headers: nothing here depends on them
        self.queue = Inbox()  # type: ignore[assignment]  # all that is used of a queue
        self.writable = Flag()  # type: ignore[assignment]  # all that is used of an event
        self.on_stalled: Callable[[], None] | None = None
        self._written = 0  # to the transport
        self._paused = False
        self._held: list[bytes] = []  # frames for a client that takes nothing now
        self._held_bytes = 0
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
        """Write complete frames; how many bytes the client has yet to take.

        They leave at the end of this turn, or once a client that takes nothing now does again. Until then they are references to
        what all viewers are sent; the transport would make an object of its own of every write.
        """
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return 0
        if not self._held and not self._paused:
            self._outbox.add(self)
        self._held.append(frames)
        self._held_bytes += len(frames)
        return self.untaken_bytes

    @property
    def untaken_bytes(self) -> int:
        """What the client has yet to take."""
        return self.transport.get_write_buffer_size() + self._held_bytes

    def finish(self, code: int, reason: str, grace_s: float) -> None:
        """Close with ``code``, after what was written; the client has ``grace_s`` to take it."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return
        try:
            self.conn.send_close(code, reason)
        except InvalidState:
            return  # the client is closing already
        self._paused = False
        self.flush()
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
        self._paused = True
        if self._watch is None:
            self._watch = StallWatch(self.loop, self._taken, self._stalled)
        self._watch.start()

    def resume_writing(self) -> None:
        """It does again."""
        self._paused = False
        self.flush()
        if not self._paused:  # it took what was held as well
            super().resume_writing()
            self._stop_watching()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_watching()
        self._held.clear()
        super().connection_lost(exc)

    def flush(self) -> None:
        """Hand over what waits, unless the client takes nothing now."""
        if self._paused or not self._held or self.disconnected or self.transport.is_closing():
            return
        held, size = self._held, self._held_bytes
        self._held, self._held_bytes = [], 0
        self._written += size
        if size > JOINED_BYTES_MAX:
            self.transport.writelines(held)
        else:
            self.transport.write(held[0] if len(held) == 1 else b"".join(held))

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
