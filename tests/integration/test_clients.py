"""What clients see: the two of this project, case by case (``schemas/gateway/conformance``), and those of chats."""

import json
import subprocess
from typing import Any

import pytest
from tests.integration.conftest import Apex
from tests.support.scripted import FOLLOWING, cases, scripted
from tests.support.web import WEB, command, drive

from apexstream.client import Cancelled, Client, Error, Frame, Progress, ReconnectPolicy, RemoteError, Update
from apexstream.core.errors import ApexError

CLIENT = WEB / "client"
POLICY = ReconnectPolicy(base_s=0.01, cap_s=0.1, offline_max_s=60, later_s=0)


def shown(frame: Frame) -> dict[str, Any]:
    """A frame as the cases write events."""
    place = {"kind": type(frame).__name__.lower(), "seq": frame.seq}
    match frame:
        case Update():
            return place | {"value": {"bytes": [*frame.value]} if isinstance(frame.value, bytes) else frame.value}
        case Progress():
            return place | {"percentage": frame.progress.percentage, "message": frame.progress.message}
        case Error():
            return place | {"code": frame.error.code}
        case Cancelled():
            return place | {"reason": frame.data["reason"]}
        case _:
            return place


async def follow(url: str, from_seq: int = 0, cursor: str = "") -> dict[str, Any]:
    """What the Python client gives of stream ``s``."""
    events: list[dict[str, Any]] = []
    async with Client(url, reconnect=POLICY, token="") as client:
        try:
            async for frame in client.follow("s", from_seq, cursor=cursor):
                events.append(shown(frame))  # noqa: PERF401 - what came before an error counts
        except ApexError as problem:
            code = problem.remote_code if isinstance(problem, RemoteError) else problem.code
            return {"events": events, "error": code}
    return {"events": events}


def expected(case: dict[str, Any]) -> dict[str, Any]:
    return {name: case[name] for name in ("events", "error") if name in case}


@pytest.mark.parametrize("number", range(len(cases())), ids=[case["name"] for case in cases()])
async def test_the_python_client_does_what_the_case_says(number: int):
    case = cases()[number]
    async with scripted() as gateway:
        assert await follow(gateway.address(number), **case.get("start", {})) == expected(case)
    assert gateway.problems == []
    assert gateway.connections == {number: len(case["connections"]) - 1}


async def test_the_typescript_client_does_what_every_case_says():
    async with scripted() as gateway:
        results = await drive("cases", str(FOLLOWING), gateway.url)
    assert results == [{"name": case["name"], **expected(case)} for case in cases()]
    assert gateway.problems == []
    assert gateway.connections == {number: len(case["connections"]) - 1 for number, case in enumerate(cases())}


