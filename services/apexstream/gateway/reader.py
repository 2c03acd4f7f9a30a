"""A stream as an asynchronous iterator, for protocols that answer a request with it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum, auto

from apexstream.core.errors import ApexError
from apexstream.gateway.cursors import Position
from apexstream.gateway.encoding import Encoding
from apexstream.gateway.hub import Hub
from apexstream.gateway.subscription import Start, Subscription

WAITING_BYTES_MAX = 1024 * 1024  # sent and not yet taken; past this the reader is closed, and may come back and resume
ROOM_BYTES = 128 * 1024


class Stopped(Enum):
    """Why a reader's iteration is over."""

    ENDED = auto()  # the stream has, and it was given everything
    CAUGHT_UP = auto()  # it asked for what is there, and has it
    SLOW = auto()  # it took too little of what came; it may resume at its position
    DRAINING = auto()  # this gateway stops; it may resume at its position, at another one


@dataclass(frozen=True, slots=True)
class Delivery:
    """``data``: what the encoding made of one or more chunks, possibly nothing. ``position``: where a reader is that has it.
    ``up_to_date``: that is everything that is there now. ``ended``: nothing ever follows."""

    data: bytes
    position: Position
    up_to_date: bool = False
    ended: bool = False


class Reader:
    """Made by :func:`reading`; iterate to get :class:`Delivery` values in order. Raises what makes the stream unreadable.

    ``position`` is where a reader is that has taken all deliveries so far; ``stopped`` says, once the iteration is over, why.
    """

    def __init__(self, start: Position, *, live: bool) -> None:
        self.position = start
        self.stopped: Stopped | None = None
        self.recovered = True
        self._live = live
        self._began = asyncio.Event()
        self._waiting: deque[Delivery] = deque()
        self._waiting_bytes = 0
        self._problem: ApexError | None = None
        self._closing: Stopped | None = None
        self._caught_up = False
        self._subscription: Subscription | None = None
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def begun(self) -> None:
        """Wait until the stream exists and the start is found: then ``position`` is where reading starts, and
        ``recovered`` is False if a rewind took back something that the reader has. Raises as the iteration does."""
        await self._began.wait()
        if self._problem is not None and not self._waiting:
            raise self._problem

    @property
    def has_begun(self) -> bool:
        """True once the stream exists and ``position`` is a place in it."""
        return self._subscription is not None

    @property
    def reached(self) -> Position:
        """Where a reader is that has taken all deliveries so far, behind what its encoding does not show."""
        if self._waiting or self._subscription is None:
            return self.position
        return self._subscription.position

    def __aiter__(self) -> "Reader":
        return self

    async def __anext__(self) -> Delivery:
        while not self._waiting:
            if self._problem is not None:
                raise self._problem
            if self._closing is not None:
                self.stopped = self._closing
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        delivery = self._waiting.popleft()
        self._waiting_bytes -= len(delivery.data)
        if self._waiting_bytes < ROOM_BYTES:
            self._room.set()
        self.position = delivery.position
        return delivery

    def close(self, why: Stopped) -> None:
        """End the iteration once what is waiting has been taken."""
        self._closing = self._closing or why
        self._began.set()
        self._more.set()
        self._room.set()

    # As a viewer: see apexstream.gateway.subscription.Viewer.

    def began(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self.position = subscription.position
        self.recovered = subscription.recovered
        self._began.set()

    def send(self, subscription: Subscription, data: bytes) -> None:
        if self._closing is not None:
            return
        ended = subscription.ended
        self._put(Delivery(data, subscription.position, self._caught_up or ended, ended))
        if ended:
            self.close(Stopped.ENDED)
        elif self._waiting_bytes > WAITING_BYTES_MAX and self._caught_up:
            self.close(Stopped.SLOW)

    def caught_up(self, subscription: Subscription) -> None:
        self._caught_up = True
        if self._closing is None:
            self._put(Delivery(b"", subscription.position, up_to_date=True))
            if not self._live:
                self.close(Stopped.CAUGHT_UP)

    def failed(self, subscription: Subscription, problem: ApexError) -> None:  # noqa: ARG002 - there is only one
        self._problem = problem
        self._began.set()
        self._more.set()

    async def room(self) -> None:
        await asyncio.sleep(0)
        await self._room.wait()

    def behind(self) -> float:
        return min(1.0, self._waiting_bytes / WAITING_BYTES_MAX)

    def _put(self, delivery: Delivery) -> None:
        self._waiting.append(delivery)
        self._waiting_bytes += len(delivery.data)
        if self._waiting_bytes >= ROOM_BYTES:
            self._room.clear()
        self._more.set()


@asynccontextmanager
async def reading(
    hub: Hub,
    stream_id: str,
    start: Start,
    encoding: Encoding,
    *,
    live: bool = True,
    rate: int = 0,
    tenant: str = "",
) -> AsyncIterator[Reader]:
    """Read a stream, written by ``encoding``, from ``start``: to its end, or, unless ``live``, as far as it is there now.

    A stream that does not exist for ``tenant`` (its principal's) is waited for; ``hub.exists`` tells.
    """
    reader = Reader(start if isinstance(start, Position) else Position(0), live=live)
    with hub.draining(lambda: reader.close(Stopped.DRAINING)):
        subscription = hub.subscribe(stream_id, start, reader, encoding, rate=rate, tenant=tenant)
        try:
            yield reader
        finally:
            hub.unsubscribe(subscription)
