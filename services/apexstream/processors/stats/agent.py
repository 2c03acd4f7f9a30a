"""The Faust application that counts: one agent on chunks and task events, and a table whose changelog is ``apex.stats``.

A record is acknowledged once the windows that count it are in the changelog, so a crash loses nothing; what comes again is
counted already, as every window knows.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.errors import ChunkDecodeError
from apexstream.core.events import TaskEvent, WindowStats
from apexstream.log.connection import Connection
from apexstream.log.writer import Writer
from apexstream.processors.application import Ends, Watch, application, as_it_is, keep_table
from apexstream.processors.faust_mends import MendedApp, MendedSchema
from apexstream.processors.stats.fold import PartitionStats
from apexstream.processors.stats.windows import partition_of
from apexstream.processors.table import All, Store
from apexstream.processors.watchdog import Watchdog
from apexstream.runtime.supervise import beside

FLUSH_S: Final = 1.0
HELD_EVENTS_MAX: Final = 5_000  # counted and not being written yet: then windows are written at once

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """Full names, and how many partitions each of them has."""

    chunks: str
    events: str
    stats: str
    partitions: int


async def run_statistics(
    kafka: Connection,
    topics: Topics,
    *,
    group: str,
    client_id: str,
    codec: Codec,
    writer: Writer,
    session_timeout_s: float,
    watchdog: Watchdog,
    ends: Ends,
) -> None:
    """Count as a member of ``group`` until cancelled; raises what the application crashed of, and :class:`Stalled`."""
    statistics = _Statistics(topics, codec, writer, watchdog)
    watch = Watch(topic=topics.chunks, watchdog=watchdog, ends=ends)

    async def count() -> None:
        async with application(
            kafka,
            group=group,
            client_id=client_id,
            partitions=topics.partitions,
            standby=0,
            session_timeout_s=session_timeout_s,
            watch=watch,
        ) as app:
            statistics.bind(app, watch)

    async with beside(statistics.write()):  # it goes on while the application stops, which waits for what is counted
        await count()


class _Statistics:
    """The books of the partitions that this process owns, and what is counted in them and not written yet."""

    def __init__(self, topics: Topics, codec: Codec, writer: Writer, watchdog: Watchdog) -> None:
        self._topics = topics
        self._codec = codec
        self._writer = writer
        self._watchdog = watchdog
        self._store: Store
        self._books: dict[int, PartitionStats] = {}
        self._held: list[Any] = []
        self._due = asyncio.Event()
        self._flushed = asyncio.Event()

    def bind(self, app: MendedApp, watch: Watch) -> None:
        """Bind agent and table to their topics."""
        topics = self._topics

        async def count(stream: Any) -> None:
            """Counts every record. Faust would acknowledge it when the next one is asked for; here that waits."""
            async for event in stream.noack().events():
                while len(self._held) >= HELD_EVENTS_MAX:
                    self._due.set()
                    self._flushed.clear()
                    await self._flushed.wait()
                self._take(event)

        app.agent(app.topic(topics.chunks, topics.events, schema=MendedSchema(as_it_is)), name="count")(count)

        self._store = keep_table(
            app, "statistics", topics.stats, partitions=topics.partitions, watch=watch, settle=self._settle
        )

    async def write(self) -> None:
        """Write what has changed, every ``FLUSH_S`` and whenever much is held."""
        while True:
            try:
                async with asyncio.timeout(FLUSH_S):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            await self._flush()

    async def _settle(self, partitions: frozenset[int]) -> None:
        """Own exactly these partitions. What was counted and not written is counted again: it is not acknowledged."""
        self._held = []
        self._books = {}
        rows: dict[int, list[WindowStats]] = {partition: [] for partition in partitions}
        for key, value in self._store.data.items() if rows else ():
            if (found := rows.get(partition_of(key))) is not None:
                found.append(self._codec.decode(value, WindowStats))
        self._books = {partition: PartitionStats(partition, found) for partition, found in rows.items()}

    def _take(self, event: Any) -> None:
        message = event.message
        book = self._books.get(message.partition)
        if book is None:
            return  # it was fetched before the partition was lost
        append_us = round(message.timestamp * 1_000_000)
        try:
            if message.topic == self._topics.chunks:
                self._watchdog.took(message.partition, message.offset)
                book.run(message.offset, append_us, self._codec.decode_run(event.value))
            else:
                book.event(message.offset, append_us, self._codec.decode(event.value, TaskEvent))
        except ChunkDecodeError as problem:
            _log.error("skipped a record that cannot be read", at=(*message.tp, message.offset), error=str(problem))
        self._held.append(event)

    async def _flush(self) -> None:
        held, self._held = self._held, []
        self._flushed.set()
        books = self._books
        writes = [
            (partition, key, None if window is None else self._codec.encode(window))
            for partition, book in books.items()
            for key, window in book.changes()
        ]
        if writes:
            last = All(len(writes))
            for partition, key, value in writes:
                self._writer.put(self._topics.stats, partition, key, value, last)
            await last.done
        if books is not self._books:
            return  # lost meanwhile; whoever owns them now finds what was written
        for partition, key, value in writes:
            self._store.set(key, value, partition)
        for event in held:
            event.ack()
