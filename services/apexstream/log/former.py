"""Takes members out of a consumer group that an earlier life of this process left in it.

A group waits for a silent member until its session is over, 10 s and more, because from afar a dead process looks like a
slow one. Whoever knows for sure that the process has ended need not wait.
"""

import asyncio
from typing import Any

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

from apexstream.log.connection import Cluster, Connection

_TIMEOUT_S = 5.0
_log = structlog.get_logger(__name__)


async def remove_members(to: Cluster, *, group: str, client_id: str) -> int:
    """Remove all members of ``group`` that call themselves ``client_id``; how many there were.

    Only for a process that has not joined yet and whose earlier lives have ended for sure: a member that is removed and
    still runs would go on for a moment beside the new owner of its partitions. What cannot be removed within 5 s is left to
    the end of its session.
    """
    admin = AIOKafkaAdminClient(**Connection.to(to).options, client_id=f"{client_id}-former")
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await _remove(admin, group, client_id)
    except (KafkaError, OSError, TimeoutError) as problem:
        _log.info("an earlier life of this process may still be in its group", group=group, why=repr(problem))
        return 0
    finally:
        await admin.close()


async def _remove(admin: Any, group: str, client_id: str) -> int:
    await admin.start()
    coordinator = await admin.find_coordinator(group)
    (answer,) = await admin.describe_consumer_groups([group], coordinator)
    former = [member_id for member_id, name, *_ in answer.groups[0][5] if name == client_id]
    for member_id in former:
        await admin._send_request_to_node(coordinator, LeaveGroupRequest(group, member_id))  # noqa: SLF001 - no public way
    if former:
        _log.info("took an earlier life of this process out of its group", group=group, members=len(former))
    return len(former)
