"""HTTP: a stream as server-sent events, ``GET /streams/{id}/events``: for ``EventSource``, curl, and whatever reads lines.

An event's id is the cursor behind it, so whoever comes back with ``Last-Event-ID`` goes on there. Events are written once for all
viewers of a stream, and all that comes in one turn of the loop leaves in one write; a library that formats each event for each
viewer can do neither.
"""

import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from apexstream.core.errors import ApexError, InvalidRequest
from apexstream.gateway.access import Verb, principal_of
from apexstream.gateway.commands import check_place
from apexstream.gateway.cursors import CURSOR_CHARACTERS_MAX, StreamCursors
from apexstream.gateway.messages import refused
from apexstream.gateway.openapi import operation
from apexstream.gateway.parts import Parts
from apexstream.gateway.reader import Delivery, Reader, Stopped, reading
from apexstream.gateway.streamed import (
    AS_EVENTS,
    BEAT_S,
    HEADERS,
    PLACES,
    Place,
    Streamed,
    begin,
    next_delivery,
    query_of,
)
from apexstream.gateway.tasks import path_id
from apexstream.gateway.viewed import Lines, event
from apexstream.runtime import meters

FIRST_S: Final = 1.0  # then the answer begins, even if nothing was read yet
RETRY_MS: Final = (500, 2_500)  # how long a browser waits before it comes back, at random: not all at once


class Events:
    """The handler."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        meters.VIEWERS.of("sse")
        meters.SLOW_CLOSES.of("sse")

    def routes(self) -> list[BaseRoute]:
        """Where it is."""
        return [Route("/streams/{task_id}/events", self.events)]

    @operation(
        {200: AS_EVENTS, 204: None},
        query=PLACES,
        headers={"Last-Event-ID": {"type": "string", "maxLength": CURSOR_CHARACTERS_MAX}},
        refusals=(400, 410),
    )
    async def events(self, request: Request) -> Response:
        """``GET /streams/{id}/events``: from a place on to the end. 204 behind it: then a browser does not come back."""
        parts, stream_id, principal = self._parts, path_id(request), principal_of(request)
        principal.require(Verb.READ, stream_id)
        place = _place(request)
        start = place.start(parts.cursors, stream_id)
        encoding = Lines(parts.cursors, "", events=True)
        async with AsyncExitStack() as stack:
            reader = await stack.enter_async_context(
                reading(parts.hub, stream_id, start, encoding, rate=place.rate, tenant=principal.tenant)
            )
            first: Delivery | None = Delivery(b"", reader.position)
            if parts.hub.exists(stream_id, principal.tenant):
                first = await begin(reader, FIRST_S)
                if first is not None and first.ended and not first.data:
                    return Response(None, 204, HEADERS)
            return Streamed(_body(reader, first, parts.cursors.of(stream_id), stream_id), stack.pop_all())


async def _body(
    reader: Reader, first: Delivery | None, cursors: StreamCursors, stream_id: str
) -> AsyncGenerator[bytes, None]:
    watching = meters.VIEWERS.of("sse")
    watching.value += 1
    delivery = first
    try:
        yield b"retry: %d\n" % random.randint(*RETRY_MS)  # noqa: S311 - only spreads load
        while delivery is not None:
            yield delivery.data or _beat(reader, cursors)
            if delivery.ended:
                return
            delivery = await next_delivery(reader, BEAT_S)
        yield _beat(reader, cursors)
    except ApexError as problem:
        yield b"data: %b\n\n" % msgspec.json.encode(refused(problem, stream_id=stream_id))
    finally:
        watching.value -= 1
        if reader.stopped is Stopped.SLOW:
            meters.SLOW_CLOSES.of("sse").value += 1


def _beat(reader: Reader, cursors: StreamCursors) -> bytes:
    """What keeps a connection open, and a reader's place up to date, once it has one."""
    if not reader.has_begun:
        return b":\n\n"
    position = reader.reached
    return event(b"", cursors.mint(position.seq, position.rewinds))


def _place(request: Request) -> Place:
    given = query_of(request)
    last = request.headers.get("last-event-id")
    if last:  # a browser that comes back asks for the same address: that is where it started, and this where it is
        given = {"cursor": last} | {name: value for name, value in given.items() if name == "rate"}
    try:
        place = msgspec.convert(given, Place, strict=False)
    except msgspec.ValidationError as problem:
        hint = "rate, and one of cursor, from_seq, tail, from_time"
        raise InvalidRequest(str(problem), where="query", hint=hint) from None
    check_place(place, "query")
    return place
