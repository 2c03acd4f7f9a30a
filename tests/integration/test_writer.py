"""What a writer says of its appends when Kafka does not answer: of every one, once, and in all partitions."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from apexstream.contracts.catalogue import load_catalogue
from apexstream.core.errors import OutcomeUnknown
from apexstream.log import admin
from apexstream.log.broker import EmbeddedBroker
from apexstream.log.writer import Writer
from apexstream.runtime.settings import Settings

pytestmark = pytest.mark.kafka
TOPIC = "apex.chunks"
TIMEOUT_S, DEADLINE_S = 2.0, 60.0


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    """A broker that may be stopped."""
    with EmbeddedBroker(tmp_path, Settings().cache_path, port=0) as broker:
        await admin.apply([topic for topic in load_catalogue() if topic.name == TOPIC], broker.bootstrap_servers)
        yield broker


async def test_what_is_in_flight_anywhere_is_told_when_one_append_is_not_acknowledged(broker: EmbeddedBroker) -> None:
    assert broker.pid is not None
    async with Writer(broker.bootstrap_servers, client_id="test", timeout_s=TIMEOUT_S) as writer:
        await writer.prepare(TOPIC)
        await asyncio.gather(*(writer.append(TOPIC, b"k", b"v", partition=number) for number in range(3)))
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            flying = [asyncio.create_task(writer.append(TOPIC, b"k", b"first", partition=0))]
            await asyncio.sleep(TIMEOUT_S / 2)  # so that the others are in flight when this one is given up
            flying += [asyncio.create_task(writer.append(TOPIC, b"k", b"v", partition=number)) for number in (1, 2)]
            await asyncio.sleep(TIMEOUT_S / 10)
            waiting = asyncio.create_task(writer.append(TOPIC, b"k", b"next", partition=1))
            async with asyncio.timeout(DEADLINE_S):
                told = await asyncio.gather(*flying, waiting, return_exceptions=True)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        async with asyncio.timeout(DEADLINE_S):
            while not writer.healthy:
                await asyncio.sleep(0.05)
            await asyncio.gather(*(writer.append(TOPIC, b"k", b"after", partition=number) for number in range(3)))

    assert [type(each) for each in told] == [OutcomeUnknown] * 4
