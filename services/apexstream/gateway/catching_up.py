"""Brings a viewer up to where its stream is: what is sealed comes from segments, what is not from the memory of the live stream,
what that holds no more from the log; then the viewer is attached to the live stream.
"""

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

from apexstream.contracts.codec import Codec
from apexstream.core.errors import DataCorruption, InvalidRequest, Unavailable
from apexstream.core.events import StreamState, StreamStatus
from apexstream.core.fold import StreamFold, Verdict
from apexstream.gateway.cursors import Position
from apexstream.gateway.encoding import encode
from apexstream.gateway.live import LiveStream, read_run
from apexstream.gateway.replay import Replays
from apexstream.gateway.subscription import FromTail, FromTime, Subscription, Viewer
from apexstream.gateway.watched import WatchedStreams
from apexstream.log.cipher import KeyProvider, StreamOpener
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.index import StreamIndex, fold_of

REREADS_MAX = 3  # of a state whose segments went away while they were read
AHEAD_S_MAX = 15.0  # how long to wait for records that another gateway has shown already
CHUNKS_AT_ONCE_MAX = 4096
PACED_TURNS = 10  # in which a viewer with a rate gets its chunks of a second


class BeyondEnd(InvalidRequest):
    """A reader wants to go on behind the end of a stream that has ended: it read something else."""

    code = "beyond_end"


class CatchingUp:
    """Of all viewers of this gateway."""

    def __init__(
        self,
        watched: WatchedStreams,
        replays: Replays,
        scans: LogReader,
        codec: Codec,
        *,
        partition_of: Callable[[str], Partition],
        index: StreamIndex,
        keys: KeyProvider | None,
    ) -> None:
        self._watched = watched
        self._replays = replays
        self._scans = scans
        self._codec = codec
        self._partition_of = partition_of
        self._index = index
        self._keys = keys
        self._turns: WeakKeyDictionary[Viewer, asyncio.Lock] = WeakKeyDictionary()

    async def follow(self, subscription: Subscription) -> None:
        """Until it has all of its stream, or is attached. Raises what keeps the stream from being read."""
        state = self._watched.state(subscription.stream_id)
        if state is not None and state.status is not StreamStatus.OPEN:
            await self._replay_whole(subscription, state)
            return
        stream = self._watched.enter(subscription.stream_id, state)
        try:
            await asyncio.shield(stream.loaded)
            await self._find_start(subscription, stream)
            while not subscription.ended and subscription.live is None:
                await self._advance(subscription, stream)
        finally:
            self._watched.leave(stream)

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
                newer = self._watched.state(subscription.stream_id)
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
        state = self._watched.state(subscription.stream_id)
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
        state = self._watched.state(stream.stream_id)
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
        at = await self._watched.first_unsealed(stream, state, sealed_to)
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
