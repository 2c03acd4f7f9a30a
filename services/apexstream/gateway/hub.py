"""The delivery engine: gives every viewer its stream, from where it wants it to the end, with no seam and nothing twice.

There is one tail of each watched partition and one fold of each watched stream, whatever number of viewers. A viewer gets
what is sealed from segments, what is not from the memory of the live stream, what that holds no more from the log, and is
then attached to the live stream. What a rewind took back is never replayed; a viewer that has some of it is told.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from weakref import WeakKeyDictionary

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.claims import is_adaptive
from apexstream.core.errors import (
    ApexError,
    ChunkDecodeError,
    DataCorruption,
    Erased,
    Expired,
    InvalidRequest,
    Unavailable,
)
from apexstream.core.events import StreamState, StreamStatus
from apexstream.core.fold import StreamFold, Verdict
from apexstream.gateway.access.principal import sees
from apexstream.gateway.cursors import Position
from apexstream.gateway.encoding import Encoding, encode
from apexstream.gateway.live import LiveStream, TailMemory, read_run
from apexstream.gateway.loading import Loader, by_stream
from apexstream.gateway.measures import ActionOf, StreamMeasures, action_unknown
from apexstream.gateway.replay import Replays
from apexstream.gateway.subscription import FromTail, FromTime, Start, Subscription, Viewer
from apexstream.log.chunks import SKEW_MS
from apexstream.log.cipher import KeyProvider, StreamOpener
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.index import StreamIndex, check_readable, fold_of
from apexstream.log.tails import MakeTails
from apexstream.runtime import meters, tracing

NEAR_RECORDS_MAX = 10_000  # a gap in the log that is read through rather than asked about
REREADS_MAX = 3  # of a state whose segments went away while they were read
LINGER_S = 30.0  # a stream that nobody watches any more is kept for those who come back
AHEAD_S_MAX = 15.0  # how long to wait for records that another gateway has shown already
CHUNKS_AT_ONCE_MAX = 4096
PACED_TURNS = 10  # in which a viewer with a rate gets its chunks of a second

_log = structlog.get_logger(__name__)


class BeyondEnd(InvalidRequest):
    """A reader wants to go on behind the end of a stream that has ended: it read something else."""

    code = "beyond_end"


class _Draining:
    """Among those who are told, while it lasts. A generator would take four times the memory, for every connection."""

    __slots__ = ("_stop", "_stops")

    def __init__(self, stops: dict[Callable[[], None], None], stop: Callable[[], None]) -> None:
        self._stops = stops
        self._stop = stop

    def __enter__(self) -> None:
        self._stops[self._stop] = None

    def __exit__(self, *_: object) -> None:
        del self._stops[self._stop]


class Hub:
    """All watched streams of this gateway.

    ``owner`` gives the tenant that a stream belongs to, or None while it is not known: then its viewers wait until
    :meth:`known` says that it is. To viewers of other tenants it never is. ``since_ms`` gives the broker's time of a stream's
    submission, if there was one. :meth:`gone` is to be told what ``index`` finds gone.
    """

    def __init__(
        self,
        make_tails: MakeTails,
        scans: LogReader,
        codec: Codec,
        *,
        partition_of: Callable[[str], Partition],
        since_ms: Callable[[str], int | None],
        owner: Callable[[str], str | None],
        index: StreamIndex,
        replays: Replays,
        keys: KeyProvider | None,
        now_us: Callable[[], int],
        memory: TailMemory | None = None,
        action_of: ActionOf = action_unknown,
        traceparent_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._tails = make_tails(self._on_records)
        self._scans = scans
        self._codec = codec
        self._partition_of = partition_of
        self._since_ms = since_ms
        self._owner = owner
        self._index = index
        self._replays = replays
        self._keys = keys
        self._now_us = now_us
        self._memory = memory or TailMemory()
        self._action_of = action_of
        self._traceparent_of = traceparent_of
        self._replay_took = meters.REPLAY.of()
        meters.VIOLATIONS.of("gateway")
        self._loader = Loader(scans, self._tails, self._loaded)
        self._turns: WeakKeyDictionary[Viewer, asyncio.Lock] = WeakKeyDictionary()
        self._streams: dict[str, LiveStream] = {}  # those that are loaded, and those that are being loaded
        self._live: dict[bytes, LiveStream] = {}  # those that the tail feeds
        self._early: dict[str, dict[Subscription, None]] = {}
        self._stops: dict[Callable[[], None], None] = {}
        self._drained = False

    async def run(self) -> None:
        """Follow the tails of watched partitions until cancelled."""
        await self._tails.run()

    # What viewers call.

    def exists(self, stream_id: str, tenant: str = "") -> bool:
        """True if ``tenant`` knows the stream, or its task: a viewer of it does not wait for it to come about."""
        return sees(tenant, self._owner(stream_id))

    def closed(self, stream_id: str) -> bool:
        """True if the stream's end has been seen here: its task has ended, even if its event is still on its way."""
        stream, state = self._streams.get(stream_id), self._index.get(stream_id)
        return (stream is not None and stream.fold.closed is not None) or (
            state is not None and state.status is not StreamStatus.OPEN
        )

    def subscribe(
        self, stream_id: str, start: Start, viewer: Viewer, encoding: Encoding, *, rate: int = 0, tenant: str = ""
    ) -> Subscription:
        """Send the stream to ``viewer``, written by ``encoding``, from ``start`` to its end; at most ``rate`` chunks a
        second (0: as they come). Nothing is sent before this returns. A stream that does not exist for ``tenant`` (its
        principal's) is waited for."""
        subscription = Subscription(stream_id, start, viewer, encoding, rate=rate, tenant=tenant)
        if self.exists(stream_id, tenant):
            self._begin(subscription)
        else:
            self._early.setdefault(stream_id, {})[subscription] = None
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Send nothing more."""
        subscription.ended = True
        self._halt(subscription)
        waiting = self._early.get(subscription.stream_id)
        if waiting is not None and waiting.pop(subscription, subscription) is None and not waiting:
            del self._early[subscription.stream_id]

    def pause(self, subscription: Subscription) -> None:
        """Send nothing until :meth:`resume`; the position stays."""
        subscription.running.clear()
        self._again(subscription)

    def resume(self, subscription: Subscription) -> None:
        """Go on where :meth:`pause` stopped."""
        subscription.running.set()

    def pace(self, subscription: Subscription, rate: int) -> None:
        """Send at most ``rate`` chunks a second from now on; 0: as they come."""
        subscription.rate = rate
        self._again(subscription)

    def behind(self) -> dict[str, float]:
        """Of each adaptive stream that is watched live: how far the viewer is behind that is furthest behind, 0 to 1."""
        return {
            stream.stream_id: max((each.viewer.behind() for each in stream.viewers()), default=0.0)
            for stream in self._live.values()
            if is_adaptive(stream.fold.claims)
        }

    # What the rest of the gateway calls.

    def draining(self, stop: Callable[[], None]) -> "AbstractContextManager[None]":
        """Have ``stop`` called when this gateway is about to end, if that is in this block, or was before it."""
        if self._drained:
            stop()
        return _Draining(self._stops, stop)

    def drain(self) -> None:
        """Tell all viewers to go: each with its cursor, so that it resumes at another gateway."""
        self._drained = True
        for stop in list(self._stops):
            stop()

    def known(self, stream_id: str) -> None:
        """The stream's task exists: those who wait for it get it from its beginning."""
        for subscription in self._waiting_for(stream_id):
            self._begin(subscription)

    def gone(self, stream_id: str) -> None:
        """The stream's content is gone: whoever watches it is told, and nobody is sent it again."""
        self._replays.forget(stream_id)
        problem = Erased("the stream was erased", where=stream_id)
        for subscription in self._waiting_for(stream_id):
            subscription.fail(problem)
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._stop(stream, problem)

    def _waiting_for(self, stream_id: str) -> list[Subscription]:
        """Take out those who wait for the stream, now that it exists. Strangers wait on: for them it does not."""
        waiting, owner = self._early.pop(stream_id, {}), self._owner(stream_id)
        strangers = {each: None for each in waiting if not sees(each.tenant, owner)}
        if strangers:
            self._early[stream_id] = strangers
        return [each for each in waiting if each not in strangers]

    # Catching up.

    def _begin(self, subscription: Subscription) -> None:
        subscription.task = asyncio.create_task(self._catch_up(subscription), name=f"catch up {subscription.stream_id}")

    def _again(self, subscription: Subscription) -> None:
        """Let a subscription that is attached catch up: that is where pauses and rates are kept."""
        if subscription.live is not None:
            self._detach(subscription)
            self._begin(subscription)

    def _halt(self, subscription: Subscription) -> None:
        if subscription.task is not None:
            subscription.task.cancel()
        self._detach(subscription)

    def _detach(self, subscription: Subscription) -> None:
        stream = subscription.live
        if stream is not None:
            subscription.detach()
            self._rest(stream)

    async def _catch_up(self, subscription: Subscription) -> None:
        stream_id = subscription.stream_id
        traceparent = self._traceparent_of(stream_id)
        with tracing.of_task(stream_id, traceparent), tracing.span("replay", traceparent, stream=stream_id):
            await self._catch_up_traced(subscription)
        if subscription.task is asyncio.current_task():
            subscription.task = None

    async def _catch_up_traced(self, subscription: Subscription) -> None:
        began_us = self._now_us()
        try:
            await self._follow(subscription)
            self._replay_took.observe((self._now_us() - began_us) / 1e6)
        except (Erased, Expired, InvalidRequest) as problem:
            subscription.fail(problem)
        except (DataCorruption, ChunkDecodeError) as problem:
            _log.exception("a stream cannot be replayed", stream=subscription.stream_id)
            subscription.fail(problem)
        except Exception as problem:  # a viewer must not wait for what never comes
            _log.exception("a replay failed", stream=subscription.stream_id, error=str(problem))
            subscription.fail(Unavailable("the stream cannot be read now", hint="Subscribe again"))

    async def _follow(self, subscription: Subscription) -> None:
        state = self._state(subscription.stream_id)
        if state is not None and state.status is not StreamStatus.OPEN:
            await self._replay_whole(subscription, state)
            return
        stream = self._enter(subscription.stream_id, state)
        try:
            await asyncio.shield(stream.loaded)
            await self._find_start(subscription, stream)
            while not subscription.ended and subscription.live is None:
                await self._advance(subscription, stream)
        finally:
            stream.users -= 1
            self._rest(stream)

    async def _replay_whole(self, subscription: Subscription, state: StreamState) -> None:
        """A stream that has ended is sealed altogether."""
        rereads = 0
        while True:
            fold = fold_of(state)
            await self._find_start_sealed(subscription, state)
            self._tell_rewinds(subscription, fold)
            if subscription.position.seq > state.next_seq:
                raise _beyond(subscription, state.next_seq)
            try:
                await self._send_sealed(subscription, state, state.next_seq, fold.rewinds)
            except DataCorruption:
                rereads += 1
                newer = self._state(subscription.stream_id)
                if rereads > REREADS_MAX or newer is None or newer == state:
                    raise
                state = newer
                continue
            if not subscription.ended:
                subscription.end()
            return

    async def _advance(self, subscription: Subscription, stream: LiveStream) -> None:
        """Bring a viewer of a live stream a part further, or attach it."""
        await subscription.running.wait()
        if stream.problem is not None:
            raise stream.problem
        state = self._state(subscription.stream_id)
        # Both are prefixes of one log: the one that knows more rewinds is the longer one.
        newer = state is not None and state.rewinds > stream.fold.rewinds
        self._tell_rewinds(subscription, fold_of(state) if newer and state is not None else stream.fold)
        position, fold = subscription.position, stream.fold
        if position.rewinds > fold.rewinds or position.seq > fold.next_seq:
            await self._await_records(subscription, stream)
        elif position.seq >= stream.first_seq:
            await self._send_live(subscription, stream)
        elif state is not None and position.seq < (end := _valid_end(state, fold)):
            await self._send_open_sealed(subscription, state, end, fold.rewinds)
        else:
            await self._send_logged(subscription, stream, state)

    def _tell_rewinds(self, subscription: Subscription, fold: StreamFold) -> None:
        position = subscription.position
        seq = fold.taken_back(position.seq, position.rewinds)
        told = Position(position.seq if seq is None else seq, max(position.rewinds, fold.rewinds))
        if not subscription.began:
            subscription.recovered = seq is None
            subscription.move(told)
            subscription.begin()
        if seq is None:
            subscription.move(told)
        else:
            subscription.rewind(told)

    async def _find_start(self, subscription: Subscription, stream: LiveStream) -> None:
        start = subscription.start
        if isinstance(start, Position):
            return
        if isinstance(start, FromTail):
            seq = max(stream.fold.next_seq - start.count, 0)
        else:
            seq = await self._seq_at(stream, start)
        subscription.start = Position(seq, stream.fold.rewinds)
        subscription.move(subscription.start)

    async def _seq_at(self, stream: LiveStream, start: FromTime) -> int:
        state = self._state(stream.stream_id)
        sealed_end = 0 if state is None else _valid_end(state, stream.fold)
        if state is not None and sealed_end:
            seq = await self._replays.seq_at(stream.partition[1], state, start.time_us)
            if seq < sealed_end:
                return seq
        seq = stream.seq_at(start.time_us)
        # If all in memory is late enough, so may be some that is neither there nor sealed.
        return min(seq, sealed_end) if seq == stream.first_seq else seq

    async def _find_start_sealed(self, subscription: Subscription, state: StreamState) -> None:
        start = subscription.start
        if isinstance(start, Position):
            return
        if isinstance(start, FromTail):
            seq = max(state.next_seq - start.count, 0)
        else:
            partition = self._partition_of(state.stream_id)[1]
            seq = await self._replays.seq_at(partition, state, start.time_us)
        subscription.start = Position(seq, state.rewinds)
        subscription.move(subscription.start)

    async def _await_records(self, subscription: Subscription, stream: LiveStream) -> None:
        """The viewer has more than the tail has brought so far: from another gateway, or from a log that lost its end."""
        if stream.fold.closed is not None:
            raise _beyond(subscription, stream.fold.next_seq)
        grown = stream.grown()
        told = subscription.position.rewinds
        if told <= stream.fold.rewinds:
            await asyncio.shield(grown)  # a reader may well ask for what is to come
            return
        try:
            async with asyncio.timeout(AHEAD_S_MAX):
                while stream.fold.rewinds < told:
                    await asyncio.shield(stream.grown())
        except TimeoutError:
            raise Unavailable("the cursor is ahead of this gateway", where=subscription.stream_id) from None

    async def _send_live(self, subscription: Subscription, stream: LiveStream) -> None:
        """From the memory of the live stream; whoever has all of it is attached, in the same turn of the loop."""
        seq, name = subscription.position.seq, subscription.encoding.name
        data, next_seq = stream.since(seq, name, subscription.encoder, _at_once(subscription.rate))
        position = Position(next_seq, stream.fold.rewinds)
        complete = next_seq == stream.fold.next_seq
        if complete and stream.fold.closed is not None:
            subscription.move(position)
            subscription.end(data)
        elif next_seq > seq and (subscription.rate or not complete):
            await self._send_part(subscription, data, position)
        elif subscription.rate:
            subscription.viewer.caught_up(subscription)
            await asyncio.shield(stream.grown())
        else:
            subscription.deliver(data, position)
            stream.attach(subscription, name, subscription.encoder)
            subscription.live = stream
            subscription.viewer.caught_up(subscription)

    async def _send_open_sealed(self, subscription: Subscription, state: StreamState, end: int, rewinds: int) -> None:
        try:
            await self._send_sealed(subscription, state, end, rewinds)
        except DataCorruption:
            if self._index.get(subscription.stream_id) == state:
                raise  # else where the content lies has changed meanwhile, and with the next try it is looked up again

    async def _send_sealed(self, subscription: Subscription, state: StreamState, end: int, rewinds: int) -> None:
        """Send what ``state`` holds before seq ``end`` to a viewer that is told of ``rewinds``, which may be more than it has."""
        if subscription.position.seq >= end:
            return
        partition = self._partition_of(state.stream_id)[1]
        ends = state.status is not StreamStatus.OPEN and end == state.next_seq
        encoded = self._replays.encoded(partition, state, subscription.position.seq, subscription.encoding, rewinds)
        async for sealed in encoded:
            while (seq := subscription.position.seq) < (stop := min(sealed.next_seq, end)):
                next_seq = min(stop, seq + _at_once(subscription.rate))
                data = sealed.between(seq, next_seq, subscription.encoder)
                if ends and next_seq == end:
                    await self._send_last(subscription, data, Position(next_seq, rewinds))
                    return
                await self._send_part(subscription, data, Position(next_seq, rewinds))
            if stop == end:
                return

    async def _send_part(self, subscription: Subscription, data: bytes, position: Position) -> None:
        """Send what comes up to ``position``, and wait until the viewer wants more."""
        viewer, sent = subscription.viewer, position.seq - subscription.position.seq
        async with self._turns.setdefault(viewer, asyncio.Lock()):  # a viewer of many streams has room for one part
            subscription.deliver(data, position)
            await viewer.room()
        if subscription.rate:
            await asyncio.sleep(sent / subscription.rate)
        await subscription.running.wait()

    async def _send_last(self, subscription: Subscription, data: bytes, position: Position) -> None:
        """The same for the end of a stream: a viewer of many short ones has room for one of them."""
        viewer = subscription.viewer
        async with self._turns.setdefault(viewer, asyncio.Lock()):
            subscription.move(position)
            subscription.end(data)
            await viewer.room()

    async def _send_logged(self, subscription: Subscription, stream: LiveStream, state: StreamState | None) -> None:
        """From the log: what is neither sealed nor in memory any more."""
        before = subscription.position
        # No await since the state was read: both are of the same moment.
        sealed_to = self._index.sealed_to(stream.partition[1])
        at = await self._first_unsealed(stream, state, sealed_to)
        replay = _Logged(self._codec, StreamOpener(stream.stream_id, self._keys), stream, state)
        async for records, _ in self._scans.scan(stream.partition, at, stream.offset):
            for record in records:
                replay.take(record, subscription)
            await subscription.viewer.room()
            await subscription.running.wait()
            position = subscription.position
            if position.seq >= stream.first_seq or position.rewinds != stream.fold.rewinds:
                return
        if subscription.position == before and before.rewinds == stream.fold.rewinds:
            raise DataCorruption(f"the log does not hold seq {before.seq}", where=stream.stream_id)

    async def _first_unsealed(self, stream: LiveStream, state: StreamState | None, sealed_to: int | None) -> int:
        """Where in the log to look for what ``state`` does not have. The partition is watched."""
        first = max(sealed_to or 0, 0 if state is None else state.offset)
        near = sealed_to is not None and self._tails.position(stream.partition) - first <= NEAR_RECORDS_MAX
        if near or state is not None:
            return first
        since_ms = (self._since_ms(stream.stream_id) or 0) - SKEW_MS
        return max(first, await self._scans.offset_at(stream.partition, since_ms))

    # Live streams.

    def _state(self, stream_id: str) -> StreamState | None:
        state = self._index.get(stream_id)
        if state is not None:
            check_readable(state, self._now_us())
        return state

    def _enter(self, stream_id: str, state: StreamState | None) -> LiveStream:
        """The live stream, one user more. No await may lie between reading ``state`` and this."""
        stream = self._streams.get(stream_id)
        if stream is None:
            fold, offset = (StreamFold(), 0) if state is None else (fold_of(state), state.offset)
            opener = StreamOpener(stream_id, self._keys)
            partition = self._partition_of(stream_id)
            stream = LiveStream(
                stream_id,
                partition,
                codec=self._codec,
                opener=opener,
                memory=self._memory,
                measures=StreamMeasures(*self._action_of(stream_id), self._now_us),
                fold=fold,
                offset=offset,
            )
            self._streams[stream_id] = stream
            sealed_to = self._index.sealed_to(partition[1])
            stream.loading = asyncio.create_task(self._load(stream, state, sealed_to), name=f"load {stream_id}")
        stream.users += 1
        if stream.release is not None:
            stream.release.cancel()
            stream.release = None
        return stream

    async def _load(self, stream: LiveStream, state: StreamState | None, sealed_to: int | None) -> None:
        try:
            await self._tails.watch(stream.partition)
            stream.watching = True
            await self._loader.load(stream, await self._first_unsealed(stream, state, sealed_to))
            stream.loaded.set_result(None)
        except Exception as problem:  # whatever it is, it is the viewers' to be told
            self._forget(stream)
            stream.loaded.set_exception(problem)
            stream.loaded.exception()  # nobody may be waiting any more

    def _loaded(self, stream: LiveStream) -> None:
        if self._streams.get(stream.stream_id) is not stream:
            return
        if stream.fold.closed is None:
            self._live[stream.stream_id.encode()] = stream
        else:
            self._unwatch(stream)

    def _on_records(self, _: Partition, records: list[Record]) -> None:
        for key, own in by_stream(records, self._live).items():
            stream = self._live[key]
            try:
                stream.take(own)
            except ApexError as problem:  # one stream's content cannot be read; the others go on
                _log.error("a live stream cannot be read", stream=stream.stream_id, error=str(problem))
                self._stop(stream, problem)
                continue
            if stream.fold.closed is not None:
                del self._live[key]
                self._unwatch(stream)
                self._rest(stream)

    def _rest(self, stream: LiveStream) -> None:
        """Forget the stream after a while if nobody needs it."""
        if not stream.users and not stream.watched and stream.release is None:
            stream.release = asyncio.get_running_loop().call_later(LINGER_S, self._forget, stream)

    def _stop(self, stream: LiveStream, problem: ApexError) -> None:
        self._forget(stream)
        stream.problem = problem
        for viewer in stream.viewers():
            viewer.fail(problem)
        stream.wake()

    def _forget(self, stream: LiveStream) -> None:
        if self._streams.get(stream.stream_id) is stream:
            del self._streams[stream.stream_id]
        self._live.pop(stream.stream_id.encode(), None)
        self._unwatch(stream)
        stream.drop_all()

    def _unwatch(self, stream: LiveStream) -> None:
        if stream.watching:
            stream.watching = False
            self._tails.unwatch(stream.partition)


