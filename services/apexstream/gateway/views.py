"""HTTP: a stream as one viewer wants it, ``GET /streams/{id}/view``. What a view may be is said in ``core.views``.

The answer is lines of JSON, or server-sent events for whoever accepts them. It is read through the delivery engine like any
other, and may be resumed from any cursor in it.
"""

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from apexstream.core.errors import ApexError, InvalidRequest
from apexstream.core.fold import UNTOLD
from apexstream.core.views import View, read_view
from apexstream.gateway.access import Verb, principal_of
from apexstream.gateway.commands import Cursor, FromSeq, Rate, Tail, TimeUs, check_place
from apexstream.gateway.cursors import Position, StreamCursors
from apexstream.gateway.messages import refused
from apexstream.gateway.parts import Parts
from apexstream.gateway.reader import Delivery, Reader, reading
from apexstream.gateway.subscription import FromTail, FromTime, Start
from apexstream.gateway.tasks import path_id
from apexstream.gateway.viewed import Lines, Viewed, event

LIFETIME_S = 60.0  # of a live answer; then the client comes back, and shows a token that still holds
BEAT_S = 15.0
_EVENTS = "text/event-stream"
_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no", "x-content-type-options": "nosniff"}


class _Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    view: str
    from_seq: FromSeq | None = None
    cursor: Cursor | None = None
    tail: Tail | None = None
    from_time: TimeUs | None = None
    live: bool = False
    rate: Rate = 0


class Continued(msgspec.Struct, frozen=True, tag_field="type", tag="to_be_continued"):
    """The last line of an answer that does not reach the stream's end: where to go on, and why it is over: ``caught_up``,
    ``renew``, ``slow`` or ``draining``."""

    stream_id: str
    cursor: str
    reason: str


class Views:
    """The handler."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def routes(self) -> list[BaseRoute]:
        """Where it is."""
        return [Route("/streams/{task_id}/view", self.view)]

    async def view(self, request: Request) -> Response:
        """``GET /streams/{id}/view``: what a filter or a mapping makes of a stream, from any place in it."""
        stream_id, principal = path_id(request), principal_of(request)
        principal.require(Verb.READ, stream_id)
        events = _EVENTS in request.headers.get("accept", "")
        query = _query(request, events=events)
        view = read_view(query.view.encode())
        start = self._start(query, stream_id, view)
        self._parts.ownership.check(principal, stream_id)
        encoding = Viewed(Lines(self._parts.cursors, view.name, events), view)
        until_s = min(LIFETIME_S, principal.expires - self._parts.clock.now_us() / 1e6)
        async with AsyncExitStack() as stack:
            reader = await stack.enter_async_context(
                reading(
                    self._parts.hub,
                    stream_id,
                    start,
                    encoding,
                    live=query.live,
                    rate=query.rate,
                    tenant=principal.tenant,
                )
            )
            await reader.begun()
            first = await _next(reader, BEAT_S)
            if first is not None and first.ended and not first.data:
                return Response(
                    None, 204, _HEADERS
                )  # there is nothing after this cursor, ever: who asks need not come back
            cursors = self._parts.cursors.of(stream_id, view.name)
            answer = _Answer(reader, stream_id, cursors, events=events, until_s=until_s if query.live else math.inf)
            return _Streamed(answer.body(first), stack.pop_all(), events=events)

    def _start(self, query: _Query, stream_id: str, view: View) -> Start:
        if query.cursor is not None:
            return self._parts.cursors.read(query.cursor, stream_id, view.name)
        if query.tail is not None:
            return FromTail(query.tail)
        if query.from_time is not None:
            return FromTime(query.from_time)
        return Position(query.from_seq or 0, UNTOLD)


class _Answer:
    """What a reader is told. ``until_s`` from now the answer ends, wherever the stream is."""

    def __init__(self, reader: Reader, stream_id: str, cursors: StreamCursors, *, events: bool, until_s: float) -> None:
        self._reader = reader
        self._stream_id = stream_id
        self._cursors = cursors
        self._events = events
        self._until_s = until_s

    async def body(self, first: Delivery | None) -> AsyncGenerator[bytes, None]:
        """All of it."""
        loop = asyncio.get_running_loop()
        until, delivery = loop.time() + self._until_s, first
        try:
            while delivery is not None:
                yield delivery.data or self._beat()
                if delivery.ended:
                    return
                left_s = until - loop.time()
                if left_s <= 0:
                    break
                delivery = await _next(self._reader, min(BEAT_S, left_s))
        except ApexError as problem:
            said = msgspec.json.encode(refused(problem, stream_id=self._stream_id))
            yield b"data: %b\n\n" % said if self._events else said + b"\n"
            return
        yield self._beat() if self._events else self._continued()

    def _beat(self) -> bytes:
        """What keeps a connection open, and a reader's place up to date. Lines have nothing such."""
        return event(b"", self._cursor()) if self._events else b""

    def _continued(self) -> bytes:
        stopped = self._reader.stopped
        reason = "renew" if stopped is None else stopped.name.lower()
        return msgspec.json.encode(Continued(self._stream_id, self._cursor(), reason)) + b"\n"

    def _cursor(self) -> str:
        position = self._reader.reached
        return self._cursors.mint(position.seq, position.rewinds)


class _Streamed(StreamingResponse):
    """Reads no longer than it is sent, whatever becomes of the client."""

    def __init__(self, body: AsyncGenerator[bytes, None], reading_on: AsyncExitStack, *, events: bool) -> None:
        super().__init__(body, 200, _HEADERS, _EVENTS if events else "application/x-ndjson")
        self._reading_on = reading_on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._reading_on:
            await super().__call__(scope, receive, send)


async def _next(reader: Reader, wait_s: float) -> Delivery | None:
    """What comes next, or nothing at the place that is reached when ``wait_s`` is over; None: the reading is over."""
    try:
        async with asyncio.timeout(wait_s):
            return await anext(reader, None)
    except TimeoutError:
        return Delivery(b"", reader.reached)


def _query(request: Request, *, events: bool) -> _Query:
    given: dict[str, Any] = dict(request.query_params)
    if events:
        given["live"] = True  # that is what events are for
        given |= {"cursor": last} if (last := request.headers.get("last-event-id")) else {}
    try:
        query = msgspec.convert(given, _Query, strict=False)
    except msgspec.ValidationError as problem:
        hint = "view, live, rate, and one of cursor, from_seq, tail, from_time"
        raise InvalidRequest(str(problem), where="query", hint=hint) from None
    if "last-event-id" not in request.headers:
        check_place(query, "query")
    return query
