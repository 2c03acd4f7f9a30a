"""Attempts, checkpoints, retries, timeouts, pauses, dead letters: a task's life on the real broker."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.conftest import Apex, running
from tests.integration.test_streams import subscribe, until

from apexstream.client import Client
from apexstream.log.fetcher import LogReader
from apexstream.runtime.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUICK = {"backoff_s": 0.01}


def data(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["data"] for message in messages if message["type"] == "stream_update"]


async def raw(apex: Apex, stream_id: str) -> list[dict[str, Any]]:
    """Every message, rewinds included."""
    messages: list[dict[str, Any]] = []
    async with asyncio.timeout(30), apex.socket() as socket:
        await socket.send(subscribe(stream_id))
        while not messages or messages[-1]["type"] not in {"stream_complete", "stream_error", "stream_cancelled"}:
            messages.append(msgspec.json.decode(await socket.recv()))
    return messages


async def test_a_checkpointed_action_goes_on_where_it_failed_and_viewers_see_each_chunk_once(apex):
    stream_id = await apex.submit("flaky", options=QUICK, n=30, fail_at=[7, 7, 19])
    messages = await raw(apex, stream_id)
    assert data(messages) == list(range(30))
    assert not [message for message in messages if message["type"] == "stream_rewind"]
    assert (await until(apex, stream_id, "completed"))["attempt"] == 4


async def test_a_deterministic_action_skips_what_is_published(apex):
    messages = await raw(apex, await apex.submit("again", options=QUICK, n=20, fail_at=11))
    assert data(messages) == list(range(20))
    assert not [message for message in messages if message["type"] == "stream_rewind"]


async def test_an_action_that_restarts_rewinds_its_viewers_and_they_end_with_each_chunk_once(apex):
    stream_id = await apex.submit("fail", options=QUICK, after=3)
    assert [message["seq"] for message in await raw(apex, stream_id) if message["type"] == "stream_rewind"] == [0]
    assert data(await apex.follow(stream_id)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "attempts", "reason"),
    [
        ("permanent", 1, "permanent errors are not tried again"),
        ("bug", 2, "a plugin_bug again"),
        ("transient", 3, "failed 3 times; 3 are allowed"),
    ],
)
async def test_the_class_of_an_error_decides_how_often_it_is_tried(apex, error: str, attempts: int, reason: str):
    stream_id = await apex.submit("flaky", options={**QUICK, "max_attempts": 3}, fail_at=[4] * 9, error=error)
    *chunks, end = await apex.follow(stream_id)
    assert data(chunks) == [0, 1, 2, 3]
    assert end["type"] == "stream_error"
    task = await until(apex, stream_id, "failed")
    assert (task["attempt"], task["reason"]) == (attempts, reason)


async def letter_of(apex, task_id: str) -> dict[str, Any]:
    """The dead letter of a task, once it is there."""
    async with asyncio.timeout(60):
        while True:
            letters = (await apex.http.get("/dead-letters")).json()["dead_letters"]
            if found := [letter for letter in letters if letter["task_id"] == task_id]:
                return dict(found[0])
            await asyncio.sleep(0.02)


async def test_a_dead_letter_that_is_sent_again_asks_for_what_it_asked_for(apex):
    before = await apex.submit("count", n=0)
    asked = {"after": [before], "needs": {"cpu": 0.5}, "labels": ["late"], "concurrency": [{"key": "k"}]}
    body = {"plugin": "probe", "action": "fail", "tier": "low", "options": {"max_attempts": 1}, "scheduling": asked}
    task_id = (await apex.http.post("/tasks", json=body)).json()["task_id"]
    first = await letter_of(apex, task_id)

    again = (await apex.http.post(f"/dead-letters/{task_id}/retry")).json()["task_id"]
    second = await letter_of(apex, again)

    assert first["scheduling"] == second["scheduling"] == asked
    assert (first["tier"], second["tier"]) == ("low", "low")


async def test_a_dead_letter_can_be_looked_at_and_sent_again(apex):
    stream_id = await apex.submit("flaky", n=5, fail_at=[2] * 9, error="permanent")
    await until(apex, stream_id, "failed")
    letter = await letter_of(apex, stream_id)
    assert (letter["error_class"], letter["params"]["n"]) == ("permanent", 5)
    again = (await apex.http.post(f"/dead-letters/{stream_id}/retry")).json()
    assert again["task_id"] != stream_id
    await until(apex, again["task_id"], "failed")
    async with asyncio.timeout(30):
        while (await apex.http.post(f"/dead-letters/{stream_id}/retry")).status_code != 404:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("options", "before", "told"),
    [
        ({"first_chunk_timeout_s": 0.3}, 0, "no first chunk within 0.3 s"),
        ({"idle_timeout_s": 0.3}, 2, "no chunk within 0.3 s"),
        ({"total_timeout_s": 0.3}, 2, "the attempt took longer than 0.3 s"),
    ],
)
async def test_time_limits_are_errors_of_the_stream(apex, options: dict[str, float], before: int, told: str):
    *chunks, end = await apex.follow(await apex.submit("silent", options={**options, "max_attempts": 1}, before=before))
    assert data(chunks) == list(range(before))
    assert (end["type"], end["error"]["message"]) == ("stream_error", told)


async def test_a_stream_over_its_size_limit_fails_for_good(apex):
    end = (
        await apex.follow(
            await apex.submit("count", options={"bytes_max": 5_000}, n=100_000, pad=100, interval_s=0.001)
        )
    )[-1]
    assert end["type"] == "stream_error"
    assert "larger than its limit of 5000 bytes" in end["error"]["message"]


async def test_a_paused_task_yields_nothing_until_it_is_resumed(apex):
    stream_id = await apex.submit("steady", n=60, interval_s=0.01)
    following = asyncio.create_task(apex.follow(stream_id))
    await until(apex, stream_id, "running")
    assert (await apex.http.post(f"/tasks/{stream_id}/pause")).status_code == 202
    await until(apex, stream_id, "paused")
    held = len(await seen_so_far(apex, stream_id))
    await asyncio.sleep(0.3)  # ten chunks' time: the absence of chunks can only be seen by waiting
    assert len(await seen_so_far(apex, stream_id)) <= held + 1
    await apex.http.post(f"/tasks/{stream_id}/resume")
    assert data(await following) == list(range(60))


async def test_cancelling_ends_a_task_that_waits_for_its_next_attempt(apex):
    stream_id = await apex.submit("flaky", options={"backoff_s": 60}, fail_at=[1] * 9)
    await until(apex, stream_id, "retrying")
    await apex.http.delete(f"/tasks/{stream_id}")
    assert (await apex.follow(stream_id))[-1]["type"] == "stream_cancelled"


async def test_options_that_make_no_sense_are_refused(apex):
    for options, told in (({"max_attempts": 0}, "max_attempts"), ({"tries": 3}, "tries"), ({"ttl_s": -1}, "ttl_s")):
        answer = await apex.http.post("/tasks", json={"plugin": "probe", "action": "count", "options": options})
        assert answer.status_code == 400
        assert told in answer.json()["error"]["message"]


async def test_a_stopping_runner_lets_go_of_its_tasks_and_the_next_one_goes_on_from_the_checkpoint(
    kafka: str, topic_prefix: str
):
    settings = Settings(bootstrap_servers=kafka, topic_prefix=topic_prefix, port=0)
    async with running(settings) as apex:
        stream_id = await apex.submit("steady", n=200)
        await until(apex, stream_id, "running")
        async with asyncio.timeout(30):
            while len(await seen_so_far(apex, stream_id)) < 20:
                await asyncio.sleep(0.05)
    async with running(settings) as apex:
        messages = await raw(apex, stream_id)
        rewinds = [message["seq"] for message in messages if message["type"] == "stream_rewind"]
        assert all(seq % 5 == 0 and seq > 0 for seq in rewinds)
        assert data(await apex.follow(stream_id)) == list(range(200))
        assert (await until(apex, stream_id, "completed"))["attempt"] == 2


async def seen_so_far(apex: Apex, stream_id: str) -> list[Any]:
    """What a viewer that comes now is sent before a quarter of a second of silence."""
    messages: list[Any] = []
    async with apex.socket() as socket:
        await socket.send(subscribe(stream_id))
        try:
            while True:
                async with asyncio.timeout(0.25):
                    message = msgspec.json.decode(await socket.recv())
                messages.append(message)
                if len(messages) >= 40 or message["type"] == "stream_complete":
                    return messages
        except TimeoutError:
            return messages


async def test_the_client_pauses_resumes_and_sends_dead_letters_again(apex):
    async with Client(apex.url) as client:
        steady = await client.submit("probe", "steady", {"n": 50})
        await until(apex, steady.task_id, "running")
        await client.pause(steady.task_id)
        await until(apex, steady.task_id, "paused")
        await client.resume(steady.task_id)
        await until(apex, steady.task_id, "completed")
        failed = await client.submit("probe", "flaky", {"fail_at": [0] * 9, "error": "permanent"})
        await until(apex, failed.task_id, "failed")
        async with asyncio.timeout(30):
            while failed.task_id not in {letter.task_id for letter in await client.dead_letters()}:
                await asyncio.sleep(0.02)
        assert (await client.retry(failed.task_id)).task_id != failed.task_id


async def test_an_encrypted_stream_holds_no_payload_in_the_log_and_resumes_from_its_sealed_checkpoint(
    kafka: str, topic_prefix: str, tmp_path: Path
):
    settings = Settings(bootstrap_servers=kafka, topic_prefix=topic_prefix, port=0, encryption="local", home=tmp_path)
    async with running(settings) as apex:
        stream_id = await apex.submit("flaky", options=QUICK, n=30, fail_at=[7, 19])
        assert data(await apex.follow(stream_id)) == list(range(30))
        secret = await apex.submit("count", n=3, pad=40)
        assert len(data(await apex.follow(secret))) == 3
        async with LogReader(kafka, client_id="test") as reader:
            for partition in await reader.partitions(settings.topic("chunks")):
                async for records, _ in reader.scan(partition, 0, (await reader.ends([partition]))[partition]):
                    assert not any(b"x" * 40 in (record.value or b"") for record in records)
