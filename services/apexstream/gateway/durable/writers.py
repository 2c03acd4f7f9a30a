"""The streams that this gateway writes now. One that nobody has appended to for a while is let go of; whoever appends next,
here or at another gateway, takes it from the log."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.errors import ChunkDecodeError, Unavailable
from apexstream.gateway.durable.writer import Answer, Pending, StreamWriter
from apexstream.log.cipher import KeyProvider
from apexstream.log.fetcher import Partition, Record
from apexstream.log.outside import OutsideChunks
from apexstream.log.tails import Tails

HELD_MAX = 10_000  # streams
IDLE_S = 60.0
SWEEP_S = 10.0
SETTLE_TIMEOUT_S = 15.0  # for the tail to come to where the log ended when it was asked for

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Held:
    writer: StreamWriter
    partition: Partition
    used_at: float
    users: int = 0


class Writers:
    """Appends to streams. :meth:`on_records` must be given what ``tails`` brings, after whoever shows it to readers: who has
    appended then reads it at this gateway at once."""

    def __init__(
        self,
        log: OutsideChunks,
        tails: Tails,
        codec: Codec,
        *,
        keys: KeyProvider | None,
        now_us: Callable[[], int],
        monotonic: Callable[[], float],
        random: Callable[[], float],
        timeout_s: float,
    ) -> None:
        self._log = log
        self._tails = tails
        self._codec = codec
        self._keys = keys
        self._now_us = now_us
        self._monotonic = monotonic
        self._random = random
        self._timeout_s = timeout_s
        self._held: OrderedDict[bytes, _Held] = OrderedDict()  # those used longest ago first
        self._moved: dict[Partition, asyncio.Event] = {}

    async def create(self, stream_id: str, tenant: str, pending: Pending) -> Answer:
        """Begin a stream that nobody else can know, with ``pending``."""
        return await self._use(stream_id, tenant, pending, fresh=True)

    async def append(self, stream_id: str, tenant: str, pending: Pending) -> Answer:
        """See :meth:`StreamWriter.append`."""
        return await self._use(stream_id, tenant, pending, fresh=False)

    async def settled(self, stream_id: str) -> None:
        """Return once the tail has brought everything that was in the log when this was called."""
        partition = self._log.partition(stream_id)
        await self._tails.watch(partition)
        try:
            end = await self._log.end(stream_id)
            async with asyncio.timeout(SETTLE_TIMEOUT_S):
                while self._tails.position(partition) < end:
                    await self._moved.setdefault(partition, asyncio.Event()).wait()
        except TimeoutError:
            raise Unavailable("the log cannot be followed", where=stream_id, hint="Try again") from None
        finally:
            self._tails.unwatch(partition)

    async def run(self) -> None:
        """Let go of what is idle, until cancelled; then of everything."""
        try:
            while True:
                await asyncio.sleep(SWEEP_S)
                idle_since = self._monotonic() - IDLE_S
                for key in [key for key, held in self._held.items() if held.used_at < idle_since and _idle(held)]:
                    self._let_go(key)
        finally:
            await asyncio.gather(*(held.writer.close() for held in self._held.values()))

    def on_records(self, partition: Partition, records: list[Record]) -> None:
        """Take what the tail of a partition has brought."""
        for record in records:
            held = self._held.get(record.key or b"")
            if held is None:
                continue
            try:
                held.writer.feed(record.offset, self._codec.decode_run(record.value))
            except ChunkDecodeError as problem:
                _log.error("skipped a record that cannot be read", offset=record.offset, error=str(problem))
        moved = self._moved.pop(partition, None)
        if moved is not None:
            moved.set()

    async def _use(self, stream_id: str, tenant: str, pending: Pending, *, fresh: bool) -> Answer:
        held = await self._hold(stream_id, tenant, fresh=fresh)
        held.users += 1
        try:
            return await (held.writer.create(pending) if fresh else held.writer.append(pending))
        finally:
            held.users -= 1
            held.used_at = self._monotonic()

    async def _hold(self, stream_id: str, tenant: str, *, fresh: bool) -> _Held:
        key, partition = stream_id.encode(), self._log.partition(stream_id)
        held = self._held.get(key)
        if held is None:
            await self._tails.watch(partition)
            held = self._held.get(key)  # another request may have been faster
            if held is not None:
                self._tails.unwatch(partition)
        if held is None:
            try:
                self._make_room()
            except Unavailable:
                self._tails.unwatch(partition)
                raise
            held = self._held[key] = self._new(stream_id, tenant, partition, fresh=fresh)
        self._held.move_to_end(key)
        return held

    def _new(self, stream_id: str, tenant: str, partition: Partition, *, fresh: bool) -> _Held:
        writer = StreamWriter(
            stream_id,
            self._log,
            writer_id=self._log.writer_id,
            tenant=tenant,
            keys=self._keys,
            now_us=self._now_us,
            random=self._random,
            settled=lambda: self.settled(stream_id),
            timeout_s=self._timeout_s,
            fresh=fresh,
            offset=self._tails.position(partition),
        )
        return _Held(writer, partition, self._monotonic())

    def _make_room(self) -> None:
        if len(self._held) >= HELD_MAX:
            key = next((key for key, held in self._held.items() if _idle(held)), None)
            if key is None:
                raise Unavailable(f"{HELD_MAX} streams are being written here", where="gateway", hint="Try again later")
            self._let_go(key)

    def _let_go(self, key: bytes) -> None:
        self._tails.unwatch(self._held.pop(key).partition)


def _idle(held: _Held) -> bool:
    return held.users == 0 and held.writer.idle
