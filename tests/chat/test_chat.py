"""Stock clients of chat libraries, from npm, against a gateway that runs (``make test-chat``)."""

from pathlib import Path
from typing import Any

import pytest
from tests.chat.conftest import Run
from tests.integration.conftest import Apex

pytestmark = [pytest.mark.chat, pytest.mark.asyncio(loop_scope="module")]
TOOL = [
    {
        "type": "tool-input-available",
        "toolCallId": "c1",
        "toolName": "look",
        "input": {"at": "sky"},
        "providerExecuted": True,
    },
    {"type": "tool-output-available", "toolCallId": "c1", "output": "blue"},
]


def parts(message: dict[str, Any]) -> list[Any]:
    """What a message shows: its text, and the data of its other parts."""
    shown = {"text": "text", "data-chunk": "data", "data-progress": "data", "tool-look": "output"}
    return [part[shown[part["type"]]] for part in message["parts"] if part["type"] in shown]


async def test_a_stock_chat_shows_the_whole_answer(run: Run):
    told = await run("converse", extra=TOOL)

    user, answer = told["messages"]
    assert (told["status"], told["errors"], user["role"], answer["role"]) == ("ready", [], "user", "assistant")
    assert parts(answer) == [
        "attempt 1: you said enough",
        "blue",
        {"answers": 1},
        {"percentage": 90.0, "message": "", "status": "running"},
    ]
    assert {part["state"] for part in answer["parts"] if part["type"] == "text"} == {"done"}


async def test_a_page_that_is_loaded_again_resumes_the_answer_and_finds_none_once_it_is_written(
    run: Run, tmp_path: Path
):
    told = await run("resume", gate=str(tmp_path / "gate"))

    assert told["before"] == "attempt 1: you said "
    assert told["first"]["messages"][1] == told["second"]["messages"][1]
    assert parts(told["second"]["messages"][1])[0] == "attempt 1: you said enough"
    assert [told[name]["errors"] for name in ("first", "second", "third")] == [[], [], []]
    assert len(told["third"]["messages"]) == 1


async def test_an_answer_that_is_torn_off_goes_on_by_itself_and_nothing_of_it_is_there_twice(run: Run, tmp_path: Path):
    told = await run("torn", gate=str(tmp_path / "gate"))

    assert (told["asked"], told["status"], told["errors"]) == (3, "ready", [])
    assert parts(told["messages"][1])[:2] == ["attempt 1: you said enough", {"answers": 1}]


async def test_what_a_failed_attempt_wrote_is_gone_from_the_answer(run: Run, tmp_path: Path):
    told = await run("falter", gate=str(tmp_path / "gate"), falter=True)

    assert parts(told["messages"][1])[:2] == ["attempt 2: you said enough", {"answers": 1}]
    assert (told["status"], told["errors"]) == ("ready", [])


async def test_a_stock_agent_runs_an_action_and_the_same_run_again_tells_the_same(run: Run):
    calls = [
        {"type": "TOOL_CALL_CHUNK", "toolCallId": "c1", "toolCallName": "look", "delta": '{"at":"sky"}'},
        {"type": "TOOL_CALL_RESULT", "messageId": "r1", "toolCallId": "c1", "content": "blue"},
    ]
    first, second = await run("agent", extra=calls)

    assert first["messages"] == second["messages"]
    roles = [message["role"] for message in first["messages"]]
    assert roles[0] == "user"
    assert {"assistant", "tool"} <= set(roles)
    said = [
        message["content"] for message in first["messages"] if message["role"] == "assistant" and message.get("content")
    ]
    assert "".join(said) == "attempt 1: you said enough"
    assert (first["events"][0], first["events"][-1]) == ("RUN_STARTED", "RUN_FINISHED")


async def test_an_agent_is_told_when_an_attempt_is_taken_back(run: Run, tmp_path: Path):
    first, second = await run("agent", gate=str(tmp_path / "gate"), falter=True)

    for told in (first, second):
        said = [message["content"] for message in told["messages"] if message["role"] == "assistant"]
        assert said == ["attempt 2: you said enough"]
        assert told["messages"][0]["id"] == "m1"
    assert "MESSAGES_SNAPSHOT" in first["events"]


async def test_an_event_source_reads_a_stream_to_its_end_and_stays_away(run: Run, apex: Apex):
    stream_id = await apex.submit("count", n=20)

    assert (await run("events", stream=stream_id))["seqs"] == list(range(21))
