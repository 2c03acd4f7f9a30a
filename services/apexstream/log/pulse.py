"""Whether Kafka answers this process now: a small question every few seconds, on a connection of its own.

Neither an idle producer nor a long poll tells: a broker that hangs keeps its connections open and says nothing.
"""

import asyncio
import time
from collections.abc import Callable

from aiokafka import errors
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.metadata import MetadataRequest

from apexstream.runtime import meters

EVERY_S = 2.0
TIMEOUT_S = 3.0
SILENT_S_MAX = 8.0  # two answers missed, each with its time-out

_CHANNEL = "pulse"


class Pulse:
    """Asks the brokers that ``client`` knows (None: there is no client now), one after the other until one answers."""

    def __init__(self, client: Callable[[], AIOKafkaClient | None]) -> None:
        self._client = client
        self._answered_at = time.monotonic()
        self._brokers = 0

    def silent_s(self) -> float:
        """Seconds since the last answer. Safe from any thread."""
        return time.monotonic() - self._answered_at

    def trouble(self) -> str:
        """What is wrong; empty while Kafka answers."""
        silent_s = self.silent_s()
        return f"Kafka has not answered for {silent_s:.0f} s" if silent_s > SILENT_S_MAX else ""

    async def run(self) -> None:
        """Ask until cancelled."""
        took = meters.LOG_REQUEST.of("pulse")
        forget = [meters.KAFKA_SILENCE.read(self.silent_s), meters.KAFKA_BROKERS.read(lambda: self._brokers)]
        try:
            while True:
                asked_at = time.monotonic()
                if await self._answers():
                    self._answered_at = time.monotonic()
                    took.observe(self._answered_at - asked_at)
                await asyncio.sleep(EVERY_S)
        finally:
            for call in forget:
                call()

    async def _answers(self) -> bool:
        client = self._client()
        if client is None:
            return False
        for broker in client.cluster.brokers():
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    said = await client.send(broker.nodeId, MetadataRequest([]), group=_CHANNEL)
            except (errors.KafkaError, TimeoutError, OSError):
                continue
            self._brokers = len(said.brokers)
            return True
        return False
