"""What the WebSocket sends besides streams: answers, states of tasks, and the farewell. Pure."""

from typing import Any

import msgspec

from apexstream.core.errors import ApexError
from apexstream.core.task import TaskState
from apexstream.gateway.tasks import shown

Id = str | int | None


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as every protocol shows it."""

    code: str
    message: str
    where: str = ""
    hint: str = ""


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", omit_defaults=True):
    pass


class Subscribed(_Message, frozen=True, kw_only=True, tag="subscribed"):
    """The stream is there, and sent from ``seq`` on, which is ``cursor``. ``recovered`` is false if a rewind took back
    something that the client has: then a ``stream_rewind`` follows."""

    id: Id = None
    stream_id: str
    seq: int
    cursor: str
    recovered: bool


class Waiting(_Message, frozen=True, kw_only=True, tag="waiting"):
    """There is no such stream yet. It is sent as soon as it begins; ``subscribed`` will say so."""

    id: Id = None
    stream_id: str


class Done(_Message, frozen=True, kw_only=True, tag="done"):
    """The command was followed. ``cursor`` is where the client is in the stream that it is about, if it is about one."""

    id: Id = None
    cursor: str | None = None


class Refused(_Message, frozen=True, kw_only=True, tag="error"):
    """A command could not be followed, or a stream not be sent any further; the socket stays open."""

    error: Problem
    id: Id = None
    stream_id: str = ""


class Authenticated(_Message, frozen=True, kw_only=True, tag="authenticated"):
    """The token or ticket is accepted: who the client is, until when (seconds since the epoch; not there: for ever)."""

    id: Id = None
    subject: str
    tenant: str = ""
    expires: int | None = None


class Expiring(_Message, frozen=True, kw_only=True, tag="expiring"):
    """The client's token expires in so many seconds: authenticate again in time, or the socket is closed."""

    in_s: float


class Pong(_Message, frozen=True, kw_only=True, tag="pong"):
    """The answer to a ping."""

    id: Id = None


class Closing(_Message, frozen=True, kw_only=True, tag="closing"):
    """The last message: the socket is closed with ``code``, and ``cursors`` say where to go on in each stream."""

    code: int
    reason: str
    cursors: dict[str, str]


Message = Subscribed | Waiting | Done | Refused | Authenticated | Expiring | Pong | Closing


def refused(problem: ApexError, *, command_id: Id = None, stream_id: str = "") -> Refused:
    """What tells of ``problem``."""
    said: dict[str, Any] = problem.as_dict()
    return Refused(error=Problem(**said), id=command_id, stream_id=stream_id)


def task_message(state: TaskState) -> bytes:
    """The state of a task that is watched."""
    return msgspec.json.encode({"type": "task", "task": shown(state)})
