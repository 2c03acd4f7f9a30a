"""The table of Faust as jobs see it: rows by key, and writes that count once the changelog has them."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from apexstream.contracts.codec import Codec
from apexstream.core.errors import Unavailable
from apexstream.core.events import PipelineRow
from apexstream.log.writer import Writer
from apexstream.processors.rows import Write
from apexstream.runtime import meters


class Store(Protocol):
    """The table's memory, which recovery fills."""

    data: dict[bytes, bytes]

    def set(self, key: bytes, value: bytes | None, partition: int) -> None:
        """Change a row; None deletes it."""


class TableRows:
    """The table as jobs see it. What they write goes to the changelog first, over the platform's own writer: batched,
    idempotent, in order; then into memory."""

    def __init__(self, topic: str, codec: Codec, writer: Writer, partition_of: Callable[[str], int]) -> None:
        self._store: Store
        self._topic = topic
        self._codec = codec
        self._writer = writer
        self._partition_of = partition_of

    def bind(self, store: Store) -> None:
        """Where recovered rows are from now on."""
        self._store = store
        meters.PIPELINE_ROWS.read(lambda: len(self._store.data))

    def of(self, job: str) -> Mapping[bytes, PipelineRow]:
        """All rows of a job."""
        prefix = job.encode() + b"\x00"
        return {
            key: self._codec.decode(value, PipelineRow)
            for key, value in self._store.data.items()
            if key.startswith(prefix)
        }

    def read(self, key: bytes) -> PipelineRow | None:
        """One row."""
        value = self._store.data.get(key)
        return None if value is None else self._codec.decode(value, PipelineRow)

    async def write(self, job: str, writes: Sequence[Write]) -> None:
        """Change the table; returns once the changelog has it. Raises :class:`Unavailable` if that is not certain."""
        partition = self._partition_of(job)
        encoded = [(write.key, None if write.row is None else self._codec.encode(write.row)) for write in writes]
        last = All(len(encoded))
        for key, value in encoded:
            self._writer.put(self._topic, partition, key, value, last)
        await last.done
        for key, value in encoded:
            self._store.set(key, value, partition)


class All:
    """A listener of several appends: ``done`` when all are acknowledged. There must be at least one."""

    def __init__(self, count: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = count

    def appended(self, offset: int) -> None:  # noqa: ARG002 - the listener's signature
        """One more is acknowledged."""
        self._left -= 1
        if self._left == 0 and not self.done.done():
            self.done.set_result(None)

    def failed(self, error: Unavailable) -> None:
        """One of them never will be, as far as is known."""
        if not self.done.done():
            self.done.set_exception(error)
