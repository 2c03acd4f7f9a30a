"""Tools and their results, as values. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from apexstream.client.model import Action
from apexstream.client.problems import Problem

SEPARATOR = "__"  # of plugin and action in a tool's name: some hosts allow no dot
READ, CANCEL, TASK = "apex_read_stream", "apex_cancel_task", "apex_task"
WAIT_S_MAX = 600
READ_WAIT_S = 30


class Chunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``content_type`` is empty for JSON; ``encoding`` is ``base64`` where ``data`` holds bytes."""

    seq: int
    data: Any
    content_type: str = ""
    encoding: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a call has read. Go on behind ``cursor`` with ``apex_read_stream``, or at ``address`` over HTTP, unless ``finished``.

    ``forget_from``: a new attempt took back every chunk from this seq on that earlier calls gave. ``hint``: why it is not
    finished, and what to do.
    """

    stream_id: str
    address: str
    cursor: str
    finished: bool
    status: Literal["open", "complete", "error", "cancelled", "unreadable"]
    chunks: list[Chunk]
    forget_from: int | None = None
    error: Problem | None = None
    receipt: dict[str, Any] | None = None
    hint: str = ""


class ReadStream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read a stream on: behind the ``cursor`` of an earlier result or progress message, or from its beginning. Returns when the
    stream has ended, the result is full, or ``wait_s`` seconds are over."""

    stream_id: str
    cursor: str = ""
    wait_s: int = READ_WAIT_S


class CancelTask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask for the end of a task. Its stream ends with a receipt."""

    task_id: str
    reason: str = "cancelled over MCP"


class TaskState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Say how a task stands."""

    task_id: str


OWN: Mapping[str, type[ReadStream | CancelTask | TaskState]] = {READ: ReadStream, CANCEL: CancelTask, TASK: TaskState}
"""The tools that no plugin offers."""


def tool_name(plugin: str, action: str) -> str:
    """The name of an action's tool."""
    return f"{plugin}{SEPARATOR}{action}"


def find(name: str, actions: Iterable[Action]) -> Action | None:
    """The action that a tool stands for."""
    return next((each for each in actions if tool_name(each.plugin, each.action) == name), None)


def schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON Schema of a struct, an object at its root as tools want it."""
    _, components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    root = components.pop(kind.__name__)
    return {**root, "$defs": components} if components else root
