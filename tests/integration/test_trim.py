"""Deleting records, and being cancelled while that ends."""

import asyncio

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from tests.support.archive import rig
from tests.support.streams import Author, append, numbered

from apexstream.log.trim import delete_before


async def test_a_cancellation_that_comes_while_the_client_closes_is_not_lost(
    kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
):
    """aiokafka swallows it there: whoever deletes again and again would then never stop."""
    closing = asyncio.Event()
    close = AIOKafkaAdminClient.close

    async def told(client: AIOKafkaAdminClient) -> None:
        closing.set()
        await close(client)

    monkeypatch.setattr(AIOKafkaAdminClient, "close", told)
    async with rig(kafka, topic_prefix) as made:
        await append(made.writer, made.topic("chunks"), "s", [Author("s").claim(0), Author("s").run(numbered(3))])
        place = made.topic("chunks"), made.partition_of("s")
        deleting = asyncio.create_task(delete_before(kafka, {place: 1}, client_id="t"))
        await closing.wait()
        deleting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deleting
