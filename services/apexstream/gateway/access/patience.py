"""uvicorn's HTTP connection, with an end to its patience: for a request's head that does not arrive, and for a client that takes
nothing of its answer."""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from apexstream.gateway.stalling import StallWatch, waiting_bytes

HEAD_S_MAX: Final = 10.0


class PatientHttp(HttpToolsProtocol):
    """Hangs up on a client that takes longer than ``HEAD_S_MAX`` to send the head of a request, or sends nothing at all, and on
    one that stops reading an answer."""

    _late: asyncio.TimerHandle | None = None
    _watch: StallWatch | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is due."""
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """Its head is here."""
        self._stop_waiting()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The client does not take its answer. Nothing more is written meanwhile, so what waits only becomes less."""
        super().pause_writing()
        if self._watch is None:
            self._watch = StallWatch(self.loop, lambda: -waiting_bytes(self.transport), self.transport.abort)
        self._watch.start()

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._watch is not None:
            self._watch.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self._watch is not None:
            self._watch.stop()
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_S_MAX, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
