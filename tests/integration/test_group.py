"""A member of a consumer group that was away while its partitions had another owner."""

import asyncio
from collections.abc import Mapping
from functools import partial

import pytest
from tests.support.archive import rig

from apexstream.log import group as groups
from apexstream.log.fetcher import Partition
from apexstream.log.group import GroupReader

POLL_MS = 1_000  # how long a member may do something else


class Member:
    """Polls, unless it is away."""

    def __init__(self, kafka: str, topic: str, group: str, name: str) -> None:
        self.owned: frozenset[Partition] = frozenset()
        self.said: list[str] = []
        self.there = asyncio.Event()
        self.there.set()
        self.changed = asyncio.Event()
        self.reader = GroupReader(
            kafka, [topic], group=group, client_id=name, session_timeout_s=30,
            on_assigned=self._assigned, on_revoked=self._revoked, on_missed=partial(self.said.append, "missed"),
        )  # fmt: skip

    async def _assigned(self, partitions: Mapping[Partition, str]) -> None:
        self.owned = frozenset(partitions)
        self.said.append("assigned")
        self.changed.set()

    async def _revoked(self, _: frozenset[Partition]) -> None:
        """Nothing to commit."""

    async def work(self) -> None:
        async with self.reader:
            while True:
                await self.there.wait()
                await self.reader.poll(0.1)

    async def owns(self, count: int) -> None:
        while len(self.owned) != count:
            self.changed.clear()
            await self.changed.wait()


async def test_a_member_whose_partitions_had_another_owner_is_told_before_it_gets_them_back(
    kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        groups, "group_consumer", lambda **options: _consumer(**options | {"max_poll_interval_ms": POLL_MS})
    )
    async with rig(kafka, topic_prefix) as made:
        topic = made.topic("chunks")
        members = [Member(kafka, topic, f"{topic_prefix}group", name) for name in ("goes", "stays")]
        goes, stays = members
        working = [asyncio.create_task(goes.work())]
        async with asyncio.timeout(60):
            await goes.changed.wait()
            count = len(goes.owned)
            working.append(asyncio.create_task(stays.work()))
            await stays.owns(count // 2)
            await goes.owns(count - count // 2)
            assert goes.said[0] == "assigned"
            goes.said.clear()
            goes.there.clear()
            await stays.owns(count)
            goes.there.set()
            await stays.owns(count // 2)
            await goes.owns(count - count // 2)
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
    assert goes.said[:2] == ["missed", "assigned"]


_consumer = groups.group_consumer
