"""A plugin's chunks through real Kafka to viewers: what the specification promises, and what happens when things go wrong."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apexstream.contracts.codec import Codec
from apexstream.core.fold import StreamFold, Verdict
from apexstream.log.fetcher import LogReader

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_specifications_browser_code_works_unchanged(apex):
    """Subscribe, handle stream_update and stream_complete, look at nothing else."""
    stream_id = await apex.submit("count", n=20)
    received = []
    async with asyncio.timeout(30), apex.socket() as socket:
        await socket.send(subscribe(stream_id))
        while True:
            message = msgspec.json.decode(await socket.recv())
            assert message["stream_id"] == stream_id
            if message["type"] == "stream_update":
                received.append(message["data"]["i"])
            elif message["type"] == "stream_complete":
                break
    assert received == list(range(20))


async def test_early_late_and_resuming_viewers_all_get_the_same(apex):
    early = asyncio.create_task(apex.follow("early-late"))
    await apex.http.post(
        "/tasks", json={"plugin": "probe", "action": "count", "params": {"n": 500}, "task_id": "early-late"}
    )
    messages = await early
    assert [message["seq"] for message in messages] == list(range(501))
    assert await apex.follow("early-late") == messages
    assert await apex.follow("early-late", from_seq=490) == messages[490:]


async def test_a_viewer_in_the_middle_of_a_stream_sees_chunks_before_the_stream_ends(apex, tmp_path: Path):
    gate = tmp_path / "gate"
    stream_id = await apex.submit("gated", gate=str(gate), n=3)
    async with asyncio.timeout(30), apex.socket() as socket:
        await socket.send(subscribe(stream_id))
        first = [msgspec.json.decode(await socket.recv())["data"] for _ in range(3)]
        gate.touch()
        rest = [msgspec.json.decode(await socket.recv()) for _ in range(4)]
    assert first == [0, 1, 2]
    assert [message.get("data") for message in rest] == [3, 4, 5, None]


async def test_many_streams_share_one_socket(apex):
    ids = [await apex.submit("count", n=50) for _ in range(10)]
    seen: dict[str, list[int]] = {stream_id: [] for stream_id in ids}
    open_streams = set(ids)
    async with asyncio.timeout(30), apex.socket() as socket:
        for stream_id in ids:
            await socket.send(subscribe(stream_id))
        while open_streams:
            message = msgspec.json.decode(await socket.recv())
            seen[message["stream_id"]].append(message["seq"])
            if message["type"] == "stream_complete":
                open_streams.discard(message["stream_id"])
    assert all(seqs == list(range(51)) for seqs in seen.values())


async def test_an_error_in_the_middle_reaches_viewers_after_the_chunks_before_it(apex):
    stream_id = await apex.submit("fail", after=3)
    *chunks, end = await apex.follow(stream_id)
    assert [message["data"] for message in chunks] == [0, 1, 2]
    assert end["type"] == "stream_error"
    assert end["error"]["code"] == "plugin_failed"
    assert end["error"]["message"].startswith("OSError: the disk is on fire (probe_plugin.py:")
    task = await until(apex, stream_id, "failed")
    assert task["error"] == end["error"]


@pytest.mark.parametrize(
    ("what", "told"),
    [("object", "cannot be serialised"), ("huge", "more than the 524288 allowed"), ("surrogate", "surrogate")],
)
async def test_a_chunk_that_cannot_be_one_is_an_error_on_its_stream_only(apex, what: str, told: str):
    good, end = await apex.follow(await apex.submit("odd", what=what))
    assert good["data"] == "good"
    assert (end["type"], end["error"]["code"]) == ("stream_error", "invalid_chunk")
    assert told in end["error"]["message"]
    assert (await apex.follow(await apex.submit("count", n=1)))[-1]["type"] == "stream_complete"


async def test_every_content_type_arrives_as_documented(apex):
    *chunks, _ = await apex.follow(await apex.submit("kinds"))
    shown = [
        {key: value for key, value in chunk.items() if key not in {"type", "stream_id", "seq"}} for chunk in chunks
    ]
    assert shown == [
        {"data": {"json": True}},
        {"data": "# title", "content_type": "text/markdown"},
        {"data": "AP8=", "content_type": "application/octet-stream", "encoding": "base64"},
        {"data": None},
    ]


async def test_progress_is_in_its_place_between_the_chunks(apex):
    messages = await apex.follow(await apex.submit("report", n=3))
    updates = [m["data"] for m in messages if m["type"] == "stream_update"]
    progress = [m["progress"] for m in messages if m["type"] == "stream_progress"]
    assert updates == [0, 1, 2]
    assert progress[-1]["message"] == "step 2"
    assert [m["seq"] for m in messages] == list(range(len(messages)))


async def test_plain_plugins_are_streams_too(apex):
    assert [m.get("data") for m in await apex.follow(await apex.submit("blocking", n=2))] == [0, 1, None]
    assert [m.get("data") for m in await apex.follow(await apex.submit("add", plugin="whole", a=1, b=2))] == [
        {"sum": 3},
        None,
    ]


async def test_cancelling_stops_the_action_and_leaves_a_receipt(apex):
    stream_id = await apex.submit("count", n=100_000, interval_s=0.01)
    following = asyncio.create_task(apex.follow(stream_id))
    await until(apex, stream_id, "running")
    answer = await apex.http.delete(f"/tasks/{stream_id}", params={"reason": "enough"})
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    *chunks, end = await following
    assert end["type"] == "stream_cancelled"
    assert end["data"]["reason"] == "enough"
    assert end["data"]["stopped_at_seq"] == end["seq"] == len(chunks)
    assert (await until(apex, stream_id, "cancelled"))["reason"] == "enough"
    again = await apex.http.delete(f"/tasks/{stream_id}")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")


async def test_an_action_that_ignores_the_token_is_cancelled_after_a_grace(apex, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("apexstream.runner.attempt.CANCEL_GRACE_S", 0.3)
    stream_id = await apex.submit("deaf")
    following = asyncio.create_task(apex.follow(stream_id))
    await until(apex, stream_id, "running")
    await apex.http.delete(f"/tasks/{stream_id}")
    end = (await following)[-1]
    assert end["type"] == "stream_cancelled"


async def test_what_viewers_saw_is_what_the_topic_holds(apex):
    stream_id = await apex.submit("count", n=3000)
    shown = [message["data"] for message in (await apex.follow(stream_id))[:-1]]
    fold, content, codec = StreamFold(), [], Codec()
    async with LogReader(apex.settings.bootstrap_servers, client_id="test") as reader:
        for partition in await reader.partitions(apex.settings.topic("chunks")):
            end = (await reader.ends([partition]))[partition]
            async for records, _ in reader.scan(partition, 0, end):
                for record in records:
                    if record.key == stream_id.encode():
                        run = codec.decode_run(record.value)
                        if fold.apply(run).verdict is Verdict.ACCEPTED:
                            content += [msgspec.json.decode(chunk.payload) for chunk in run.chunks]
    assert content[:-1] == shown


@pytest.mark.parametrize(
    ("body", "status", "code", "told"),
    [
        ({"plugin": "nope", "action": "count"}, 404, "unknown_action", "corpus, "),
        ({"plugin": "probe", "action": "nope"}, 404, "unknown_action", "Known actions: again, blocking, co"),
        ({"plugin": "broken", "action": "x"}, 404, "unknown_action", "the licence has expired (broken_plugin.py:3)"),
        ({"plugin": "probe", "action": "count", "params": {"n": "x"}}, 422, "invalid_parameters", "$.n"),
        ({"plugin": "probe", "action": "count", "params": {"m": 1}}, 422, "invalid_parameters", "'m' was unexpected"),
        ({"plugin": "probe", "action": "gated"}, 422, "invalid_parameters", "'gate' is a required property"),
        ({"plugin": "probe"}, 400, "bad_request", "action"),
        ({"plugin": "probe", "action": "count", "tier": "urgent"}, 400, "bad_request", "urgent"),
        ({"plugin": "probe", "action": "count", "priority": 1}, 400, "bad_request", "priority"),
        ({"plugin": "probe", "action": "count", "task_id": "../etc"}, 400, "bad_request", "not a valid task_id"),
    ],
)
async def test_a_bad_submission_is_refused_with_what_where_and_what_to_do(
    apex, body: Any, status: int, code: str, told: str
):
    answer = await apex.http.post("/tasks", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    assert told in " ".join(answer.json()["error"].values())


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'{"plugin": "\xff"}', b"nul", b'{"plugin":1e999}'])
async def test_a_body_that_is_not_the_right_json_is_a_bad_request(apex, body: bytes):
    answer = await apex.http.post("/tasks", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


async def test_a_body_over_the_limit_is_refused(apex):
    answer = await apex.http.post("/tasks", content=b" " * 600_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_submitting_the_same_task_id_again_gives_the_same_task(apex):
    body = {"plugin": "probe", "action": "count", "params": {"n": 1}, "task_id": "only-once"}
    first, second = await apex.http.post("/tasks", json=body), await apex.http.post("/tasks", json=body)
    assert (first.status_code, second.status_code) == (202, 200)
    assert len(await apex.follow("only-once")) == 2


async def test_unknown_tasks_are_not_found(apex):
    for call in (apex.http.get, apex.http.delete):
        answer = await call("/tasks/never-was")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_task")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"type":"dance"}',
        '{"type":"subscribe"}',
        '{"type":"subscribe","stream_id":"../x"}',
        '{"type":"subscribe","stream_id":"a","from_seq":-1}',
        '{"type":"subscribe","stream_id":1}',
        "[" * 60_000,
    ],
)
async def test_a_bad_command_is_answered_and_the_socket_stays_usable(apex, text: str):
    async with asyncio.timeout(30), apex.socket() as socket:
        await socket.send(text)
        answer = msgspec.json.decode(await socket.recv())
        assert (answer["type"], answer["error"]["code"]) == ("error", "bad_request")
        await socket.send('{"type":"ping"}')
        assert msgspec.json.decode(await socket.recv()) == {"type": "pong"}


async def test_unsubscribing_ends_the_stream_for_this_viewer_only(apex, tmp_path: Path):
    gate = tmp_path / "gate"
    stream_id = await apex.submit("gated", gate=str(gate), n=1)
    other = asyncio.create_task(apex.follow(stream_id))
    async with asyncio.timeout(30), apex.socket() as socket:
        await socket.send(subscribe(stream_id))
        await socket.recv()
        await socket.send(subscribe(stream_id, "unsubscribe"))
        await socket.send('{"type":"ping"}')
        assert msgspec.json.decode(await socket.recv()) == {"type": "pong"}
        gate.touch()
        assert len(await other) == 3
        await socket.send('{"type":"ping"}')
        assert msgspec.json.decode(await socket.recv()) == {"type": "pong"}


def subscribe(stream_id: str, kind: str = "subscribe") -> str:
    return msgspec.json.encode({"type": kind, "stream_id": stream_id}).decode()


async def until(apex, task_id: str, status: str) -> dict[str, Any]:
    """The task once it has this status."""
    async with asyncio.timeout(30):
        while True:
            task = (await apex.http.get(f"/tasks/{task_id}")).json()
            if task["status"] == status:
                return dict(task)
            await asyncio.sleep(0.02)
