"""Answers that go on for as long as a stream does: what views, server-sent events and chats share over HTTP."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from apexstream.core.errors import Unavailable
from apexstream.core.fold import UNTOLD
from apexstream.gateway.commands import Cursor, FromSeq, Rate, Tail, TimeUs
from apexstream.gateway.cursors import Cursors, Position
from apexstream.gateway.openapi import EVENTS, Streaming, parameters_of
from apexstream.gateway.reader import Delivery, Reader
from apexstream.gateway.subscription import FromTail, FromTime, Start

BEAT_S: Final = 15.0
BEGIN_S_MAX: Final = 30.0  # until a stream that exists can be read
AS_EVENTS: Final = Streaming((EVENTS,))
HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no", "x-content-type-options": "nosniff"}


class BrokenOff(Exception):
    """An answer is not whole, and must not look so: its connection is broken off."""


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a query says of where to start, and how fast."""

    from_seq: FromSeq | None = None
    cursor: Cursor | None = None
    tail: Tail | None = None
    from_time: TimeUs | None = None
    rate: Rate = 0

    def start(self, cursors: Cursors, stream_id: str, view: str = "") -> Start:
        """Where that is in the stream. Raises :class:`CursorRefused`."""
        if self.cursor is not None:
            return cursors.read(self.cursor, stream_id, view)
        if self.tail is not None:
            return FromTail(self.tail)
        if self.from_time is not None:
            return FromTime(self.from_time)
        return Position(self.from_seq or 0, UNTOLD)


PLACES: Final = parameters_of(Place)
"""The parameters of a place, for a document."""


def query_of(request: Request) -> dict[str, Any]:
    """What the address asks for. A ticket is not for the route: the guard has taken it."""
    return {name: value for name, value in request.query_params.items() if name != "ticket"}


class Streamed(StreamingResponse):
    """Reads no longer than it is sent, whatever becomes of the client: ``reading_on`` is left then."""

    def __init__(
        self,
        body: AsyncGenerator[bytes, None],
        reading_on: AsyncExitStack,
        *,
        media_type: str = EVENTS,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(body, 200, {**HEADERS, **(headers or {})}, media_type)
        self._body = body
        self._reading_on = reading_on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # An answer that is left unfinished has uvicorn close its connection, in which clients see an error.
        with contextlib.suppress(BrokenOff):
            async with self._reading_on, contextlib.aclosing(self._body):
                if scope["method"] == "HEAD":  # nobody would read what follows, and it need not end
                    await Response(None, 200, dict(self.headers))(scope, receive, send)
                else:
                    await super().__call__(scope, receive, send)


async def readable(reader: Reader) -> None:
    """Wait for the beginning of a stream that exists, so that what is wrong with it can be answered with a status. Raises what
    reading fails with."""
    try:
        async with asyncio.timeout(BEGIN_S_MAX):
            await reader.begun()
    except TimeoutError:
        raise Unavailable("the stream could not be read in time", hint="Read again") from None


async def begin(reader: Reader, first_s: float) -> Delivery | None:
    """What comes first of a stream that is :func:`readable`; after ``first_s`` an empty delivery."""
    await readable(reader)
    return await next_delivery(reader, first_s)


async def next_delivery(reader: Reader, wait_s: float) -> Delivery | None:
    """What comes next, or nothing at the place that is reached when ``wait_s`` is over; None: the reading is over."""
    try:
        async with asyncio.timeout(wait_s):
            return await anext(reader, None)
    except TimeoutError:
        return Delivery(b"", reader.reached)
