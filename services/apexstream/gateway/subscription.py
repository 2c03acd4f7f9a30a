"""One viewer's reading of one stream: where it starts, where it is, and whom it tells."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from apexstream.core.errors import ApexError
from apexstream.gateway.cursors import Position
from apexstream.gateway.encoding import Encoder, Encoding
from apexstream.gateway.live import LiveStream
from apexstream.gateway.waiting import Flag


@dataclass(frozen=True, slots=True)
class FromTail:
    """Start with the last ``count`` chunks that are there, or with what comes next (0)."""

    count: int = 0


@dataclass(frozen=True, slots=True)
class FromTime:
    """Start with the first chunk whose event time is ``time_us`` (microseconds since the epoch) or later, or a little before."""

    time_us: int


Start = Position | FromTail | FromTime


class Viewer(Protocol):
    """Where a subscription's bytes go. No method but :meth:`room` may wait, and none may raise."""

    def began(self, subscription: "Subscription") -> None:
        """The stream exists and the start was found: ``position`` is where reading starts, ``recovered`` whether it is
        where the viewer wanted to go on. Comes before anything is sent."""

    def send(self, subscription: "Subscription", data: bytes) -> None:
        """Queue ``data``; with it the viewer is at ``subscription.position``, and has all if ``subscription.ended``.

        ``data`` is empty where the end brings nothing new. A viewer that falls too far behind closes itself.
        """

    def caught_up(self, subscription: "Subscription") -> None:
        """Everything that was there when this is called has been sent; what comes is sent as it comes."""

    def failed(self, subscription: "Subscription", problem: ApexError) -> None:
        """Nothing more comes, because of ``problem``."""

    async def room(self) -> None:
        """Wait until the viewer has taken most of what was sent."""

    def behind(self) -> float:
        """How much of what it may be behind it is behind, 0 to 1."""


class Subscription:
    """Made by :meth:`apexstream.gateway.hub.Hub.subscribe`; read by its viewer."""

    __slots__ = (
        "_position", "began", "encoder", "encoding", "ended", "live", "rate", "recovered", "running", "start", "stream_id",
        "task", "tenant", "viewer",
    )  # fmt: skip

    def __init__(
        self, stream_id: str, start: Start, viewer: Viewer, encoding: Encoding, *, rate: int = 0, tenant: str = ""
    ) -> None:
        self.stream_id = stream_id
        self.start = start
        self.viewer = viewer
        self.encoding = encoding
        self.encoder: Encoder = encoding.open(stream_id)
        self.rate = rate  # chunks a second, at most; 0: as they come
        self.tenant = tenant  # of whoever reads
        self.ended = False
        self.began = False
        self.recovered = True  # False if a rewind took back something that the viewer had
        self.live: LiveStream | None = None  # set while it gets what comes as it comes
        self.task: asyncio.Task[None] | None = None
        self.running = Flag()  # unset while the viewer has paused it
        self._position = start if isinstance(start, Position) else Position(0)

    @property
    def position(self) -> Position:
        """Where the viewer is once it has taken everything that was sent."""
        return self._position if self.live is None else self.live.position

    def move(self, position: Position) -> None:
        """It is here now."""
        self._position = position

    def deliver(self, data: bytes, position: Position) -> None:
        """Send ``data``, with which the viewer is at ``position``."""
        self._position = position
        if data:
            self.viewer.send(self, data)

    def rewind(self, position: Position) -> None:
        """Tell the viewer to forget everything from ``position`` on."""
        self.deliver(self.encoder.rewind(position.seq, position.rewinds), position)

    def begin(self) -> None:
        """The start is known."""
        if not self.began:
            self.began = True
            self.viewer.began(self)

    def end(self, data: bytes = b"") -> None:
        """Send the last of the stream, if there is anything left to send."""
        self.detach()
        self.ended = True
        self.viewer.send(self, data)

    def fail(self, problem: ApexError) -> None:
        """Nothing more comes."""
        self.detach()
        self.ended = True
        self.viewer.failed(self, problem)

    def detach(self) -> None:
        """Get nothing any more as it comes."""
        if self.live is not None:
            self._position = self.live.position
            self.live.detach(self)
            self.live = None
