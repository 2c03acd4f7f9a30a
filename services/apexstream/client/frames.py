"""What a viewer of a stream receives: one typed value a frame of the gateway's WebSocket protocol.

The JSON form of a frame is its wire form, so decoding and encoding again changes nothing that it says.
"""

from base64 import b64decode
from typing import Any

import msgspec

from apexstream.client.problems import Problem
from apexstream.core.errors import DataCorruption


class _StreamFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    """``seq`` is the frame's dense number in stream ``stream_id``, from 0. ``cursor`` is where a reader is that has the frame: to
    be kept, and handed to :meth:`Client.follow` to go on there."""

    stream_id: str
    seq: int
    cursor: str = ""


class Update(_StreamFrame, frozen=True, kw_only=True, tag="stream_update"):
    """One chunk. ``content_type`` is empty for JSON; ``encoding`` is ``base64`` where ``data`` holds bytes."""

    data: Any
    content_type: str = ""
    encoding: str = ""

    @property
    def value(self) -> Any:
        """The chunk as the plugin yielded it: a JSON value, a string, or bytes."""
        return b64decode(self.data) if self.encoding == "base64" else self.data


class ProgressReport(msgspec.Struct, frozen=True, kw_only=True):
    """How far a task says it is: ``percentage`` from 0 to 100, or None where it cannot know."""

    percentage: float | None = None
    message: str = ""
    status: str = ""


class Progress(_StreamFrame, frozen=True, kw_only=True, tag="stream_progress"):
    """The task reported how far it is."""

    progress: ProgressReport


class Complete(_StreamFrame, frozen=True, kw_only=True, tag="stream_complete"):
    """The stream ended well; nothing follows."""


class Error(_StreamFrame, frozen=True, kw_only=True, tag="stream_error"):
    """The stream ended with an error; nothing follows."""

    error: Problem


class Cancelled(_StreamFrame, frozen=True, kw_only=True, tag="stream_cancelled"):
    """The stream was cancelled; ``data`` is the receipt: where it stopped, and how long stopping took."""

    data: dict[str, Any] = {}


class Rewind(_StreamFrame, frozen=True, kw_only=True, tag="stream_rewind"):
    """A new attempt goes on at ``seq``: forget every frame from there on. It takes no seq itself."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """The gateway refused a command; the connection stays open."""

    error: Problem
    stream_id: str = ""


class Pong(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="pong"):
    """The answer to a ping."""


Frame = Update | Progress | Complete | Error | Cancelled | Rewind
EndFrame = Complete | Error | Cancelled

_KNOWN = frozenset(struct.__struct_config__.tag for struct in (*Frame.__args__, Refused, Pong))


class _Tag(msgspec.Struct, frozen=True):
    type: str = ""


_frame_decoder = msgspec.json.Decoder(Frame | Refused | Pong)
_tag_decoder = msgspec.json.Decoder(_Tag)


def decode_frame(message: str | bytes) -> Frame | Refused | Pong | None:
    """The value of one WebSocket message; None for a type that this version does not know.

    An unknown type is passed over because seq is dense: if it carried content, the gap shows. Raises
    :class:`DataCorruption` for anything that is not a frame.
    """
    try:
        frame: Frame | Refused | Pong = _frame_decoder.decode(message)
    except msgspec.MsgspecError as problem:
        if _foreign(message):
            return None
        raise DataCorruption(f"not a frame of the stream protocol: {problem}", where="gateway") from None
    return frame


def encode_frame(frame: Frame) -> bytes:
    """The JSON form of a frame, on one line."""
    return msgspec.json.encode(frame)


def _foreign(message: str | bytes) -> bool:
    try:
        kind = _tag_decoder.decode(message).type
    except msgspec.MsgspecError:
        return False
    return bool(kind) and kind not in _KNOWN
