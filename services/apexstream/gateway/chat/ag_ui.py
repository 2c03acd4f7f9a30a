"""AG-UI: a task as a run of an agent, in the events that ``HttpAgent`` reads. Pure.

Texts are ``TEXT_MESSAGE_CHUNK``, which readers open and close by themselves. After a rewind the messages and the state are put
back to what the run began with, and all is told again.
"""

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.errors import ApexError
from apexstream.gateway.chat.dialect import END, Joined, event, text_of, type_of, why_of
from apexstream.gateway.encoding import Encoder
from apexstream.gateway.viewed import in_one_line

PASSED = frozenset({
    "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "TEXT_MESSAGE_CHUNK",
    "TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_CHUNK", "TOOL_CALL_RESULT",
    "STATE_SNAPSHOT", "STATE_DELTA", "ACTIVITY_SNAPSHOT", "ACTIVITY_DELTA", "STEP_STARTED", "STEP_FINISHED",
    "REASONING_START", "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_END",
    "REASONING_MESSAGE_CHUNK", "REASONING_END", "RAW", "CUSTOM",
})  # fmt: skip
"""Types of objects that a plugin may yield and that are told as they are."""


class AgUiEvents:
    """The encoding."""

    name = "ag-ui"

    def open(self, stream_id: str) -> Encoder:
        return _Events(stream_id)


class _Events(Joined):
    __slots__ = ("_text",)

    def __init__(self, stream_id: str) -> None:
        message_id = msgspec.json.encode(stream_id)
        self._text = b'data: {"type":"TEXT_MESSAGE_CHUNK","role":"assistant","messageId":%b,"delta":' % message_id

    def chunk(self, seq: int, rewinds: int, chunk: Chunk) -> bytes:  # noqa: ARG002 - the encoder's signature
        match chunk.kind:
            case Kind.DATA:
                return self._data(chunk)
            case Kind.PROGRESS:
                return _custom("progress", msgspec.Raw(in_one_line(chunk.payload)))
            case Kind.COMPLETE:
                return END
            case _:
                message, code = why_of(chunk)
                return event({"type": "RUN_ERROR", "message": message, "code": code})

    def _data(self, chunk: Chunk) -> bytes:
        text = text_of(chunk)
        if text is not None:
            return b"%b%b}\n\n" % (self._text, msgspec.json.encode(text)) if text else b""
        if chunk.content_type:
            content = base64.b64encode(chunk.payload).decode()
            return _custom("file", {"mediaType": chunk.content_type, "base64": content})
        payload = in_one_line(chunk.payload)
        if type_of(chunk) in PASSED:
            return b"data: %b\n\n" % payload
        return _custom("chunk", msgspec.Raw(payload or b"null"))


def _custom(name: str, value: Any) -> bytes:
    return event({"type": "CUSTOM", "name": name, "value": value})


class AgUi:
    """A task as the run ``run_id`` of thread ``thread_id``, which began with ``messages`` and ``state``; see
    :class:`apexstream.gateway.chat.dialect.Dialect`."""

    encoding = AgUiEvents()
    headers: dict[str, str] = {}  # noqa: RUF012 - nothing besides those of every answer

    def __init__(self, thread_id: str, run_id: str, messages: Sequence[Any] = (), state: Any = None) -> None:
        self._ids = {"threadId": thread_id, "runId": run_id}
        self._messages = messages
        self._state = state

    def begin(self) -> bytes:
        return event({"type": "RUN_STARTED", **self._ids})

    def shown(self, data: bytes) -> bytes:
        before, end, _ = data.rpartition(END)
        return before + event({"type": "RUN_FINISHED", **self._ids}) if end else data

    def again(self) -> bytes:
        state = {} if self._state is None else self._state
        return (
            event({"type": "MESSAGES_SNAPSHOT", "messages": self._messages})
            + event({"type": "STATE_SNAPSHOT", "snapshot": state})
            + _custom("rewind", {"seq": 0})
        )

    def failed(self, problem: ApexError) -> bytes:
        return event({"type": "RUN_ERROR", "message": str(problem), "code": problem.code})
