"""The fault matrix on one broker that all tests share: each test is a row, named by its number.

Rows that kill the broker itself are in ``test_matrix_brokers.py``, chosen points of a runner's work (F1) in
``test_points.py``. Where a row speaks of transactions, the fence takes their place.
"""

import asyncio
import time
from itertools import pairwise

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import TopicPartition
from tests.faults.avro import Reader
from tests.faults.checker import Report, fold_all, gather
from tests.faults.conftest import Begin, follow, steady
from tests.faults.evidence import Job
from tests.faults.harness import Run
from tests.faults.rawlog import read_topic
from tests.faults.rules import Stream
from tests.faults.spectator import Spectator

from apexstream.client import Client
from apexstream.client.frames import Rewind, Update

pytestmark = pytest.mark.faults


async def test_f2_two_runners_of_one_name_never_mix_their_streams(begin: Begin):
    """Each life of a process is a writer of its own, whatever it is called."""
    async with begin(hurt={"runner-b": {"APEX_INSTANCE": "runner-a"}}) as run:
        following = follow(run, steady(8, 8.0))
        for name in ("runner-b", "runner-a"):  # one of them has most of the streams: nobody knows which
            await asyncio.sleep(2.0)
            run.installation.kill(run.installation.services[name])
            run.installation.revive(run.installation.services[name])
        await asyncio.gather(*following)
        report = await run.verdict()
        writers = {writer for stream in (await _streams(run)).values() for writer in stream.claimed_by}
    assert report.ok, str(report)
    assert len(writers) >= 2
    assert {writer.partition(".")[0] for writer in writers} == {"runner-a"}


@pytest.mark.parametrize("point", ["before-chunk:10", "before-checkpoint:8", "before-end:1", "before-ended:1"])
async def test_f3_what_a_runner_writes_after_it_slept_too_long_counts_for_nobody(begin: Begin, point: str):
    """It stops itself right before it hands a record over, so that this record comes from a zombie for sure."""
    async with begin(hurt={"runner-a": {"FAULT_POINT": f"{point}:stop"}}) as run:
        made = run.installation
        zombie = made.services["runner-a"]
        actions = ("checkpointed",) if "checkpoint" in point else ()
        following = follow(run, steady(8, 4.0, actions=actions))
        await zombie.stopped()
        await made.moved_away_from(zombie)
        await asyncio.sleep(3.0)  # its streams go on elsewhere
        made.expect_end(zombie)
        zombie.thaw()
        await zombie.ended()  # it starts over: others own its partitions
        made.revive(zombie, FAULT_POINT="")
        await asyncio.gather(*following)
        report = await run.verdict()
    assert report.ok, str(report)
    assert report.dead > 0 or point == "before-ended:1"


async def test_f15_a_commit_that_comes_after_the_partitions_moved_does_not_count(begin: Begin):
    async with begin(hurt={"runner-a": {"FAULT_POINT": "before-commit:2:stop"}}) as run:
        made = run.installation
        late = made.services["runner-a"]
        following = follow(run, [*steady(6, 4.0), *_short(12)])
        await late.stopped()
        await made.moved_away_from(late)
        await asyncio.sleep(3.0)  # the new owner finishes more, and commits it
        made.expect_end(late)
        late.thaw()
        await asyncio.sleep(1.0)
        made.kill(late)
        made.revive(late, FAULT_POINT="")
        await asyncio.gather(*following)
        report = await run.verdict()
    assert report.ok, str(report)


async def test_f15_a_member_that_stalls_while_another_joins_loses_nothing(begin: Begin):
    """It beats its heart and polls for nothing: the group takes its partitions, and would still take its commits."""
    stalls = {"FAULT_POLL_MS": "3000", "FAULT_POINT": "before-poll:6:stall8"}
    async with begin(hurt={"runner-a": stalls}) as run:
        following = follow(run, [*steady(6, 8.0), *_short(12)])
        joining = run.installation.add("runner-c", "runner")
        joining.start()
        await asyncio.gather(*following)
        report = await run.verdict()
    assert report.ok, str(report)


async def test_f17_a_rolling_restart_interrupts_nothing_on_the_runners_that_stay(begin: Begin):
    async with begin() as run:
        made = run.installation
        following = follow(run, steady(10, 12.0))
        await asyncio.sleep(2.0)
        going = made.services["runner-a"]
        made.expect_end(going)
        going.ask_to_end()
        await going.ended()
        made.revive(going)
        await going.ready()
        await asyncio.gather(*following)
        report = await run.verdict()
        streams = await _streams(run)
    assert report.ok, str(report)
    stayed = [stream for stream in streams.values() if stream.claimed_by[0].startswith("runner-b")]
    moved = [stream for stream in streams.values() if stream.claimed_by[0].startswith("runner-a")]
    assert stayed
    assert moved
    assert all(len(stream.claimed_by) == 1 for stream in stayed)
    assert all(len(stream.claimed_by) >= 2 for stream in moved)