class _Logged:
    """A stream read again from the log: which of its chunks still count is known from the live stream."""

    def __init__(self, codec: Codec, opener: StreamOpener, stream: LiveStream, state: StreamState | None) -> None:
        self._codec = codec
        self._opener = opener
        self._stream = stream
        self._key = stream.stream_id.encode()
        self._fold = StreamFold() if state is None else fold_of(state)
        self._offset = 0 if state is None else state.offset

    def take(self, record: Record, subscription: Subscription) -> None:
        """Send what the record holds, of what the viewer does not have yet."""
        run = read_run(self._codec, record) if record.key == self._key and record.offset >= self._offset else None
        if run is None:
            return
        first_seq = self._fold.next_seq
        if self._fold.apply(run).verdict is not Verdict.ACCEPTED:
            return
        end, position = self._stream.fold.kept_below(self._fold.rewinds), subscription.position
        next_seq = self._fold.next_seq if end is None else min(self._fold.next_seq, end)
        if first_seq <= position.seq < next_seq:
            opened = self._opener.open(self._fold.claims, first_seq, run.chunks)
            chunks = opened[position.seq - first_seq : next_seq - first_seq]
            pieces = encode(subscription.encoder, position.seq, position.rewinds, chunks)
            subscription.deliver(subscription.encoder.join(pieces), Position(next_seq, position.rewinds))


def _at_once(rate: int) -> int:
    """How many chunks a viewer is sent before it is waited for."""
    return max(1, rate // PACED_TURNS) if rate else CHUNKS_AT_ONCE_MAX


def _valid_end(state: StreamState, fold: StreamFold) -> int:
    """The seq before which what ``state`` holds still counts, ``fold`` being a later state of the stream."""
    end = fold.kept_below(state.rewinds)
    return state.next_seq if end is None else min(state.next_seq, end)


def _beyond(subscription: Subscription, next_seq: int) -> BeyondEnd:
    return BeyondEnd(
        f"seq {subscription.position.seq} is beyond the end of the stream, which has {next_seq}",
        where=subscription.stream_id,
        hint="Read it from the beginning",
    )
