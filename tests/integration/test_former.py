"""A process that was killed need not keep its partitions until its session is over, if its successor knows that it is dead."""

import asyncio
import sys
import time
from asyncio.subprocess import PIPE

from apexstream.contracts.catalogue import load_catalogue
from apexstream.log import admin
from apexstream.log.former import remove_members
from apexstream.log.group import GroupReader

SESSION_S = 60.0
TIMEOUT_S = 30.0
_MEMBER = """
import asyncio, sys
from apexstream.log.group import GroupReader

async def owned(_): pass
async def assigned(partitions): print(len(partitions), flush=True)

async def main():
    bootstrap, topic, group, client_id, session_s = sys.argv[1:]
    reader = GroupReader(bootstrap, [topic], group=group, client_id=client_id, session_timeout_s=float(session_s),
                         on_assigned=assigned, on_revoked=owned)
    async with reader:
        while True:
            await reader.poll(1.0)

asyncio.run(main())
"""


async def test_a_successor_has_the_partitions_of_a_killed_process_long_before_its_session_is_over(
    kafka: str, topic_prefix: str
):
    topic, group = f"{topic_prefix}runners", f"{topic_prefix}group"
    await admin.apply([one.renamed(topic_prefix) for one in load_catalogue()], kafka)
    await _join_and_die(kafka, topic, group, "worker-1")
    began = time.monotonic()

    assert await remove_members(kafka, group=group, client_id="worker-2") == 0
    assert await remove_members(kafka, group=group, client_id="worker-1") == 1

    given = asyncio.Event()

    async def assigned(partitions: object) -> None:
        if partitions:
            given.set()

    async def revoked(_: object) -> None:
        return

    reader = GroupReader(
        kafka,
        [topic],
        group=group,
        client_id="worker-1",
        session_timeout_s=SESSION_S,
        on_assigned=assigned,
        on_revoked=revoked,
    )
    async with reader:
        polling = asyncio.create_task(reader.poll(TIMEOUT_S))
        await asyncio.wait_for(given.wait(), TIMEOUT_S)
        took_s = time.monotonic() - began
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
    assert took_s < SESSION_S / 2


async def test_a_group_that_nobody_ever_joined_has_nobody_to_remove(kafka: str, topic_prefix: str):
    assert await remove_members(kafka, group=f"{topic_prefix}nobody", client_id="worker-1") == 0


async def _join_and_die(kafka: str, topic: str, group: str, client_id: str) -> None:
    arguments = ("-c", _MEMBER, kafka, topic, group, client_id, str(SESSION_S))
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE)
    assert process.stdout is not None
    try:
        assert int(await asyncio.wait_for(process.stdout.readline(), TIMEOUT_S)) > 0
    finally:
        process.kill()
        await process.wait()
