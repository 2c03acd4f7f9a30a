"""The delivery engine: one tail of each watched partition for all viewers, and a catch-up for each viewer that comes late.

A late viewer is sent what is sealed, then what the log holds from there up to where the tail stands, and then joins the
tail, in one step of the event loop: nothing is missed and nothing repeated. A stream that has ended is sealed altogether and
costs neither log nor tail. What the log gives and what the tail relays go through the same fold, which begins as the
sealed state says.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import Chunk
from apexstream.core.errors import ApexError, ChunkDecodeError, DataCorruption, Erased, Expired, Unavailable
from apexstream.core.events import StreamState, StreamStatus
from apexstream.core.fold import StreamFold, Verdict
from apexstream.gateway.frames import chunk_message, error_message, rewind_message, stream_head, websocket_frame
from apexstream.gateway.replay import Frames, Replays
from apexstream.log.chunks import SKEW_MS
from apexstream.log.cipher import KeyProvider, StreamOpener
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.index import StreamIndex, check_readable, fold_of
from apexstream.log.tails import MakeTails

NEAR_RECORDS_MAX = 10_000  # a gap in the log that is read through rather than asked about
REREADS_MAX = 3  # of a state whose segments went away while they were read

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

    def deliver_sealed(self, frames: Frames) -> None:
        """Send those of ``frames`` that the viewer has not had."""
        if self.next_seq < frames.next_seq:
            self.viewer.send(frames.since(self.next_seq))
            self.next_seq = frames.next_seq
        self.ended = self.ended or frames.closes

    def rewind(self, seq: int, frame: bytes) -> None:
        """Tell the viewer to forget from ``seq`` on, if it got that far (or may have, before it came back)."""
        if seq < self.next_seq:
            self.viewer.send(frame)
            self.next_seq = seq


class _Stream:
    """The state of one stream that is watched: its fold, from ``offset`` of its partition on, and who watches."""

    __slots__ = ("codec", "fold", "head", "offset", "opener", "subscriptions")

    def __init__(self, stream_id: str, codec: Codec, opener: StreamOpener, state: StreamState | None) -> None:
        self.codec = codec
        self.opener = opener
        self.fold = StreamFold() if state is None else fold_of(state)
        self.offset = 0 if state is None else state.offset
        self.head = stream_head(stream_id)
        self.subscriptions: set[Subscription] = set()

    def feed(self, record: Record) -> None:
        """Fold a record in and send what it changed to all subscriptions. Raises what :meth:`StreamOpener.open` does."""
        if record.offset < self.offset:
            return  # sealed before the tail came to it
        try:
            run = self.codec.decode_run(record.value or b"")
        except ChunkDecodeError as problem:
            _log.error("skipped a record that cannot be read", offset=record.offset, error=str(problem))
            return
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
        opened = self.opener.open(self.fold.claims, seq, chunks)
        return [websocket_frame(chunk_message(self.head, seq + i, chunk)) for i, chunk in enumerate(opened)]


class Hub:
    """All watched streams of this gateway.

    ``since_ms`` gives the broker's time of a stream's submission, or None while no such task is known: then its viewers
    wait until :meth:`known` says that it is, unless ``index`` knows the stream. :meth:`gone` is to be told what ``index``
    finds gone.
    """

    def __init__(
        self,
        make_tails: MakeTails,
        scans: LogReader,
        codec: Codec,
        *,
        partition_of: Callable[[str], Partition],
        since_ms: Callable[[str], int | None],
        index: StreamIndex,
        replays: Replays,
        keys: KeyProvider | None,
        now_us: Callable[[], int],
    ) -> None:
        self._tails = make_tails(self._on_records)
        self._scans = scans
        self._codec = codec
        self._partition_of = partition_of
        self._since_ms = since_ms
        self._index = index
        self._replays = replays
        self._keys = keys
        self._now_us = now_us
        self._turns: WeakKeyDictionary[Viewer, asyncio.Lock] = WeakKeyDictionary()
        self._live: dict[bytes, _Stream] = {}
        self._early: dict[str, set[Subscription]] = {}

    async def run(self) -> None:
        """Follow the tails of watched partitions until cancelled."""
        await self._tails.run()

    def subscribe(self, stream_id: str, from_seq: int, viewer: Viewer) -> Subscription:
        """Send the stream to ``viewer``, from ``from_seq`` to its end."""
        subscription = Subscription(stream_id, from_seq, viewer)
        if self._since_ms(stream_id) is None and self._index.get(stream_id) is None:
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

    def gone(self, stream_id: str) -> None:
        """The stream's content is gone: whoever watches it is told, and nobody is sent it again."""
        self._replays.forget(stream_id)
        stream = self._live.pop(stream_id.encode(), None)
        watching = self._early.pop(stream_id, set()) if stream is None else stream.subscriptions
        for subscription in watching:
            self._fail(subscription, Erased("the stream was erased", where=stream_id))

    def _begin(self, subscription: Subscription) -> None:
        subscription.task = asyncio.create_task(self._catch_up(subscription), name=f"catch up {subscription.stream_id}")

    async def _catch_up(self, subscription: Subscription) -> None:
        try:
            state = await self._replay_sealed(subscription)
            if not subscription.ended:
                await self._replay_log(subscription, state)
        except (Erased, Expired) as problem:
            self._fail(subscription, problem)
        except (DataCorruption, ChunkDecodeError) as problem:
            _log.exception("a stream cannot be replayed", stream=subscription.stream_id)
            self._fail(subscription, problem)
        except ApexError as problem:
            _log.error("a replay failed", stream=subscription.stream_id, error=str(problem))
            self._fail(subscription, Unavailable("the stream cannot be read now", hint="Subscribe again"))

    def _fail(self, subscription: Subscription, problem: ApexError) -> None:
        subscription.viewer.send(websocket_frame(error_message(problem, subscription.stream_id)))
        subscription.ended = True
        self._unwatch(subscription)

    async def _replay_sealed(self, subscription: Subscription) -> StreamState | None:
        """Send what is sealed, and what is sealed meanwhile. The result is the state whose content was sent; None if nothing
        is sealed yet."""
        sent: StreamState | None = None
        rereads = 0
        while True:
            state = self._index.get(subscription.stream_id)
            if state is None:
                return None
            check_readable(state, self._now_us())
            if sent is not None and sent.offset == state.offset:
                return state
            if sent is None or sent.rewinds != state.rewinds:
                self._forget_rewound(subscription, state)
            try:
                await self._send_sealed(subscription, state)
            except DataCorruption:
                rereads += 1
                if rereads > REREADS_MAX or self._index.get(subscription.stream_id) == state:
                    raise
                continue  # the state has changed, and with it where the content lies
            sent = state
            if state.status is not StreamStatus.OPEN:
                subscription.ended = True
                return state

    def _forget_rewound(self, subscription: Subscription, state: StreamState) -> None:
        """A viewer that comes back may have seen what a rewind took back since."""
        if state.rewound_to < subscription.next_seq <= state.rewound_from:
            message = rewind_message(stream_head(state.stream_id), state.rewound_to)
            subscription.rewind(state.rewound_to, websocket_frame(message))

    async def _send_sealed(self, subscription: Subscription, state: StreamState) -> None:
        if subscription.next_seq >= state.next_seq:
            return
        viewer, partition = subscription.viewer, self._partition_of(state.stream_id)[1]
        turn = self._turns.setdefault(viewer, asyncio.Lock())
        async for frames in self._replays.frames(partition, state, subscription.next_seq):
            async with turn:  # a viewer of many streams has room for one segment at a time
                subscription.deliver_sealed(frames)
                await viewer.room()

    async def _replay_log(self, subscription: Subscription, state: StreamState | None) -> None:
        """Read the log from where ``state`` stands up to where the tail stands, then join it."""
        stream_id, key = subscription.stream_id, subscription.stream_id.encode()
        partition = self._partition_of(stream_id)
        # No await since the state was read: both are of the same moment.
        sealed_to = self._index.sealed_to(partition[1])
        await self._tails.watch(partition)
        subscription.watched = partition
        at = await self._first_unsealed(partition, stream_id, state, sealed_to)
        stream = _Stream(stream_id, self._codec, StreamOpener(stream_id, self._keys), state)
        stream.subscriptions.add(subscription)
        while at < (stop := self._tails.position(partition)):
            before = at
            async for records, next_offset in self._scans.scan(partition, at, stop):
                at = next_offset
                for record in records:
                    if record.key == key:
                        stream.feed(record)
                if subscription.ended:
                    self._unwatch(subscription)
                    return
                await subscription.viewer.room()
            if at == before:
                await self._scans.retry_after(TimeoutError("nothing was read"))
        self._join(stream, subscription)

    def _join(self, stream: _Stream, subscription: Subscription) -> None:
        """Follow the tail from here. No await since its position was read: no record lies between."""
        state = self._index.get(subscription.stream_id)
        if state is not None:
            check_readable(state, self._now_us())
        live = self._live.setdefault(subscription.stream_id.encode(), stream)
        live.subscriptions.add(subscription)

    async def _first_unsealed(
        self, partition: Partition, stream_id: str, state: StreamState | None, sealed_to: int | None
    ) -> int:
        """Where in the log to look for what ``state`` does not have."""
        first = max(sealed_to or 0, 0 if state is None else state.offset)
        near = sealed_to is not None and self._tails.position(partition) - first <= NEAR_RECORDS_MAX
        if near or state is not None:
            return first
        return max(first, await self._scans.offset_at(partition, (self._since_ms(stream_id) or 0) - SKEW_MS))

    def _on_records(self, _: Partition, records: list[Record]) -> None:
        live = self._live
        for record in records:
            stream = live.get(record.key or b"")
            if stream is None:
                continue
            try:
                stream.feed(record)
            except ApexError as problem:
                self._stop_live(record.key or b"", problem)
                continue
            if stream.fold.closed is not None:
                del live[record.key or b""]
                for subscription in stream.subscriptions:
                    self._unwatch(subscription)

    def _stop_live(self, key: bytes, problem: ApexError) -> None:
        """One stream's content cannot be read; the others go on."""
        _log.error("a live stream cannot be read", stream=key.decode(), error=str(problem))
        for subscription in self._live.pop(key).subscriptions:
            self._fail(subscription, problem)

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
