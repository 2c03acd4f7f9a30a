"""uvicorn's WebSocket connection, made reachable for the application: frames go straight to the transport.

The number of writes is what relaying costs, so frames of one turn of the event loop must leave in one: uvloop gathers all
that is written to a transport in a turn. Frames are complete and pass around uvicorn's frame encoder, which only writes
whole frames too, so both may be mixed.
"""

from collections.abc import Callable

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.http11 import Request

from apexstream.gateway.stalling import StallWatch

CLOSE_GRACE_S = 2.0  # for a client that is told to go

EXTENSION = "apexstream.socket"


class FrameSocket(WebSocketsSansIOProtocol):
    """``on_stalled`` is called once if the client stops reading."""

    on_stalled: Callable[[], None] | None = None
    _written = 0
    _watch: StallWatch | None = None

    def handle_connect(self, event: Request) -> None:
        """Offer this connection to the application."""
        super().handle_connect(event)
        if hasattr(self, "scope"):
            self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]  # typed for JSON-like values

    def write(self, frames: bytes) -> int:
        """Write complete frames; how many bytes the client has yet to take."""
        if self.close_sent or self.disconnected or self.transport.is_closing():
            return 0
        self._written += len(frames)
        self.transport.write(frames)
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
        return self._written - self.transport.get_write_buffer_size()

    def _stalled(self) -> None:
        if self.on_stalled is not None:
            self.on_stalled()
        else:
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.stop()
