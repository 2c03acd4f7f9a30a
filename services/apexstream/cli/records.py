"""Raw records of topics as JSON values, for people who look into the log. Pure."""

from base64 import b64encode
from typing import Any

import msgspec

from apexstream.contracts.catalogue import Topic
from apexstream.contracts.codec import RUN_SUBJECT, SUBJECTS, Codec
from apexstream.core.chunk import Chunk, ChunkRun
from apexstream.core.errors import ChunkDecodeError
from apexstream.log.fetcher import Partition, Record

_EVENT_OF = {subject: kind for kind, subject in SUBJECTS.items()}


def describe_record(topic: Topic, partition: Partition, record: Record, codec: Codec) -> dict[str, Any]:
    """A record with its place and its decoded value; ``value`` is null for a tombstone.

    One that cannot be decoded has ``error`` and the bytes as base64 in ``undecoded`` instead.
    """
    place: dict[str, Any] = {
        "topic": partition[0],
        "partition": partition[1],
        "offset": record.offset,
        "timestamp_ms": record.timestamp,
        "key": None if record.key is None else record.key.decode("utf-8", "backslashreplace"),
    }
    if record.value is None:
        return {**place, "value": None}
    try:
        return {**place, "value": _value(topic.value, record.value, codec)}
    except ChunkDecodeError as problem:
        return {**place, "error": problem.as_dict(), "undecoded": b64encode(record.value).decode()}


def _value(subject: str, data: bytes, codec: Codec) -> Any:
    if subject == RUN_SUBJECT:
        return _run(codec.decode_run(data))
    return _plain(codec.decode(data, _EVENT_OF[subject]))


def _run(run: ChunkRun) -> dict[str, Any]:
    return {
        "stream_id": run.stream_id,
        "attempt": run.attempt,
        "writer": run.writer,
        "first_seq": run.first_seq,
        "chunks": [_chunk(chunk) for chunk in run.chunks],
        "checkpoint_bytes": None if run.checkpoint is None else len(run.checkpoint),
        "hash": run.hash.hex(),
    }


def _chunk(chunk: Chunk) -> dict[str, Any]:
    shown: dict[str, Any] = {"kind": chunk.kind.name.lower(), "event_time_us": chunk.event_time_us}
    if chunk.content_type:
        shown["content_type"] = chunk.content_type
    if chunk.content_type.startswith("text/"):
        return {**shown, "payload": chunk.payload.decode("utf-8", "backslashreplace")}
    return {**shown, "payload": None if not chunk.payload else _json_or_base64(chunk.payload)}


def _plain(value: Any) -> Any:
    """``value`` with structs as objects and the JSON that events carry as bytes opened up."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return _json_or_base64(value) if value else None
    return value


def _json_or_base64(data: bytes) -> Any:
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError):
        return {"base64": b64encode(data).decode()}
    return msgspec.Raw(data)
