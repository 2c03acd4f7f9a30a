"""The UI message stream of the AI SDK, version 1: what ``useChat`` reads. Pure.

One run of a task is one message of one step. All texts of a stream are one text part, whose beginning and end belong to the
reader: only the deltas between are the same for all. After a rewind ``reset-step`` drops the parts, and all is told again.
"""

import base64

import msgspec

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.errors import ApexError
from apexstream.gateway.chat.dialect import END, Joined, event, text_of, type_of, why_of
from apexstream.gateway.encoding import Encoder
from apexstream.gateway.viewed import in_one_line

TEXT = "text"  # the id of the part that holds all texts
PASSED = frozenset({
    "text-start", "text-delta", "text-end", "reasoning-start", "reasoning-delta", "reasoning-end", "reasoning-file",
    "tool-input-start", "tool-input-delta", "tool-input-available", "tool-input-error", "tool-approval-request",
    "tool-approval-response", "tool-output-available", "tool-output-error", "tool-output-denied",
    "source-url", "source-document", "file", "custom", "message-metadata",
})  # fmt: skip
"""Types of objects that a plugin may yield and that are told as they are; so is every ``data-…``."""

_DONE = b"data: [DONE]\n\n"
_START_STEP = event({"type": "start-step"})
_RESET_STEP = event({"type": "reset-step"})
_DELTA = b'data: {"type":"text-delta","id":"text","delta":'
_TEXT_START = event({"type": "text-start", "id": TEXT})
_TEXT_END = event({"type": "text-end", "id": TEXT})


def _finish(reason: str) -> bytes:
    return event({"type": "finish", "finishReason": reason}) + _DONE


class UiMessageStream:
    """The encoding."""

    name = "ui-messages"

    def open(self, stream_id: str) -> Encoder:  # noqa: ARG002 - the encoding's signature
        return _Parts()


class _Parts(Joined):
    __slots__ = ()

    def chunk(self, seq: int, rewinds: int, chunk: Chunk) -> bytes:  # noqa: ARG002 - the encoder's signature
        match chunk.kind:
            case Kind.DATA:
                return _part(seq, chunk)
            case Kind.PROGRESS:
                progress = msgspec.Raw(in_one_line(chunk.payload))
                return event({"type": "data-progress", "id": "progress", "data": progress})
            case Kind.COMPLETE:
                return END + event({"type": "finish-step"}) + _finish("stop")
            case Kind.ERROR:
                return END + event({"type": "error", "errorText": why_of(chunk)[0]}) + _finish("error")
            case _:
                return END + event({"type": "abort", "reason": why_of(chunk)[0]}) + _finish("other")


def _part(seq: int, chunk: Chunk) -> bytes:
    text = text_of(chunk)
    if text is not None:
        return b"%b%b}\n\n" % (_DELTA, msgspec.json.encode(text)) if text else b""
    if chunk.content_type:
        address = f"data:{chunk.content_type};base64,{base64.b64encode(chunk.payload).decode()}"
        return event({"type": "file", "mediaType": chunk.content_type, "url": address})
    kind = type_of(chunk)
    payload = in_one_line(chunk.payload)
    if kind in PASSED or (kind.startswith("data-") and kind != "data-"):
        return b"data: %b\n\n" % payload
    return event({"type": "data-chunk", "id": str(seq), "data": msgspec.Raw(payload or b"null")})


class UiMessages:
    """The stream of a task as one message; see :class:`apexstream.gateway.chat.dialect.Dialect`.

    ``known``: so many events of it the reader has, and goes on with. What they were depends on when it read, so all parts are
    told again, and take the place of those that it has.
    """

    encoding = UiMessageStream()

    def __init__(self, stream_id: str, known: int = 0) -> None:
        self._stream_id = stream_id
        self._known = known
        self._in_text = False

    @property
    def headers(self) -> dict[str, str]:
        """What makes the answer one that clients of the protocol take."""
        return {
            "x-vercel-ai-ui-message-stream": "v1",
            "x-workflow-run-id": self._stream_id,
            "cache-control": "no-cache",
        }

    def begin(self) -> bytes:
        if self._known > 1:
            return _RESET_STEP
        return _START_STEP if self._known else event({"type": "start", "messageId": self._stream_id}) + _START_STEP

    def shown(self, data: bytes) -> bytes:
        at = -1 if self._in_text else data.find(_DELTA)
        if at >= 0:
            self._in_text = True
            data = data[:at] + _TEXT_START + data[at:]
        before, end, after = data.rpartition(END)
        return before + (_TEXT_END if self._in_text else b"") + after if end else data

    def again(self) -> bytes:
        self._in_text = False
        return _RESET_STEP

    def failed(self, problem: ApexError) -> bytes:
        return event({"type": "error", "errorText": str(problem)}) + _finish("error")
