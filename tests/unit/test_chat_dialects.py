"""What chat libraries are told of chunks: the UI message stream of the AI SDK, and AG-UI."""

from typing import Any

import msgspec
import pytest

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.errors import Unavailable
from apexstream.gateway.chat.ag_ui import AgUi
from apexstream.gateway.chat.dialect import Dialect
from apexstream.gateway.chat.ui_messages import UiMessages


def chunk(payload: bytes, kind: Kind = Kind.DATA, content_type: str = "") -> Chunk:
    return Chunk(kind, payload, 0, content_type)


def events(data: bytes) -> list[Any]:
    """The data of server-sent events; comments are none."""
    blocks = [block for block in data.decode().split("\n\n") if block and not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block[6:] if block == "data: [DONE]" else msgspec.json.decode(block[6:]) for block in blocks]


def told(dialect: Dialect, *turns: list[Chunk]) -> list[Any]:
    """All that a reader is told of chunks that come in these turns."""
    encoder, seq, data = dialect.encoding.open("s"), 0, [dialect.begin()]
    for turn in turns:
        pieces = [encoder.chunk(seq + at, 0, each) for at, each in enumerate(turn)]
        seq += len(turn)
        data.append(dialect.shown(encoder.join(pieces)))
    return events(b"".join(data))


START = [{"type": "start", "messageId": "s"}, {"type": "start-step"}]
FINISH = [{"type": "finish-step"}, {"type": "finish", "finishReason": "stop"}, "[DONE]"]


def delta(text: str) -> dict[str, str]:
    return {"type": "text-delta", "id": "text", "delta": text}


@pytest.mark.parametrize("turns", [1, 4])
def test_the_texts_of_a_stream_are_one_text_part_however_they_come(turns: int) -> None:
    chunks = [
        chunk(b"7"),
        chunk(b'"he"'),
        chunk("llö".encode(), content_type="text/plain"),
        chunk(b"", Kind.COMPLETE),
    ]
    each = [chunks] if turns == 1 else [[one] for one in chunks]

    assert told(UiMessages("s"), *each) == [
        *START,
        {"type": "data-chunk", "id": "0", "data": 7},
        {"type": "text-start", "id": "text"},
        delta("he"),
        delta("llö"),
        {"type": "text-end", "id": "text"},
        *FINISH,
    ]


def test_a_stream_without_texts_has_no_text_part() -> None:
    assert told(UiMessages("s"), [chunk(b'{\n"a":1}'), chunk(b'""'), chunk(b"", Kind.COMPLETE)]) == [
        *START, {"type": "data-chunk", "id": "0", "data": {"a": 1}}, *FINISH,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["tool-output-available", "reasoning-start", "data-weather", "source-url"])
def test_an_object_that_is_a_part_of_a_message_is_told_as_it_is(kind: str) -> None:
    part = {"type": kind, "id": "x"}
    assert told(UiMessages("s"), [chunk(msgspec.json.encode(part))])[2:] == [part]


@pytest.mark.parametrize(
    "kind", ["start", "finish", "start-step", "reset-step", "error", "abort", "data-", "", 7, None]
)
def test_an_object_that_would_end_or_restart_the_message_is_data(kind: Any) -> None:
    value = {"type": kind}
    assert told(UiMessages("s"), [chunk(msgspec.json.encode(value))])[2:] == [
        {"type": "data-chunk", "id": "0", "data": value}
    ]


def test_bytes_are_a_file_and_progress_is_data_that_replaces_itself() -> None:
    progress = {"percentage": 5.0, "message": "", "status": ""}
    chunks = [chunk(b"\0\xff", content_type="image/png"), chunk(msgspec.json.encode(progress), Kind.PROGRESS)]
    assert told(UiMessages("s"), chunks)[2:] == [
        {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AP8="},
        {"type": "data-progress", "id": "progress", "data": progress},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "payload", "last", "reason"),
    [
        (Kind.ERROR, b'{"code":"plugin_failed","message":"boom"}', {"type": "error", "errorText": "boom"}, "error"),
        (Kind.CANCELLED, b'{"reason":"enough","stopped_at_seq":1}', {"type": "abort", "reason": "enough"}, "other"),
        (Kind.ERROR, b"[]", {"type": "error", "errorText": "the task failed"}, "error"),
    ],
)
def test_a_message_ends_as_its_stream_does(kind: Kind, payload: bytes, last: dict[str, str], reason: str) -> None:
    assert told(UiMessages("s"), [chunk(b'"a"'), chunk(payload, kind)])[3:] == [
        delta("a"), {"type": "text-end", "id": "text"}, last, {"type": "finish", "finishReason": reason}, "[DONE]",
    ]  # fmt: skip