def test_the_typescript_clients_own_tests_pass():
    node, *_ = command()
    done = subprocess.run(
        [node, "--test", "test/*.test.ts"], cwd=CLIENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


async def test_the_global_build_works_as_a_plain_script():
    """As in a page without modules: one script, one name."""
    node, *_ = command()
    script = "globalThis.eval(require('fs').readFileSync('dist/apexstream.global.js', 'utf8'));"
    script += "console.log(typeof apexstream.ApexStream, apexstream.reconnectAfter(4500))"
    done = subprocess.run([node, "-e", script], cwd=CLIENT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["function", "no"], done.stderr


def folded(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is left after all rewinds."""
    left: list[dict[str, Any]] = []
    for event in events:
        if event["kind"] == "rewind":
            del left[event["seq"] :]
        else:
            left.append(event)
    return left


async def python_events(url: str, stream_id: str, cursor: str = "") -> list[dict[str, Any]]:
    async with Client(url, reconnect=POLICY, token="") as client:
        return [
            {**shown(frame), "cursor": frame.cursor}
            async for frame in client.follow(stream_id, cursor=cursor)
        ]  # fmt: skip


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("action", "params"), [("kinds", {}), ("fail", {"after": 2})])
async def test_both_clients_give_the_same_of_a_running_task_and_go_on_at_each_others_cursors(
    apex: Apex, action: str, params: dict[str, Any]
):
    task, *events = await drive("submit", apex.url, "probe", action, json.dumps(params))
    stream_id = task["streamId"]

    shown_in_the_end = folded(events)
    again = await python_events(apex.url, stream_id)
    rest_in_python = await python_events(apex.url, stream_id, shown_in_the_end[1]["cursor"])
    rest_in_typescript = await drive("follow", apex.url, stream_id, again[0]["cursor"])

    assert again == shown_in_the_end
    assert again[-1]["kind"] in {"complete", "error"}
    assert rest_in_python == again[2:]
    assert rest_in_typescript == again[1:]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_typescript_reader_that_takes_its_time_has_the_stream_held_and_misses_nothing(apex: Apex):
    stream_id = await apex.submit("count", n=12_000)
    await apex.follow(stream_id, tail=0)

    (seen,) = await drive("slow", apex.url, stream_id)

    assert seen["events"] == 12_001
    assert seen["holds"] >= 1


# Chats, as their clients ask; what those make of it is tested with them (tests/chat).


async def told(apex: Apex, path: str, body: dict[str, Any]) -> tuple[str, list[str]]:
    """The stream that answers, and the types of its events."""
    answer = await apex.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return answer.headers["stream-id"], [event if event == "[DONE]" else json.loads(event)["type"] for event in events]


def said(chat_id: str, *ids: str, **more: Any) -> dict[str, Any]:
    messages = [{"id": each, "role": "user", "parts": [{"type": "text", "text": each}]} for each in ids]
    return {"id": chat_id, "messages": messages, "trigger": "submit-message", **more}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_message_is_one_task_however_often_it_is_sent_and_regenerating_is_another(apex: Apex):
    path = "/chat/probe/converse"
    first, types = await told(apex, path, said("chat", "m1"))
    again, _ = await told(apex, path, said("chat", "m1"))
    second, _ = await told(apex, path, said("chat", "m1", "m2"))
    other, _ = await told(apex, path, said("other chat", "m1"))
    anew, _ = await told(apex, path, said("chat", "m1", trigger="regenerate-message"))

    assert types[:4] == ["start", "start-step", "text-start", "text-delta"]
    assert types[-3:] == ["finish-step", "finish", "[DONE]"]
    assert first == again
    assert len({first, second, other, anew}) == 4
    assert (await apex.http.get(f"{path}/never/stream")).status_code == 204


@pytest.mark.asyncio(loop_scope="module")
async def test_a_run_of_an_agent_is_one_task_and_any_stream_can_be_told(apex: Apex):
    body = {
        "threadId": "t",
        "runId": "r",
        "messages": [],
        "tools": [],
        "context": [],
        "state": {},
        "forwardedProps": {},
    }
    run, types = await told(apex, "/ag-ui/probe/converse", body)
    again, _ = await told(apex, "/ag-ui/probe/converse", body)
    other, _ = await told(apex, "/ag-ui/probe/converse", {**body, "threadId": "u"})

    assert (types[0], types[-1], run == again, run == other) == ("RUN_STARTED", "RUN_FINISHED", True, False)
    ui = await apex.http.get(f"/streams/{run}/ui-messages")
    assert ui.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert ui.text.endswith("data: [DONE]\n\n")
    assert '"RUN_FINISHED"' in (await apex.http.get(f"/streams/{run}/ag-ui")).text
    assert (await apex.http.get("/streams/nobody/ui-messages")).status_code == 404


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/chat/probe/converse", {"id": 7, "messages": []}, 400),
        ("/chat/probe/converse", {"id": "x" * 257, "messages": []}, 400),
        ("/chat/probe/converse", {"id": "x", "messages": "hi"}, 400),
        ("/chat/probe/converse", said("x", "m", colour="red"), 422),
        ("/chat/probe/nothing", said("x", "m"), 404),
        ("/chat/probe/count", said("x", "m"), 422),
        ("/ag-ui/probe/converse", {"threadId": "t", "messages": []}, 400),
        ("/ag-ui/probe/converse", {"threadId": "", "runId": "r", "messages": []}, 400),
    ],
)
async def test_what_no_chat_can_be_is_refused_before_it_begins(
    apex: Apex, path: str, body: dict[str, Any], status: int
):
    assert (await apex.http.post(path, json=body)).status_code == status
