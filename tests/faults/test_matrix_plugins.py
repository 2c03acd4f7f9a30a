"""The rows of the fault matrix in which an action, or what it depends on, is the fault: F12, F16, F20, F21, F32.

Each runs beside streams of the same plugin that do nothing wrong, in the same processes: they must not notice, or only as
an attempt more.
"""

import asyncio
from typing import Any

import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from tests.faults.avro import Reader
from tests.faults.checker import Report, fold_all, gather
from tests.faults.conftest import Begin, follow, steady
from tests.faults.evidence import Job
from tests.faults.harness import Run
from tests.faults.rawlog import read_topic

pytestmark = pytest.mark.faults

CHUNKS = 10
REFUSED_S = 6.0


async def test_f12_a_chunk_that_kafka_would_refuse_ends_its_own_stream_and_no_other(begin: Begin):
    """It is refused before it is sent: one rejected record would poison the producer of all streams."""
    async with begin() as run:
        bad = _misbehaving("large")
        await asyncio.gather(*follow(run, [*steady(6, 4.0), bad]))
        claims = await _claims(run)
        report = await run.verdict()
        (letter,) = await _letters(run)
    assert report.ok, str(report)
    assert not run.installation.fallen
    assert (letter["task_id"], letter["error_class"]) == (bad.task_id, "permanent")
    assert all(count == 1 for task_id, count in claims.items() if task_id != bad.task_id)


async def test_f16_an_action_that_blocks_its_event_loop_costs_its_runner_nothing(begin: Begin):
    """Longer than three sessions of the group: the runner's heart beats in another process."""
    async with begin() as run:
        blocking = _misbehaving("block", fails=False)
        await asyncio.gather(*follow(run, [*steady(6, 4.0), blocking]))
        claims = await _claims(run)
        report = await run.verdict()
    assert report.ok, str(report)
    assert not run.installation.fallen
    assert set(claims.values()) == {1}


async def test_f20_an_action_whose_service_answers_503_is_tried_again_and_its_stream_is_whole(begin: Begin):
    async with begin() as run:
        flaky = _job("flaky", "flaky", {"failures": 3}, options={"max_attempts": 5, "backoff_s": 0.2})
        await asyncio.gather(*follow(run, [*steady(4, 3.0), flaky]))
        claims = await _claims(run)
        report = await run.verdict()
        letters = await _letters(run)
    assert report.ok, str(report)
    assert claims[flaky.task_id] == 4
    assert not letters


async def test_f20_an_action_whose_service_stays_away_ends_as_a_dead_letter(begin: Begin):
    async with begin() as run:
        hopeless = _job(
            "hopeless", "flaky", {"failures": 99}, options={"max_attempts": 3, "backoff_s": 0.2}, fails=True
        )
        hopeless.plan["n"] = 9  # where its third attempt gives up
        await asyncio.gather(*follow(run, [*steady(4, 3.0), hopeless]))
        report = await run.verdict()
        letters = await _letters(run)
    assert report.ok, str(report)
    assert [(letter["task_id"], letter["attempts"], letter["error_class"]) for letter in letters] == [
        (hopeless.task_id, 3, "transient")
    ]


async def test_f21_while_a_dead_letter_cannot_be_written_its_stream_stays_open(begin: Begin):
    """The letter comes first: after the end of the stream nobody would come back to write it."""
    async with begin() as run:
        await _limit_letters(run, 64)
        hopeless = _job("hopeless", "misbehave", {"how": "exit"}, options={"max_attempts": 1}, fails=True)
        following = follow(run, [hopeless, *steady(4, 4.0)])
        await asyncio.sleep(REFUSED_S)
        before = await _task(run, hopeless)
        await _limit_letters(run, 1_048_588)
        await asyncio.gather(*following)
        report = await run.verdict()
        letters = await _letters(run)
    assert before["status"] not in {"failed", "completed"}
    assert report.ok, str(report)
    assert hopeless.task_id in {letter["task_id"] for letter in letters}


@pytest.mark.parametrize("how", ["exit", "abort", "leak", "fork", "spin", "never"])
async def test_f32_a_plugin_that_behaves_as_none_should_is_ended_and_everything_else_goes_on(begin: Begin, how: str):
    async with begin(APEX_PLUGIN_MEMORY_MB="768") as run:
        bad = _misbehaving(how)
        await asyncio.gather(*follow(run, [*steady(6, 6.0), bad]))
        report = await run.verdict()
        ended = await _task(run, bad)
        letters = await _letters(run)
    assert report.ok, str(report)
    assert not run.installation.fallen
    assert ended["status"] == "failed"
    assert [letter["task_id"] for letter in letters] == [bad.task_id]


def _misbehaving(how: str, *, fails: bool = True) -> Job:
    options: dict[str, Any] = {"max_attempts": 1}
    if how == "never":
        options["idle_timeout_s"] = 2.0
    return _job(f"bad-{how}", "misbehave", {"how": how}, options=options, fails=fails)


def _job(task_id: str, action: str, more: dict[str, Any], *, options: dict[str, Any], fails: bool = False) -> Job:
    plan = {"key": task_id, "n": CHUNKS, "interval_s": 0.05}
    return Job(task_id=task_id, action=action, plan=plan, more=more, options=options, fails=fails)


async def _claims(run: Run) -> dict[str, int]:
    """How often each stream was claimed."""
    made = run.installation
    streams = fold_all((await gather(made.brokers.bootstrap_servers, made.prefix)).chunks, Reader(), Report())
    return {task_id: len(stream.claimed_by) for task_id, stream in streams.items()}


async def _task(run: Run, job: Job) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=run.installation.url, trust_env=False, timeout=10) as http:
        return dict((await http.get(f"/tasks/{job.task_id}")).json())


async def _letters(run: Run) -> list[Any]:
    made, reader = run.installation, Reader()
    records = await read_topic(made.brokers.bootstrap_servers, made.prefix + "dead-letters")
    return [reader.read(record.value, "dead-letter").fields for record in records]


async def _limit_letters(run: Run, bytes_max: int) -> None:
    """Let the broker refuse larger batches of dead letters."""
    made = run.installation
    admin = AIOKafkaAdminClient(bootstrap_servers=made.brokers.bootstrap_servers)
    await admin.start()
    try:
        change = {"max.message.bytes": str(bytes_max)}
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, made.prefix + "dead-letters", configs=change)]
        )
    finally:
        await admin.close()
