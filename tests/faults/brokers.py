"""Kafka as a run's harness sees it: where it is, and how it is made to crash and to come back."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

from tests.faults.processes import spare_ports
from tests.support.cluster import NODES, Cluster, Node

from apexstream.log.broker import EmbeddedBroker
from apexstream.runtime.settings import load_settings

MEMORY_FREE_BYTES_MIN = 4 * 1024**3
PROPERTIES = {"group.min.session.timeout.ms": "1000"}


class Brokers(Protocol):
    """One broker or several."""

    @property
    def bootstrap_servers(self) -> str:
        """Where clients connect; stays the same over a crash."""

    async def crash(self, topic: str, partition: int) -> str:
        """Kill the broker that leads the partition (``kill -9``); return its name."""

    async def recover(self) -> None:
        """Start what was killed, and return once it serves."""


class OneBroker:
    """The embedded broker of ``apexstream up``."""

    def __init__(self, broker: EmbeddedBroker) -> None:
        self.broker = broker

    @property
    def bootstrap_servers(self) -> str:
        return self.broker.bootstrap_servers

    async def crash(self, topic: str, partition: int) -> str:
        await asyncio.to_thread(self.broker.kill)
        return "broker"

    async def recover(self) -> None:
        before = self.broker.bootstrap_servers
        if await asyncio.to_thread(self.broker.start) != before:
            raise RuntimeError(f"somebody took the broker's port {before} while it was down")


class ThreeBrokers:
    """A replicated cluster of three."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._down: list[Node] = []

    @property
    def bootstrap_servers(self) -> str:
        return self.cluster.bootstrap_servers

    async def crash(self, topic: str, partition: int) -> str:
        node = await self.cluster.leader_of(topic, partition)
        node.kill()
        self._down.append(node)
        return f"node {node.number}"

    async def recover(self) -> None:
        for node in self._down:
            node.start()
        for node in self._down:
            await self.cluster.serving(node)
        self._down.clear()


class SomebodysBroker:
    """A Kafka that others use too: it is never killed."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._bootstrap_servers = bootstrap_servers

    @property
    def bootstrap_servers(self) -> str:
        return self._bootstrap_servers

    async def crash(self, topic: str, partition: int) -> str:
        raise RuntimeError("this broker is shared; start the run with one of its own")

    async def recover(self) -> None:
        """It never went away."""


@asynccontextmanager
async def one_broker() -> AsyncIterator[OneBroker]:
    """A broker of this run's own."""
    with scratch() as home:
        broker = EmbeddedBroker(home, load_settings().cache_path, port=spare_ports(1)[0], properties=PROPERTIES)
        try:
            await asyncio.to_thread(broker.start)
            yield OneBroker(broker)
        finally:
            await asyncio.to_thread(broker.kill)


@asynccontextmanager
async def three_brokers() -> AsyncIterator[ThreeBrokers]:
    """A cluster of this run's own."""
    with scratch() as home:
        async with Cluster(home, spare_ports(2 * NODES)) as cluster:
            yield ThreeBrokers(cluster)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for data that nobody keeps: in memory, where there is plenty."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free >= MEMORY_FREE_BYTES_MIN
    with tempfile.TemporaryDirectory(dir=memory if roomy else None, prefix="apex-faults-") as folder:
        yield Path(folder)
