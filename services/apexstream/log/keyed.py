"""The records of one key of a topic, read once from a given time to the present end."""

from collections.abc import AsyncIterator, Callable

from apexstream.log.chunks import SKEW_MS
from apexstream.log.fetcher import LogReader, Record


class KeyedLog:
    """A topic, and where in it the records of a key lie (``partition_of``, as its writers choose it)."""

    def __init__(self, topic: str, reader: LogReader, partition_of: Callable[[str, bytes], int]) -> None:
        self._topic = topic
        self._reader = reader
        self._partition_of = partition_of

    async def of_key(self, key: str, *, since_us: int) -> AsyncIterator[Record]:
        """The records of ``key`` that were appended at or after ``since_us`` (less the clocks' skew), in their order, up to
        the end that the log has now."""
        partition = (self._topic, self._partition_of(self._topic, key.encode()))
        end = (await self._reader.ends([partition]))[partition]
        start = await self._reader.offset_at(partition, since_us // 1000 - SKEW_MS)
        async for records, _ in self._reader.scan(partition, start, end):
            for record in records:
                if record.key == key.encode():
                    yield record
