"""The archiver's member of the consumer group: which partitions it owns, and the loops of those.

The group only deals out partitions and shows how far they are (its committed offsets). Who may write one is decided by
claims in the log, so a member that believes too long that it owns a partition does no harm.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from apexstream.archiver.partition import PartitionArchive
from apexstream.log.fetcher import Partition
from apexstream.log.group import GroupReader

MEMBERSHIP_POLL_S = 1.0
COMMIT_TIMEOUT_S = 10.0

_log = structlog.get_logger(__name__)

MakePartition = Callable[[int], PartitionArchive]


class Archiver:
    """All partitions of ``topic`` (``apex.chunks``) that this process owns."""

    def __init__(self, topic: str, make_partition: MakePartition) -> None:
        self._topic = topic
        self._make_partition = make_partition
        self._running: dict[int, asyncio.Task[None]] = {}
        self._wanted: frozenset[int] = frozenset()
        self._changed = asyncio.Event()
        self._sealed: dict[Partition, tuple[int, str]] = {}
        self._group: GroupReader

    def on_sealed(self, partition: int, offset: int) -> None:
        """All chunks before ``offset`` are in the states; to be committed."""
        self._sealed[self._topic, partition] = offset, ""

    async def on_assigned(self, partitions: Mapping[Partition, str]) -> None:
        """The partitions that this member owns from now on."""
        self._group.pause(partitions)  # they are read at the pace of their own loops
        self._wanted = frozenset(number for _, number in partitions)
        self._changed.set()

    async def on_revoked(self, _: frozenset[Partition]) -> None:
        """A rebalance begins: work goes on, and stops for a partition when it turns out to be another's."""

    async def run(self) -> None:
        """Work as a member of the group until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_membership(), name="keep membership")
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._stop(self._running.keys() - self._wanted)
                for number in sorted(self._wanted - self._running.keys()):
                    archive = self._make_partition(number)
                    self._running[number] = tasks.create_task(archive.run(), name=f"partition {number}")

    def join(self, group: GroupReader) -> None:
        """The group whose callbacks these are."""
        self._group = group

    async def _stop(self, numbers: set[int]) -> None:
        lost = [self._running.pop(number) for number in numbers]
        for task in lost:
            task.cancel()
        await asyncio.gather(*lost, return_exceptions=True)

    async def _keep_membership(self) -> None:
        """Take part in rebalances and commit what is sealed."""
        while True:
            await self._group.poll(MEMBERSHIP_POLL_S)
            sealed, self._sealed = self._sealed, {}
            if sealed:
                await self._commit(sealed)

    async def _commit(self, sealed: Mapping[Partition, tuple[int, str]]) -> None:
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                await self._group.commit(sealed)
        except TimeoutError:
            _log.warning("the group's offsets could not be committed; they only show how far the archive is")
