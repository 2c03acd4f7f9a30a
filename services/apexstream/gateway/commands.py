"""What a client may say over the WebSocket. Pure.

``id`` is the client's own; the answer to the command carries it. Without one, only what could not be followed is answered.
"""

from typing import Annotated, Any

import msgspec

from apexstream.core.errors import InvalidRequest
from apexstream.core.ids import check_id
from apexstream.core.strict_json import check_keys
from apexstream.gateway.cursors import CURSOR_CHARACTERS_MAX, SEQ_MAX

COMMAND_BYTES_MAX = 64 * 1024
RATE_MAX = 1_000_000
REASON_CHARACTERS_MAX = 200
TAIL_MAX = 100_000

FromSeq = Annotated[int, msgspec.Meta(ge=0, le=SEQ_MAX)]
Cursor = Annotated[str, msgspec.Meta(max_length=CURSOR_CHARACTERS_MAX)]
Tail = Annotated[int, msgspec.Meta(ge=0, le=TAIL_MAX)]
TimeUs = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Rate = Annotated[int, msgspec.Meta(ge=0, le=RATE_MAX)]
_Id = Annotated[str, msgspec.Meta(max_length=64)] | int | None


class _Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    id: _Id = None


class Subscribe(_Command, frozen=True, kw_only=True, tag="subscribe"):
    """Send the stream from a place on, and everything that follows. The place is one of: the ``cursor`` of a place reached
    before; ``from_seq``; the last ``tail`` chunks (0: only what comes next); ``from_time``, microseconds since the epoch.

    ``cursors``: every message carries its cursor. ``batches``: messages that are sent together are one JSON array.
    ``rate``: at most so many chunks a second (0: as they come). ``view``: the stream as these operators show it; cursors are
    then of the view.
    """

    stream_id: str
    from_seq: FromSeq | None = None
    cursor: Cursor | None = None
    tail: Tail | None = None
    from_time: TimeUs | None = None
    cursors: bool = False
    batches: bool = False
    rate: Rate = 0
    view: dict[str, Any] | None = None


class Unsubscribe(_Command, frozen=True, kw_only=True, tag="unsubscribe"):
    """Send nothing more of the stream."""

    stream_id: str


class Hold(_Command, frozen=True, kw_only=True, tag="hold"):
    """Send nothing of the stream until ``release``; the stream itself goes on."""

    stream_id: str


class Release(_Command, frozen=True, kw_only=True, tag="release"):
    """Go on sending, where ``hold`` stopped."""

    stream_id: str


class Pace(_Command, frozen=True, kw_only=True, tag="pace"):
    """Send at most ``rate`` chunks a second of the stream from now on; 0: as they come."""

    stream_id: str
    rate: Rate


class Watch(_Command, frozen=True, kw_only=True, tag="watch"):
    """Send the task's state, now and whenever it changes."""

    task_id: str


class Unwatch(_Command, frozen=True, kw_only=True, tag="unwatch"):
    """Send no more of the task's state."""

    task_id: str


class Cancel(_Command, frozen=True, kw_only=True, tag="cancel"):
    """Ask for the task's end. Its stream ends with a receipt."""

    task_id: str
    reason: Annotated[str, msgspec.Meta(max_length=REASON_CHARACTERS_MAX)] = "cancelled by request"


class Pause(_Command, frozen=True, kw_only=True, tag="pause"):
    """Hold the running task at its next yield, for everybody."""

    task_id: str


class Resume(_Command, frozen=True, kw_only=True, tag="resume"):
    """Let the paused task go on."""

    task_id: str


class Authenticate(_Command, frozen=True, kw_only=True, tag="authenticate"):
    """Say who this is: by a token, or a one-time ticket."""

    token: str = ""
    ticket: str = ""


class Ping(_Command, frozen=True, kw_only=True, tag="ping"):
    """Answered with a pong."""


Command = (
    Subscribe | Unsubscribe | Hold | Release | Pace | Watch | Unwatch | Cancel | Pause | Resume | Authenticate | Ping
)
_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Command)
_PLACES = ("from_seq", "cursor", "tail", "from_time")


def read_command(text: str | bytes) -> Command:
    """Parse a client's message; :class:`InvalidRequest` says what is wrong with it."""
    try:
        command: Command = _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as problem:
        raise InvalidRequest(
            str(problem), where="message", hint='Send JSON such as {"type":"subscribe","stream_id":"..."}'
        ) from None
    check_keys(text, "message")
    for name in ("stream_id", "task_id"):
        if hasattr(command, name):
            check_id(getattr(command, name), name)
    if isinstance(command, Subscribe):
        check_place(command, "subscribe")
    return command


def check_place(asked: Any, where: str) -> None:
    """Raise :class:`InvalidRequest` if ``asked`` names more than one place to start from."""
    places = [name for name in _PLACES if getattr(asked, name) is not None]
    if len(places) > 1:
        raise InvalidRequest(f"{' and '.join(places)} name two places", where=where, hint="Give one of them")
