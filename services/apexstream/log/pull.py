"""Reads one partition at the reader's own pace: nothing is fetched before what came before was taken."""

from collections.abc import Hashable

from aiokafka.errors import KafkaError, LeaderNotAvailableError

from apexstream.log.fetcher import LogReader, Partition, Record


class Pull:
    """A partition from ``position`` on, over a connection of its own, at most about 1 MiB at once.

    Pulls of one reader and partition that are read side by side need a ``channel`` each: a broker answers the requests of one
    connection in order, so one would wait behind the other's long poll.
    """

    def __init__(
        self, reader: LogReader, partition: Partition, position: int, *, channel: Hashable | None = None
    ) -> None:
        self.partition = partition
        self._channel = partition if channel is None else channel
        self.position = position  # the offset after the last record that was given
        self._reader = reader

    async def next(self, wait_ms: int) -> list[Record]:
        """The next records, in order; none if there are none within ``wait_ms``, or while the broker does not answer.

        Raises :class:`apexstream.core.errors.DataCorruption` if ``position`` is not in the log any more.
        """
        problem: Exception = LeaderNotAvailableError()
        for node in self._reader.leaders([self.partition]):
            try:
                (fetched,) = await self._reader.fetch(
                    node, {self.partition: self.position}, max_wait_ms=wait_ms, channel=self._channel
                )
            except KafkaError as failure:
                problem = failure
                break
            records = fetched.records()
            self.position = fetched.next_offset
            return records
        await self._reader.retry_after(problem)
        return []
