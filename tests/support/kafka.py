"""The Kafka that tests run on: the embedded broker, or with ``APEX_TEST_KAFKA=testcontainers`` a container.

Both are one node with the same properties, so that a test cannot tell them apart.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Self

from apexstream.log.broker import DEFAULT_PROPERTIES, EmbeddedBroker, answers
from apexstream.runtime.settings import load_settings

DEFAULT_IMAGE = "apache/kafka:4.4.0"
START_TIMEOUT_S = 120
LAST_LINES_BYTES_MAX = 3_000
MEMORY_FREE_BYTES_MIN = 4 * 1024**3
# A test that kills a consumer waits as long as this until the group notices; Kafka's own lower bound is 6 s.
PROPERTIES = {"group.min.session.timeout.ms": "1000"}
WAIT_FOR_ADDRESS = (
    "while [ ! -e /tmp/address ]; do sleep 0.1; done;"
    ' export KAFKA_ADVERTISED_LISTENERS="$(cat /tmp/address)"; exec "$@"'
)
CONTAINER_PROPERTIES = {
    **DEFAULT_PROPERTIES,
    **PROPERTIES,
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.quorum.voters": "1@localhost:9093",
    "controller.listener.names": "CONTROLLER",
    # A listener for itself: the address of the other one means nothing inside.
    "listeners": "PLAINTEXT://:9092,INSIDE://localhost:9094,CONTROLLER://localhost:9093",
    "inter.broker.listener.name": "INSIDE",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
}


def kafka_under_test() -> AbstractContextManager[str]:
    """The Kafka that the environment asks for; yields its bootstrap servers."""
    match os.environ.get("APEX_TEST_KAFKA", "embedded"):
        case "embedded":
            return embedded_kafka()
        case "testcontainers":
            return container_kafka(os.environ.get("APEX_TEST_KAFKA_IMAGE", DEFAULT_IMAGE))
        case other:
            raise ValueError(f"APEX_TEST_KAFKA={other}: must be embedded or testcontainers")


@contextmanager
def embedded_kafka() -> Iterator[str]:
    """An embedded broker in a home of its own, with the machine's cache of jars."""
    with (
        tempfile.TemporaryDirectory(dir=_fast_directory(), prefix="apex-kafka-") as home,
        EmbeddedBroker(Path(home), load_settings().cache_path, port=0, properties=PROPERTIES) as broker,
    ):
        yield broker.bootstrap_servers


def _fast_directory() -> Path | None:
    """Memory where there is plenty: on a disk, syncing the files of 180 new partitions took two of three seconds."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free >= MEMORY_FREE_BYTES_MIN:
        return memory
    return None


@contextmanager
def container_kafka(image: str) -> Iterator[str]:
    """One node of ``image`` (its variables named as the official one's) with a listener on a port of this machine."""
    import docker
    from testcontainers.core.container import DockerContainer

    class KafkaContainer(DockerContainer):
        """Kafka tells clients where it is, and that is known only once the container runs: its command waits for it."""

        def __init__(self) -> None:
            super().__init__(image)
            images = self.get_docker_client().client.images
            try:
                command = images.get(image).attrs["Config"]["Cmd"]
            except docker.errors.ImageNotFound:
                command = images.pull(image).attrs["Config"]["Cmd"]
            self.with_exposed_ports(9092).with_command(["sh", "-c", WAIT_FOR_ADDRESS, "sh", *command])
            for name, value in CONTAINER_PROPERTIES.items():
                variable = name.replace("_", "__").replace("-", "___").replace(".", "_").upper()
                self.with_env(f"KAFKA_{variable}", value)

        def start(self) -> Self:
            super().start()
            listeners = f"PLAINTEXT://{self.servers},INSIDE://localhost:9094"
            self.exec(["sh", "-c", f"echo {listeners} > /tmp/address.new && mv /tmp/address.new /tmp/address"])
            return self

        @property
        def servers(self) -> str:
            return f"{self.get_container_host_ip()}:{self.get_exposed_port(9092)}"

        def wait_until_it_serves(self) -> None:
            deadline = time.monotonic() + START_TIMEOUT_S
            host, port = self.servers.split(":")
            while not answers(host, int(port)):
                self.get_wrapped_container().reload()
                if self.get_wrapped_container().status != "running" or time.monotonic() >= deadline:
                    last = b"".join(self.get_logs())[-LAST_LINES_BYTES_MAX:].decode(errors="replace")
                    raise RuntimeError(f"{image} does not serve; its last lines:\n{last}")
                time.sleep(0.1)

    with KafkaContainer() as container:
        container.wait_until_it_serves()
        yield container.servers
