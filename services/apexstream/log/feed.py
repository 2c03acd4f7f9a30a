"""Reads many partitions at the pace of whoever asks for records, one fetch in flight a broker, in fetch sessions.

aiokafka's consumer leaves a partition whose records were just taken out of the fetch that is under way, so what comes to it
next waits until that long poll returns: up to half a second for a record that is there. Here every fetch names every
partition that is followed, and none is sent before the last one's records were asked for.
"""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

from aiokafka import errors

from apexstream.log.fetcher import Fetched, LogReader, Partition, Record
from apexstream.log.sessions import FetchSession

_WAIT_MS_MAX = 500
_NOBODY = -1  # stands for the broker while no partition has a leader


class Feed:
    """Partitions and how far each was read. Nothing is fetched before :meth:`poll` is called, and at most one answer a
    broker (50 MB, and 1 MB a partition) is held."""

    def __init__(self, reader: LogReader) -> None:
        self.positions: dict[Partition, int] = {}  # of each the offset after the last record that was given
        self._reader = reader
        self._paused: set[Partition] = set()
        self._sessions: dict[int, FetchSession] = defaultdict(FetchSession)
        self._flights: dict[int, asyncio.Task[list[Fetched]]] = {}
        self._news = asyncio.Event()

    def follow(self, positions: Mapping[Partition, int]) -> None:
        """Read these partitions from these offsets on, and no others; those that are paused stay so."""
        self.positions = dict(positions)
        self._paused &= positions.keys()
        self._news.set()

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Give nothing of ``partitions`` until :meth:`resume`."""
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Read ``partitions`` again."""
        if not self._paused.isdisjoint(partitions := set(partitions)):
            self._paused -= partitions
            self._news.set()

    async def poll(self, timeout_s: float) -> list[tuple[Partition, list[Record]]]:
        """New records by partition; nothing after ``timeout_s``, or sooner when what is followed has changed.

        Raises :class:`~apexstream.core.errors.DataCorruption` if a position is not in the log any more.
        """
        self._launch()
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return []
        self._news.clear()
        landed = [fetched for node in self._landed() for fetched in await self._land(node)]
        wanted = [each for each in landed if self._is_next(each)]
        for fetched in wanted:
            self.positions[fetched.partition] = fetched.next_offset
        self._launch()  # the broker prepares the next answer while this one is worked on
        decoded = ((fetched.partition, fetched.records()) for fetched in wanted)
        return [(partition, records) for partition, records in decoded if records]

    def lag(self, topic: str) -> int:
        """Records of ``topic`` that were not given yet, as of the last fetches. Safe from any thread."""
        return self._reader.lag({place: at for place, at in list(self.positions.items()) if place[0] == topic})

    async def close(self) -> None:
        """Forget the fetches that are under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _is_next(self, fetched: Fetched) -> bool:
        """Whether this is what follows what was given: the partition may have been let go, or moved, since it was asked for."""
        place = fetched.partition
        return bool(fetched.batches) and place not in self._paused and self.positions.get(place) == fetched.offset

    def _launch(self) -> None:
        wanted = [partition for partition in self.positions if partition not in self._paused]
        for node, partitions in self._reader.leaders(wanted).items():
            if node not in self._flights:
                offsets = {partition: self.positions[partition] for partition in partitions}
                self._fly(node, self._reader.fetch_news(node, offsets, self._sessions[node], max_wait_ms=_WAIT_MS_MAX))
        if wanted and not self._flights:
            self._fly(_NOBODY, _leaderless())

    def _fly(self, node: int, fetching: Coroutine[Any, Any, list[Fetched]]) -> None:
        flight = self._flights[node] = asyncio.create_task(fetching, name="feed fetch")
        flight.add_done_callback(lambda _: self._news.set())

    def _landed(self) -> list[int]:
        return [node for node, flight in self._flights.items() if flight.done()]

    async def _land(self, node: int) -> list[Fetched]:
        try:
            return self._flights.pop(node).result()
        except errors.KafkaError as problem:
            await self._reader.retry_after(problem)
            return []


async def _leaderless() -> list[Fetched]:
    raise errors.LeaderNotAvailableError


async def places_to_begin(reader: LogReader, offsets: Mapping[Partition, int]) -> dict[Partition, int]:
    """``offsets`` (-1: none), or the partition's first one where such an offset is not in the log any more, or never was."""
    starts, ends = await asyncio.gather(reader.starts(offsets), reader.ends(offsets))
    return {place: at if starts[place] <= at <= ends[place] else starts[place] for place, at in offsets.items()}
