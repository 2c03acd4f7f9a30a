"""Follows the partitions that somebody watches, from their ends on, and no others.

Each partition has a connection and a long poll of its own: one that starts to be watched need not wait for the others'
poll to return, and a fetch that covers one partition costs a fraction of one that covers all.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aiokafka.errors import KafkaError, LeaderNotAvailableError

from apexstream.log.fetcher import Fetched, LogReader, OnRecords, Partition, Record
from apexstream.runtime import meters

PIPELINED_BYTES = 64 * 1024  # a fetch that brought more has the next one sent before it is decoded
_MAX_WAIT_MS = 500


@dataclass(slots=True)
class _Watched:
    ready: asyncio.Future[None]
    watchers: int = 0
    position: int = 0
    task: asyncio.Task[None] | None = field(default=None)


class Tails:
    """Watched partitions. Records go to ``on_records`` in order; :meth:`position` never runs ahead of it."""

    def __init__(self, reader: LogReader, on_records: OnRecords) -> None:
        self._reader = reader
        self._on_records = on_records
        self._watched: dict[Partition, _Watched] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def watch(self, partition: Partition) -> None:
        """Follow ``partition`` until :meth:`unwatch`; returns once its position is known. Calls are counted."""
        watched = self._watched.get(partition)
        if watched is None:
            watched = self._watched[partition] = _Watched(asyncio.get_running_loop().create_future())
            watched.task = asyncio.create_task(
                self._follow(partition, watched), name=f"tail {partition[0]}/{partition[1]}"
            )
            watched.task.add_done_callback(self._ended)
        watched.watchers += 1
        try:
            await asyncio.shield(watched.ready)
        except BaseException:
            self.unwatch(partition)
            raise

    def unwatch(self, partition: Partition) -> None:
        """One watcher less; after the last one the partition is left alone."""
        watched = self._watched[partition]
        watched.watchers -= 1
        if watched.watchers == 0:
            del self._watched[partition]
            if watched.task is not None:
                watched.task.cancel()

    def position(self, partition: Partition) -> int:
        """The offset after the last record of a watched partition that was handed over."""
        return self._watched[partition].position

    async def run(self) -> None:
        """Until cancelled; raises what stopped any partition's tail."""
        try:
            await asyncio.shield(self._failed)
        finally:
            tasks = [watched.task for watched in self._watched.values() if watched.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, partition: Partition, watched: _Watched) -> None:
        watched.position = (await self._reader.ends([partition]))[partition]
        watched.ready.set_result(None)
        forget = meters.LOG_LAG.read(lambda: self._reader.lag({partition: watched.position}), partition[0])
        at = watched.position
        flight: asyncio.Task[Fetched | None] | None = None
        try:
            while True:
                fetched = await (flight or self._fetch(partition, at))
                flight = None
                if fetched is None or not fetched.batches:
                    continue
                at = fetched.next_offset
                if fetched.size_bytes > PIPELINED_BYTES:
                    flight = asyncio.create_task(self._fetch(partition, at), name="next fetch")
                records = fetched.records()
                watched.position = at
                if records:
                    self._on_records(partition, records)
        finally:
            forget()
            if flight is not None:
                flight.cancel()

    async def _fetch(self, partition: Partition, offset: int) -> Fetched | None:
        for node in self._reader.leaders([partition]):
            try:
                (fetched,) = await self._reader.fetch(
                    node, {partition: offset}, max_wait_ms=_MAX_WAIT_MS, channel=partition
                )
            except KafkaError as problem:
                await self._reader.retry_after(problem)
                return None
            return fetched
        await self._reader.retry_after(LeaderNotAvailableError())
        return None

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (problem := task.exception()) is not None and not self._failed.done():
            self._failed.set_exception(problem)


class Relays:
    """Hands what tails bring to several, always in the order in which they joined."""

    def __init__(self) -> None:
        self._relays: list[OnRecords] = []

    def __call__(self, partition: Partition, records: list[Record]) -> None:
        for relay in self._relays:
            relay(partition, records)

    def joined(self, on_records: OnRecords, tails: Tails) -> Tails:
        """``tails``, which also ``on_records`` is given from now on."""
        self._relays.append(on_records)
        return tails


MakeTails = Callable[[OnRecords], Tails]
