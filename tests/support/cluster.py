"""Three real Kafka nodes on this machine that share a KRaft quorum: replication 3, ``min.insync.replicas`` 2.

Made of the embedded broker's own JVM and jars. Each node is broker and controller, so any one of them may be killed.
"""

import asyncio
import base64
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from aiokafka.client import AIOKafkaClient
from aiokafka.structs import TopicPartition

import apexstream.log.broker
from apexstream.log.broker import DEFAULT_PROPERTIES, answers
from apexstream.log.jars import aot_key, ensure_jars, find_aot_cache, java
from apexstream.runtime.settings import load_settings

HOST = "127.0.0.1"
NODES = 3
START_TIMEOUT_S = 90.0
END_TIMEOUT_S = 20.0
LAST_LINES_BYTES_MAX = 3_000
_FLAGS = apexstream.log.broker._JVM_FLAGS
_LOG_CONFIGURATION = Path(apexstream.log.broker.__file__).with_name("log4j2.properties")
_REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    "group.min.session.timeout.ms": "1000",
    # As in a cluster of machines, but quicker to notice that one is gone: a test waits for it every time.
    "replica.lag.time.max.ms": "5000",
    "controller.quorum.election.timeout.ms": "1000",
    "controller.quorum.fetch.timeout.ms": "2000",
}
# The JVM (exec) is killed by the kernel when the process that started it ends.
_TIED = (
    "import ctypes,os,signal,sys;ctypes.CDLL(None).prctl(1,int(signal.SIGKILL),0,0,0);"
    "os.getppid()==int(sys.argv[1]) or os._exit(1);os.execv(sys.argv[2],sys.argv[2:])"
)


class Node:
    """One node: its JVM, its data in ``home`` and its port, which it keeps over a crash."""

    def __init__(self, number: int, home: Path, port: int, properties: dict[str, str], cache: Path) -> None:
        self.number = number
        self.home = home
        self.port = port
        self._cache = cache
        self._process: subprocess.Popen[bytes] | None = None
        home.mkdir(parents=True)
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        (home / "kafka.properties").write_text(text)

    @property
    def pid(self) -> int | None:
        """The JVM's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def format(self, cluster_id: str) -> None:
        """Make the data directory."""
        tool = ["kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", "kafka.properties"]
        self._spawn("-XX:TieredStopAtLevel=1", *tool).wait(START_TIMEOUT_S)

    def start(self) -> None:
        """Start the JVM; :meth:`serving` tells when it answers."""
        self._process = self._spawn("kafka.Kafka", "kafka.properties")

    def serving(self) -> bool:
        """Whether it answers as a broker; raises if its JVM has ended."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"node {self.number} ended while it started:\n{self.last_lines()}")
        return answers(HOST, self.port)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL)."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(END_TIMEOUT_S)

    def last_lines(self) -> str:
        """The end of its log."""
        log = self.home / "kafka.log"
        return log.read_bytes()[-LAST_LINES_BYTES_MAX:].decode(errors="replace") if log.exists() else ""

    def _spawn(self, *arguments: str) -> subprocess.Popen[bytes]:
        aot = find_aot_cache(self._cache, aot_key(_FLAGS))
        scratch = self.home / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        command = [
            *(sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid())),
            *(str(java()), "-Xms64m", "-Xmx320m", *_FLAGS, "-Xlog:all=error"),
            *([f"-XX:AOTCache={aot}"] if aot else []),
            f"-Djava.io.tmpdir={scratch}",
            f"-Dlog4j2.configurationFile={_LOG_CONFIGURATION}",
            *("-cp", ":".join(map(str, ensure_jars(self._cache)))),
            *arguments,
        ]
        with (self.home / "kafka.log").open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )


class Cluster:
    """The three nodes. Use as an async context manager, from the main thread."""

    def __init__(self, home: Path, ports: Iterable[int], cache: Path | None = None) -> None:
        ports = list(ports)
        if len(ports) != 2 * NODES:
            raise ValueError(f"{2 * NODES} ports are needed: one for clients and one for the quorum a node")
        clients, quorum = ports[:NODES], ports[NODES:]
        voters = ",".join(f"{number}@{HOST}:{port}" for number, port in enumerate(quorum, 1))
        cache = cache or load_settings().cache_path
        self.nodes = [
            Node(
                number,
                home / f"node-{number}",
                clients[number - 1],
                _properties(number, clients, quorum, voters),
                cache,
            )
            for number in range(1, NODES + 1)
        ]

    async def __aenter__(self) -> Self:
        cluster_id = base64.urlsafe_b64encode(bytes([1, *uuid.uuid4().bytes[1:]])).decode().rstrip("=")
        try:
            for node in self.nodes:
                node.format(cluster_id)
            for node in self.nodes:
                node.start()
            for node in self.nodes:
                await self.serving(node)
        except BaseException:
            self.kill()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()

    @property
    def bootstrap_servers(self) -> str:
        """All three, so that any of them may be away."""
        return ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    async def serving(self, node: Node, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return once the node answers."""
        deadline = time.monotonic() + timeout_s
        while not await asyncio.to_thread(node.serving):
            if time.monotonic() >= deadline:
                raise RuntimeError(f"node {node.number} did not serve within {timeout_s:g} s:\n{node.last_lines()}")
            await asyncio.sleep(0.1)

    async def leader_of(self, topic: str, partition: int) -> Node:
        """The node that leads the partition now."""
        client = AIOKafkaClient(bootstrap_servers=self.bootstrap_servers)
        await client.bootstrap()
        try:
            await client.set_topics([topic])
            number = client.cluster.leader_for_partition(TopicPartition(topic, partition))
        finally:
            await client.close()
        return next(node for node in self.nodes if node.number == number)

    def kill(self) -> None:
        """End all nodes at once."""
        for node in self.nodes:
            node.kill()


def _properties(number: int, clients: list[int], quorum: list[int], voters: str) -> dict[str, str]:
    own, controller = clients[number - 1], quorum[number - 1]
    return {
        **DEFAULT_PROPERTIES,
        **_REPLICATED,
        "process.roles": "broker,controller",
        "node.id": str(number),
        "log.dirs": "kafka",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "listeners": f"PLAINTEXT://{HOST}:{own},CONTROLLER://{HOST}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{own}",
        "controller.quorum.voters": voters,
    }