async def test_f18_streams_go_on_while_runners_come_and_go(begin: Begin):
    async with begin() as run:
        made = run.installation
        following = follow(run, steady(8, 14.0))
        await asyncio.sleep(1.0)
        began_ms = time.time() * 1000
        for number in range(4):
            made.add(f"storm-{number}", "runner").start()
            await asyncio.sleep(2.0)
        for number in range(4):
            made.kill(made.services[f"storm-{number}"])
        ended_ms = time.time() * 1000
        await asyncio.gather(*following)
        report = await run.verdict()
        chunks = await read_topic(made.brokers.bootstrap_servers, made.prefix + "chunks")
    assert report.ok, str(report)
    during = sorted(record.timestamp for record in chunks if began_ms <= record.timestamp <= ended_ms)
    gaps_ms = [after - before for before, after in pairwise(during)]
    assert max(gaps_ms) < 5_000


@pytest.mark.parametrize(
    "poison", [b"", b"\xff" * 40, b"\xc3\x01" + bytes(30), None], ids=["empty", "noise", "unknown schema", "tombstone"]
)
async def test_f19_a_record_that_nobody_can_read_stops_nothing(begin: Begin, poison: bytes | None):
    topics = ("assignments", "tasks.normal", "control", "task-events", "chunks", "runners")
    async with begin() as run:
        made = run.installation
        following = follow(run, steady(8, 6.0))
        await asyncio.sleep(2.0)
        producer = AIOKafkaProducer(bootstrap_servers=made.brokers.bootstrap_servers)
        await producer.start()
        try:
            for topic in topics:
                for key in (b"nobody", b"steady-0"):
                    await producer.send_and_wait(made.prefix + topic, value=poison, key=key)
        finally:
            await producer.stop()
        following += follow(run, _short(6))
        await asyncio.gather(*following)
        report = await run.verdict()
    assert not made.fallen
    assert report.ok, str(report)


async def test_f22_viewers_of_a_killed_gateway_come_back_and_miss_nothing(begin: Begin):
    async with begin() as run:
        made = run.installation
        jobs = steady(8, 8.0)
        following = follow(run, jobs)
        reading = [asyncio.create_task(_read_with_client(made.url, job.task_id)) for job in jobs[:4]]
        for _ in range(3):
            await asyncio.sleep(2.0)
            made.kill(made.services["gateway"])
            made.revive(made.services["gateway"])
            await made.services["gateway"].ready()
        await asyncio.gather(*following)
        report = await run.verdict()
        read = await asyncio.gather(*reading)
    assert report.ok, str(report)
    for job, values in zip(jobs, read, strict=False):
        assert [value["i"] for value in values] == list(range(job.data_count))


async def test_f25_a_viewer_whose_place_is_gone_is_told_so(begin: Begin):
    """Records that somebody deleted before they were sealed: never a shorter stream that looks whole, never silence."""
    async with begin() as run:
        made = run.installation
        (job,) = steady(1, 1.0, actions=("deterministic",))
        await run.load.follow(job)
        await _delete_chunks(run)
        late = Spectator("late", made.url, run.rng)
        watching = asyncio.create_task(late.run())
        try:
            seen = await late.watch(job.task_id)
            async with asyncio.timeout(20):
                while not seen.ended and not late.refusals:
                    await asyncio.sleep(0.1)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    if seen.ended:  # it was sealed in time
        assert len(seen.frames) >= job.data_count
    else:
        assert late.refusals[0]["code"] != "unavailable"  # which would mean: try again


@pytest.mark.parametrize("skew_s", [3600, -3600])
@pytest.mark.parametrize("who", ["runner-a", "gateway", "dispatcher"])
async def test_f26_a_clock_that_is_an_hour_off_changes_nothing(begin: Begin, who: str, skew_s: int):
    async with begin(hurt={who: {"FAULT_CLOCK_SKEW_S": str(skew_s)}}) as run:
        made = run.installation
        following = follow(run, steady(8, 5.0))
        await asyncio.sleep(2.0)
        made.kill(made.services["runner-b"])
        made.revive(made.services["runner-b"])
        await asyncio.gather(*following)
        report = await run.verdict()
    assert report.ok, str(report)


def _short(count: int) -> list[Job]:
    return [
        Job(
            task_id=f"short-{number}",
            action="checkpointed",
            plan={"key": f"short-{number}", "n": 20, "interval_s": 0.05},
        )
        for number in range(count)
    ]


async def _streams(run: Run) -> dict[str, Stream]:
    made = run.installation
    return fold_all((await gather(made.brokers.bootstrap_servers, made.prefix)).chunks, Reader(), Report())


async def _read_with_client(url: str, stream_id: str) -> list[dict[str, int]]:
    """The data of a stream as the product's own client gives it."""
    shown: list[Update | None] = []
    async with Client(url) as client:
        async for frame in client.follow(stream_id):
            if isinstance(frame, Rewind):
                del shown[frame.seq :]
            else:
                shown.append(frame if isinstance(frame, Update) else None)
    return [frame.value for frame in shown if frame is not None]


async def _delete_chunks(run: Run) -> None:
    made = run.installation
    topic = made.prefix + "chunks"
    records = await read_topic(made.brokers.bootstrap_servers, topic)
    admin = AIOKafkaAdminClient(bootstrap_servers=made.brokers.bootstrap_servers)
    await admin.start()
    try:
        ends = {TopicPartition(topic, record.partition): record.offset + 1 for record in records}
        await admin.delete_records({tp: RecordsToDelete(before_offset=end) for tp, end in ends.items()})
    finally:
        await admin.close()
