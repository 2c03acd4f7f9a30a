"""A view: whole topics read from their beginning and then followed, for state that is folded from events."""

import asyncio
from collections.abc import Mapping

from apexstream.log.fetcher import LogReader, OnRecords, Partition, Record, Tail

PACE_S = 0.005  # a task's events come within a few milliseconds: one fetch brings them all


class View:
    """Reads every partition of the topics from the start and hands records to the topic's callback, in partition order.

    ``caught_up`` is set once everything that was in the topics when the view was opened has been handed over.
    """

    def __init__(self, tail: Tail, ends: Mapping[Partition, int]) -> None:
        self.caught_up = asyncio.Event()
        self._tail = tail
        self._behind = {partition: end for partition, end in ends.items() if tail.positions[partition] < end}
        self._note()

    @classmethod
    async def open(cls, reader: LogReader, topics: Mapping[str, OnRecords]) -> "View":
        """Find out where the topics begin and end."""
        partitions = [partition for topic in topics for partition in await reader.partitions(topic)]
        starts, ends = await asyncio.gather(reader.starts(partitions), reader.ends(partitions))

        def on_records(partition: Partition, records: list[Record]) -> None:
            topics[partition[0]](partition, records)
            if view._behind:
                view._note()

        view = cls(Tail(reader, starts, on_records, pace_s=PACE_S), ends)
        return view

    async def run(self) -> None:
        """Follow until cancelled."""
        await self._tail.run()

    def _note(self) -> None:
        self._behind = {p: end for p, end in self._behind.items() if self._tail.positions[p] < end}
        if not self._behind:
            self.caught_up.set()