def test_after_a_rewind_the_step_is_reset_and_its_text_begins_anew() -> None:
    dialect = UiMessages("s")
    told(dialect, [chunk(b'"old"')])

    assert events(dialect.again()) == [{"type": "reset-step"}]
    assert told(dialect, [chunk(b'"new"')])[2:] == [{"type": "text-start", "id": "text"}, delta("new")]


@pytest.mark.parametrize(
    ("known", "first"), [(0, START), (1, START[1:]), (2, [{"type": "reset-step"}]), (99, [{"type": "reset-step"}])]
)
def test_whoever_goes_on_with_a_message_is_told_all_of_its_parts_in_place_of_those_it_has(
    known: int, first: list[Any]
) -> None:
    assert told(UiMessages("s", known), [chunk(b'"a"')]) == [*first, {"type": "text-start", "id": "text"}, delta("a")]


def said(text: str) -> dict[str, str]:
    return {"type": "TEXT_MESSAGE_CHUNK", "role": "assistant", "messageId": "s", "delta": text}


def test_a_run_tells_texts_as_chunks_of_one_message_and_everything_else_as_what_it_is() -> None:
    call = {"type": "TOOL_CALL_CHUNK", "toolCallId": "c", "delta": "{}"}
    chunks = [
        chunk(b'"he"'),
        chunk("llö".encode(), content_type="text/plain"),
        chunk(b'""'),
        chunk(msgspec.json.encode(call)),
        chunk(b'{"type":"RUN_FINISHED"}'),
        chunk(b"\0\xff", content_type="image/png"),
        chunk(b"", Kind.COMPLETE),
    ]
    ids = {"threadId": "t", "runId": "r"}
    assert told(AgUi("t", "r"), chunks) == [
        {"type": "RUN_STARTED", **ids},
        said("he"),
        said("llö"),
        call,
        {"type": "CUSTOM", "name": "chunk", "value": {"type": "RUN_FINISHED"}},
        {"type": "CUSTOM", "name": "file", "value": {"mediaType": "image/png", "base64": "AP8="}},
        {"type": "RUN_FINISHED", **ids},
    ]


@pytest.mark.parametrize(
    ("kind", "payload", "message", "code"),
    [
        (Kind.ERROR, b'{"code":"plugin_failed","message":"boom"}', "boom", "plugin_failed"),
        (Kind.CANCELLED, b'{"reason":"enough"}', "enough", "cancelled"),
    ],
)
def test_a_run_that_does_not_succeed_ends_in_an_error(kind: Kind, payload: bytes, message: str, code: str) -> None:
    assert told(AgUi("t", "r"), [chunk(payload, kind)])[-1] == {"type": "RUN_ERROR", "message": message, "code": code}


def test_after_a_rewind_a_run_is_back_at_what_it_began_with() -> None:
    messages, state = [{"id": "m", "role": "user", "content": "hi"}], {"n": 1}

    assert events(AgUi("t", "r", messages, state).again())[:2] == [
        {"type": "MESSAGES_SNAPSHOT", "messages": messages},
        {"type": "STATE_SNAPSHOT", "snapshot": state},
    ]


@pytest.mark.parametrize(("dialect", "kind"), [(UiMessages("s"), "error"), (AgUi("t", "r"), "RUN_ERROR")])
def test_what_cannot_be_told_to_its_end_does_not_look_whole(dialect: Dialect, kind: str) -> None:
    assert events(dialect.failed(Unavailable("the answer is broken off")))[0]["type"] == kind
