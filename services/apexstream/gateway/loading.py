"""Brings streams up to where their partition's tail stands. All that are wanted of one partition at a time share one scan.

A thousand viewers of a thousand streams that come back at once would else read the same records a thousand times.
"""

import asyncio
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass

from apexstream.core.errors import ApexError
from apexstream.gateway.live import LiveStream
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.tails import Tails


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    stream: LiveStream
    start: int
    done: asyncio.Future[None]


class Loader:
    """``on_loaded`` is called with every stream in the same turn of the loop in which the tail's position was read: if it is
    fed with what the tail brings from there on, no record is missed and none repeated."""

    def __init__(self, scans: LogReader, tails: Tails, on_loaded: Callable[[LiveStream], None]) -> None:
        self._scans = scans
        self._tails = tails
        self._on_loaded = on_loaded
        self._wanted: dict[Partition, list[_Wanted]] = {}
        self._scanning: dict[Partition, asyncio.Task[None]] = {}

    async def load(self, stream: LiveStream, start: int) -> None:
        """Feed ``stream`` from offset ``start`` of its partition on, which must be watched until this returns."""
        partition = stream.partition
        wanted = _Wanted(stream, start, asyncio.get_running_loop().create_future())
        self._wanted.setdefault(partition, []).append(wanted)
        if partition not in self._scanning:
            self._scanning[partition] = asyncio.create_task(self._serve(partition), name=f"scan {partition[1]}")
        await wanted.done

    async def _serve(self, partition: Partition) -> None:
        try:
            while batch := self._wanted.pop(partition, None):
                try:
                    await self._scan(partition, batch)
                except Exception as problem:  # whatever it is, it is the callers' to handle
                    for wanted in batch:
                        _fail(wanted, problem)
        finally:
            # In the turn in which nothing more was wanted: what is wanted in the next one starts another scan.
            del self._scanning[partition]

    async def _scan(self, partition: Partition, batch: list[_Wanted]) -> None:
        by_key = {wanted.stream.stream_id.encode(): wanted for wanted in batch}
        at = min(wanted.start for wanted in batch)
        while at < (stop := self._tails.position(partition)):
            before = at
            async for records, next_offset in self._scans.scan(partition, at, stop):
                at = next_offset
                _feed(by_key, records)
            if at == before:
                await self._scans.retry_after(TimeoutError("nothing was read"))
        # No await since the position was read.
        for wanted in batch:
            if not wanted.done.done():
                self._on_loaded(wanted.stream)
                wanted.done.set_result(None)


def by_stream(records: Iterable[Record], wanted: Container[bytes]) -> dict[bytes, list[Record]]:
    """The records of each stream, of those that are ``wanted``."""
    found: dict[bytes, list[Record]] = {}
    for record in records:
        key = record.key or b""
        if key in wanted:
            found.setdefault(key, []).append(record)
    return found


def _feed(by_key: dict[bytes, _Wanted], records: list[Record]) -> None:
    for key, own in by_stream(records, by_key).items():
        try:
            by_key[key].stream.take(own)
        except ApexError as problem:
            _fail(by_key.pop(key), problem)


def _fail(wanted: _Wanted, problem: Exception) -> None:
    if not wanted.done.done():
        wanted.done.set_exception(problem)
