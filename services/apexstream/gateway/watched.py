"""The live streams of this gateway: one tail of each watched partition and one fold of each watched stream, whatever number of
viewers.
"""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.errors import ApexError
from apexstream.core.events import StreamState
from apexstream.core.fold import StreamFold
from apexstream.gateway.live import LiveStream, TailMemory
from apexstream.gateway.loading import Loader, by_stream
from apexstream.gateway.measures import ActionOf, StreamMeasures
from apexstream.log.chunks import SKEW_MS
from apexstream.log.cipher import KeyProvider, StreamOpener
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.index import StreamIndex, check_readable, fold_of
from apexstream.log.tails import MakeTails
from apexstream.runtime import meters

NEAR_RECORDS_MAX = 10_000  # a gap in the log that is read through rather than asked about
LINGER_S = 30.0  # a stream that nobody watches any more is kept for those who come back

_log = structlog.get_logger(__name__)


class WatchedStreams:
    """Use :meth:`enter` and :meth:`leave` around whatever needs a live stream. ``since_ms`` as in
    :class:`apexstream.gateway.hub.Hub`."""

    def __init__(
        self,
        make_tails: MakeTails,
        scans: LogReader,
        codec: Codec,
        *,
        partition_of: Callable[[str], Partition],
        since_ms: Callable[[str], int | None],
        index: StreamIndex,
        keys: KeyProvider | None,
        now_us: Callable[[], int],
        memory: TailMemory,
        action_of: ActionOf,
    ) -> None:
        self._tails = make_tails(self._on_records)
        self._scans = scans
        self._codec = codec
        self._partition_of = partition_of
        self._since_ms = since_ms
        self._index = index
        self._keys = keys
        self._now_us = now_us
        self._memory = memory
        self._action_of = action_of
        meters.VIOLATIONS.of("gateway")
        self._loader = Loader(scans, self._tails, self._loaded)
        self._streams: dict[str, LiveStream] = {}  # those that are loaded, and those that are being loaded
        self._live: dict[bytes, LiveStream] = {}  # those that the tail feeds

    async def run(self) -> None:
        """Follow the tails of watched partitions until cancelled."""
        await self._tails.run()

    def get(self, stream_id: str) -> LiveStream | None:
        """The stream, if it is loaded or being loaded."""
        return self._streams.get(stream_id)

    def fed(self) -> Iterable[LiveStream]:
        """Those that the tail feeds."""
        return self._live.values()

    def state(self, stream_id: str) -> StreamState | None:
        """What is sealed of the stream; raises :class:`Erased` and :class:`Expired`."""
        state = self._index.get(stream_id)
        if state is not None:
            check_readable(state, self._now_us())
        return state

    def enter(self, stream_id: str, state: StreamState | None) -> LiveStream:
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

    def leave(self, stream: LiveStream) -> None:
        """One user less."""
        stream.users -= 1
        self.rest(stream)

    def rest(self, stream: LiveStream) -> None:
        """Forget the stream after a while if nobody needs it."""
        if not stream.users and not stream.watched and stream.release is None:
            stream.release = asyncio.get_running_loop().call_later(LINGER_S, self._forget, stream)

    def stop(self, stream: LiveStream, problem: ApexError) -> None:
        """Nobody gets the stream any more: whoever does is told why."""
        self._forget(stream)
        stream.problem = problem
        for viewer in stream.viewers():
            viewer.fail(problem)
        stream.wake()

    async def first_unsealed(self, stream: LiveStream, state: StreamState | None, sealed_to: int | None) -> int:
        """Where in the log to look for what ``state`` does not have. The partition is watched."""
        first = max(sealed_to or 0, 0 if state is None else state.offset)
        near = sealed_to is not None and self._tails.position(stream.partition) - first <= NEAR_RECORDS_MAX
        if near or state is not None:
            return first
        since_ms = (self._since_ms(stream.stream_id) or 0) - SKEW_MS
        return max(first, await self._scans.offset_at(stream.partition, since_ms))

    async def _load(self, stream: LiveStream, state: StreamState | None, sealed_to: int | None) -> None:
        try:
            await self._tails.watch(stream.partition)
            stream.watching = True
            await self._loader.load(stream, await self.first_unsealed(stream, state, sealed_to))
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
                self.stop(stream, problem)
                continue
            if stream.fold.closed is not None:
                del self._live[key]
                self._unwatch(stream)
                self.rest(stream)

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
