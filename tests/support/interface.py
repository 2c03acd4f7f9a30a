"""The WebSocket's interface as data: JSON Schema of all messages, and the AsyncAPI 3 document, made from the types that read and
write them. ``python -m tests.support.interface`` writes both into ``schemas/gateway``; a test says when that is due."""

import json
from pathlib import Path
from typing import Any

import msgspec

from apexstream.client import frames
from apexstream.gateway import commands, messages

FOLDER = Path(__file__).parents[2] / "schemas" / "gateway"
_STREAM = (frames.Update, frames.Progress, frames.Complete, frames.Error, frames.Cancelled, frames.Rewind)
_AT = "#/$defs/{name}"


class TaskMessage(msgspec.Struct, frozen=True, tag_field="type", tag="task"):
    """The state of a task that is watched, as ``GET /tasks/{id}`` gives it."""

    task: dict[str, Any]


def said_by_client() -> list[type]:
    return list(commands.Command.__args__)


def said_by_server() -> list[type]:
    return [*_STREAM, *messages.Message.__args__, TaskMessage]


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12): ``client`` and ``server`` are what either may say."""
    kinds = [*said_by_client(), *said_by_server()]
    _, parts = msgspec.json.schema_components(kinds, ref_template=_AT)
    names = {kind: kind.__name__ for kind in kinds}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {
            **dict(sorted(parts.items())),
            "client": {"oneOf": [{"$ref": _AT.format(name=names[kind])} for kind in said_by_client()]},
            "server": {"oneOf": [{"$ref": _AT.format(name=names[kind])} for kind in said_by_server()]},
        },
    }


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3 document, which refers to the schema beside it."""
    kinds = [*said_by_client(), *said_by_server()]
    file = "./messages.schema.json"
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "ApexStream", "version": "1", "description": "Streams over a WebSocket; see PROTOCOL.md."},
        "channels": {
            "stream": {
                "address": "/stream",
                "messages": {kind.__name__: {"$ref": f"#/components/messages/{kind.__name__}"} for kind in kinds},
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            }
        },
        "operations": {
            "command": _operation("receive", "What a client says.", said_by_client()),
            "show": _operation("send", "What a client is sent.", said_by_server()),
        },
        "components": {
            "messages": {
                kind.__name__: {
                    "name": kind.__struct_config__.tag,
                    "contentType": "application/json",
                    "summary": " ".join((kind.__doc__ or "").split()),
                    "payload": {"$ref": f"{file}#/$defs/{kind.__name__}"},
                }
                for kind in kinds
            }
        },
    }


def _operation(action: str, summary: str, kinds: list[type]) -> dict[str, Any]:
    return {
        "action": action,
        "summary": summary,
        "channel": {"$ref": "#/channels/stream"},
        "messages": [{"$ref": f"#/channels/stream/messages/{kind.__name__}"} for kind in kinds],
    }


def files() -> dict[str, str]:
    """What the files hold."""
    made = {"messages.schema.json": schema(), "asyncapi.json": asyncapi()}
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in made.items()}


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text)
