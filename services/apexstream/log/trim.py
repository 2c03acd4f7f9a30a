"""Deletes the beginnings of partitions. The archiver is the only caller: it knows what is sealed."""

import asyncio
from collections.abc import Mapping

from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from apexstream.core.errors import Unavailable
from apexstream.log.connection import Cluster, Connection
from apexstream.log.fetcher import Partition

_TIMEOUT_MS = 15_000


async def delete_before(to: Cluster, offsets: Mapping[Partition, int], *, client_id: str) -> None:
    """Delete the records before these offsets, for good. Raises :class:`Unavailable` if that fails; some may be deleted then."""
    client = AIOKafkaAdminClient(**Connection.to(to).options, client_id=client_id, request_timeout_ms=_TIMEOUT_MS)
    wanted = {TopicPartition(*partition): RecordsToDelete(before_offset=at) for partition, at in offsets.items()}
    try:
        await client.start()
        await client.delete_records(wanted, timeout_ms=_TIMEOUT_MS)
    except (KafkaError, OSError, TimeoutError) as problem:
        raise Unavailable(f"records could not be deleted: {problem!r}", where=str(to)) from problem
    finally:
        await _close(client)


async def _close(client: AIOKafkaAdminClient) -> None:
    """aiokafka's close swallows a cancellation that comes while it waits, and the archiver would never stop."""
    closing = asyncio.ensure_future(client.close())
    try:
        await asyncio.shield(closing)
    except asyncio.CancelledError:
        await asyncio.wait([closing])
        raise
