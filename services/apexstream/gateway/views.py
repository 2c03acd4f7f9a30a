"""HTTP: a stream as one viewer wants it, ``GET /streams/{id}/view``. What a view may be is said in ``core.views``.

The answer is lines of JSON, or server-sent events for whoever accepts them. It is read through the delivery engine like any
other, and may be resumed from any cursor in it.
"""

import asyncio
import math
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from apexstream.core.errors import ApexError, InvalidRequest
from apexstream.core.views import read_view
from apexstream.gateway.access import Verb, principal_of
from apexstream.gateway.commands import check_place
from apexstream.gateway.cursors import CURSOR_CHARACTERS_MAX, StreamCursors
from apexstream.gateway.messages import refused
from apexstream.gateway.openapi import EVENTS, Streaming, operation, parameters_of
from apexstream.gateway.parts import Parts
from apexstream.gateway.reader import Delivery, Reader, reading
from apexstream.gateway.streamed import BEAT_S, HEADERS, Place, Streamed, next_delivery, query_of
from apexstream.gateway.tasks import path_id
from apexstream.gateway.viewed import Lines, Viewed, event

LINES = "application/x-ndjson"
LIFETIME_S = 60.0  # of a live answer; then the client comes back, and shows a token that still holds


class _Query(Place, frozen=True, kw_only=True, forbid_unknown_fields=True):
    view: str
    live: bool = False


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

    @operation(
        {200: Streaming((LINES, EVENTS)), 204: None},
        query=parameters_of(_Query),
        headers={"Last-Event-ID": {"type": "string", "maxLength": CURSOR_CHARACTERS_MAX}},
        refusals=(400, 404, 410, 422),
    )
    async def view(self, request: Request) -> Response:
        """``GET /streams/{id}/view``: what a filter or a mapping makes of a stream, from any place in it."""
        stream_id, principal = path_id(request), principal_of(request)
        principal.require(Verb.READ, stream_id)
        events = EVENTS in request.headers.get("accept", "")
        query = _query(request, events=events)
        view = read_view(query.view.encode())
        start = query.start(self._parts.cursors, stream_id, view.name)
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
            first = await next_delivery(reader, BEAT_S)
            if first is not None and first.ended and not first.data:
                return Response(None, 204, HEADERS)  # nothing follows this cursor, ever: who asks need not come back
            cursors = self._parts.cursors.of(stream_id, view.name)
            answer = _Answer(reader, stream_id, cursors, events=events, until_s=until_s if query.live else math.inf)
            media_type = EVENTS if events else LINES
            return Streamed(answer.body(first), stack.pop_all(), media_type=media_type)


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
                delivery = await next_delivery(self._reader, min(BEAT_S, left_s))
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


def _query(request: Request, *, events: bool) -> _Query:
    given, last = query_of(request), request.headers.get("last-event-id") if events else None
    if events:
        given["live"] = True  # that is what events are for
    if last:
        given["cursor"] = last
    try:
        query = msgspec.convert(given, _Query, strict=False)
    except msgspec.ValidationError as problem:
        hint = "view, live, rate, and one of cursor, from_seq, tail, from_time"
        raise InvalidRequest(str(problem), where="query", hint=hint) from None
    if not last:
        check_place(query, "query")
    return query
