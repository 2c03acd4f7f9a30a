"""The delivery engine: one tail of each watched partition for all viewers, and a catch-up for each viewer that comes late.

A late viewer's catch-up reads the log up to where the tail stands and then joins the tail, in one step of the event loop:
nothing is missed and nothing repeated. What it reads and what the tail relays go through the same fold.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import Chunk
from apexstream.core.errors import ApexError, Unavailable
from apexstream.core.fold import StreamFold, Verdict
from apexstream.gateway.frames import chunk_message, error_message, rewind_message, stream_head, websocket_frame
from apexstream.log.chunks import SKEW_MS
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.tails import MakeTails

_log = structlog.get_logger(__name__)


class Viewer(Protocol):
    """Where a subscription's frames go."""

    def send(self, frames: bytes) -> None:
        """Queue complete WebSocket frames; never blocks. A viewer that falls too far behind is closed by itself."""

    async def room(self) -> None:
        """Wait until the viewer has taken most of what was sent."""


class Subscription:
    """One viewer's reading of one stream. ``next_seq`` is the first seq that the viewer has not been sent."""

    __slots__ = ("ended", "next_seq", "stream_id", "task", "viewer", "watched")

    def __init__(self, stream_id: str, next_seq: int, viewer: Viewer) -> None:
        self.stream_id = stream_id
        self.next_seq = next_seq
        self.viewer = viewer
        self.ended = False
        self.task: asyncio.Task[None] | None = None
        self.watched: Partition | None = None

    def deliver(self, first_seq: int, frames: list[bytes], *, closes: bool) -> None:
        """Send those of consecutive ``frames`` that the viewer has not had."""
        skip = self.next_seq - first_seq
        if skip < len(frames):
            self.viewer.send(b"".join(frames[skip:] if skip > 0 else frames))
            self.next_seq = first_seq + len(frames)
        self.ended = self.ended or closes

    def rewind(self, seq: int, frame: bytes) -> None:
        """Tell the viewer to forget from ``seq`` on, if it got that far (or may have, before it came back)."""
        if seq < self.next_seq:
            self.viewer.send(frame)
            self.next_seq = seq


class _Stream:
    """The state of one stream that is watched: its fold and who watches."""

    __slots__ = ("codec", "fold", "head", "subscriptions")

    def __init__(self, stream_id: str, codec: Codec) -> None:
        self.codec = codec
        self.fold = StreamFold()
        self.head = stream_head(stream_id)
        self.subscriptions: set[Subscription] = set()

    def feed(self, record: Record) -> None:
        """Fold a record in and send what it changed to all subscriptions."""
        run = self.codec.decode_run(record.value or b"")
        outcome = self.fold.apply(run)
        if outcome.verdict is Verdict.ACCEPTED:
            frames = self._frames(outcome.seq, run.chunks)
            closes = self.fold.closed is not None
            for subscription in self.subscriptions:
                subscription.deliver(outcome.seq, frames, closes=closes)
        elif outcome.verdict is Verdict.REWOUND:
            frame = websocket_frame(rewind_message(self.head, outcome.seq))
            for subscription in self.subscriptions:
                subscription.rewind(outcome.seq, frame)
        elif outcome.verdict is Verdict.VIOLATION:
            _log.error("the log breaks a rule of the stream record", reason=outcome.reason, offset=record.offset)

    def _frames(self, seq: int, chunks: tuple[Chunk, ...]) -> list[bytes]:
        return [websocket_frame(chunk_message(self.head, seq + i, chunk)) for i, chunk in enumerate(chunks)]


class Hub:
    """All watched streams of this gateway.

    ``since_ms`` gives the broker's time of a stream's submission, or None while no such task is known: then its viewers
    wait until :meth:`known` says that it is.
    """

    def __init__(
        self,
        make_tails: MakeTails,
        scans: LogReader,
        codec: Codec,
        *,
        partition_of: Callable[[str], Partition],
        since_ms: Callable[[str], int | None],
    ) -> None:
        self._tails = make_tails(self._on_records)
        self._scans = scans
        self._codec = codec
        self._partition_of = partition_of
        self._since_ms = since_ms
        self._live: dict[bytes, _Stream] = {}
        self._early: dict[str, set[Subscription]] = {}

    async def run(self) -> None:
        """Follow the tails of watched partitions until cancelled."""
        await self._tails.run()

    def subscribe(self, stream_id: str, from_seq: int, viewer: Viewer) -> Subscription:
        """Send the stream to ``viewer``, from ``from_seq`` to its end."""
        subscription = Subscription(stream_id, from_seq, viewer)
        if self._since_ms(stream_id) is None:
            self._early.setdefault(stream_id, set()).add(subscription)
        else:
            self._begin(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Send nothing more."""
        if subscription.task is not None:
            subscription.task.cancel()
        self._unwatch(subscription)
        _drop(self._early, subscription.stream_id, subscription)
        key = subscription.stream_id.encode()
        stream = self._live.get(key)
        if stream is not None:
            stream.subscriptions.discard(subscription)
            if not stream.subscriptions:
                del self._live[key]

    def known(self, stream_id: str) -> None:
        """The stream's task exists: those who wait for it get it from its beginning."""
        for subscription in self._early.pop(stream_id, ()):
            self._begin(subscription)

    def _begin(self, subscription: Subscription) -> None:
        subscription.task = asyncio.create_task(self._catch_up(subscription), name=f"catch up {subscription.stream_id}")

    async def _catch_up(self, subscription: Subscription) -> None:
        try:
            await self._replay(subscription)
        except ApexError as problem:
            _log.error("a replay failed", stream=subscription.stream_id, error=str(problem))
            unavailable = Unavailable("the stream cannot be read now", hint="Subscribe again")
            subscription.viewer.send(websocket_frame(error_message(unavailable, subscription.stream_id)))

    async def _replay(self, subscription: Subscription) -> None:
        """Read the log up to where the tail stands, then join it."""
        stream_id, key = subscription.stream_id, subscription.stream_id.encode()
        partition = self._partition_of(stream_id)
        await self._tails.watch(partition)
        subscription.watched = partition
        at = await self._scans.offset_at(partition, (self._since_ms(stream_id) or 0) - SKEW_MS)
        stream = _Stream(stream_id, self._codec)
        stream.subscriptions.add(subscription)
        while at < (stop := self._tails.position(partition)):
            async for records, _ in self._scans.scan(partition, at, stop):
                for record in records:
                    if record.key == key:
                        stream.feed(record)
                if subscription.ended:
                    self._unwatch(subscription)
                    return
                await subscription.viewer.room()
            at = stop
        live = self._live.setdefault(key, stream)  # no await since the tail's position was read: no record lies between
        live.subscriptions.add(subscription)

    def _on_records(self, _: Partition, records: list[Record]) -> None:
        live = self._live
        for record in records:
            stream = live.get(record.key or b"")
            if stream is None:
                continue
            stream.feed(record)
            if stream.fold.closed is not None:
                del live[record.key or b""]
                for subscription in stream.subscriptions:
                    self._unwatch(subscription)

    def _unwatch(self, subscription: Subscription) -> None:
        if subscription.watched is not None:
            self._tails.unwatch(subscription.watched)
            subscription.watched = None


def _drop(waiting: dict[str, set[Subscription]], stream_id: str, subscription: Subscription) -> None:
    group = waiting.get(stream_id)
    if group is not None:
        group.discard(subscription)
        if not group:
            del waiting[stream_id]
