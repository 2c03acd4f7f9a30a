"""Values to bytes and back: the only place in the platform that reads or writes Avro.

Every record starts with the identity of its schema: single-object encoding (``C3 01`` and the fingerprint), or with a
schema registry Confluent's framing (``00`` and the registered id). One decoder reads both. Bytes that are not a record of
a known schema give one :class:`ChunkDecodeError`, whatever is wrong with them.
"""

import contextlib
from collections.abc import Mapping
from io import BytesIO
from typing import Any, Final, TypeVar

import fastavro
import msgspec

from apexstream.contracts import run_codec
from apexstream.contracts.diagnose import read_record
from apexstream.contracts.fingerprint import FINGERPRINT_BYTES
from apexstream.contracts.run_codec import RunEncoder
from apexstream.contracts.schemas import Schema, Schemas, load_schemas
from apexstream.core.chunk import FROM_UNKNOWN, HASH_BYTES, RUN_CHUNKS_MAX, Chunk, ChunkRun, Kind
from apexstream.core.errors import ChunkDecodeError, InvalidConfiguration, InvalidRequest
from apexstream.core.events import (
    ArchiveProgress,
    Assignment,
    ControlCommand,
    CoordinationEvent,
    DeadLetter,
    Event,
    PathState,
    Pipeline,
    PipelineRow,
    QueueState,
    RunnerState,
    Segment,
    SegmentChunks,
    SegmentPage,
    StreamState,
    TaskEvent,
    TaskSubmitted,
    TicketUsed,
    WindowStats,
)

STREAM_VALUE_BYTES_MAX: Final = 8 * 1024 * 1024  # runs and segments: what a broker lets a batch decompress to
EVENT_VALUE_BYTES_MAX: Final = 1024 * 1024  # everything else, whose parts can take many times their size in memory
RUN_SUBJECT: Final = "chunk-run"
SUBJECTS: Final[Mapping[type[Event], str]] = {
    TaskSubmitted: "task-submitted",
    TaskEvent: "task-event",
    Assignment: "assignment",
    RunnerState: "runner-state",
    ControlCommand: "control-command",
    CoordinationEvent: "coordination-event",
    DeadLetter: "dead-letter",
    QueueState: "queue-state",
    Segment: "segment",
    SegmentChunks: "segment-chunks",
    SegmentPage: "segment-page",
    StreamState: "stream-state",
    ArchiveProgress: "archive-progress",
    PathState: "path-state",
    Pipeline: "pipeline",
    PipelineRow: "pipeline-row",
    WindowStats: "window-stats",
    TicketUsed: "ticket-used",
}
_SINGLE_OBJECT = b"\xc3\x01"
_CONFLUENT = b"\x00"
_ID_BYTES = 4

E = TypeVar("E", bound=Event)


class Codec:
    """Encodes the newest version of every message, decodes every version.

    ``registry_ids`` maps schema names (``task-event.v1``) to the ids that a schema registry gave them. With it, records
    are framed for that registry; without it, they carry fingerprints. Instances do not change and may be shared.
    """

    def __init__(self, registry_ids: Mapping[str, int] | None = None, schemas: Schemas | None = None) -> None:
        known = load_schemas() if schemas is None else schemas
        self._by_fingerprint = known.by_fingerprint
        self._by_frame = _by_frame(known, registry_ids or {})
        self._avro = {schema.name: _Avro(schema, known.newest(schema.subject)) for schema in known.all}
        self._written = {kind: known.newest(subject) for kind, subject in SUBJECTS.items()}
        self._frames = {kind: _frame(schema, registry_ids) for kind, schema in self._written.items()}
        self._run_frame = _frame(_known_by_hand(known.newest(RUN_SUBJECT)), registry_ids)

    def encode(self, event: Event) -> bytes:
        """The value of the record that carries ``event``; raise :class:`InvalidRequest` for what no reader would accept."""
        kind = type(event)
        schema = self._written[kind]
        try:
            body = self._avro[schema.name].write(msgspec.to_builtins(event, builtin_types=(bytes,)))
        except (ValueError, TypeError, OverflowError) as problem:
            raise InvalidRequest(f"cannot be encoded: {problem}", where=schema.name) from None
        value = self._frames[kind] + body
        if len(value) > _bytes_max(kind):
            raise InvalidRequest(f"{len(value)} bytes; at most {_bytes_max(kind)} are allowed", where=schema.name)
        return value

    def decode(self, data: bytes | None, expected: type[E]) -> E:
        """The ``expected`` message in a record's value; raise :class:`ChunkDecodeError` if there is no such thing in it."""
        value = _value(data, _bytes_max(expected))
        schema, start = self._open(value, SUBJECTS[expected])
        try:
            event = msgspec.convert(self._avro[schema.name].read(value[start:]), expected)
        except msgspec.ValidationError as problem:
            raise ChunkDecodeError("bad_enum", str(problem), where=schema.name) from None
        if getattr(event, "attempt", 0) < 0:
            raise ChunkDecodeError("out_of_range", "a negative attempt", where=schema.name)
        return event

    def run_encoder(self, stream_id: str, attempt: int, writer: str) -> RunEncoder:
        """An encoder for the runs of one attempt at one stream; saves a third of what :meth:`encode_run` costs a lone chunk."""
        return RunEncoder(self._run_frame, stream_id, attempt, writer)

    def encode_run(self, run: ChunkRun, previous_hash: bytes) -> tuple[bytes, bytes]:
        """The value of the record that carries ``run`` and the hash in it, which chains it to ``previous_hash``.

        A fence keeps the hash that it has: that of the place it goes on from. Raise :class:`InvalidChunk` for what no
        reader would accept.
        """
        fence = len(run.chunks) == 1 and run.chunks[0].kind.fences
        encoder = self.run_encoder(run.stream_id, run.attempt, run.writer)
        return encoder.encode(run.first_seq, run.chunks, run.checkpoint, run.hash if fence else previous_hash)

    def decode_run(self, data: bytes | None) -> ChunkRun:
        """The run in a record's value, with ``body`` and ``hash``; raise :class:`ChunkDecodeError` if there is none in it."""
        value = _value(data, STREAM_VALUE_BYTES_MAX)
        schema, start = self._open(value, RUN_SUBJECT)
        if schema.fingerprint == run_codec.FINGERPRINT:
            with contextlib.suppress(*run_codec.NOT_READ):
                return run_codec.read_run(value, start)
        body = value[start:]
        return _run(self._avro[schema.name].judge(body), body, schema.name)

    def _open(self, value: bytes, subject: str) -> tuple[Schema, int]:
        """The schema that ``value`` says it is written with, which must be one of ``subject``, and where its record starts."""
        if value.startswith(_SINGLE_OBJECT):
            start = len(_SINGLE_OBJECT) + FINGERPRINT_BYTES
            schema = self._by_fingerprint.get(value[len(_SINGLE_OBJECT) : start])
        else:
            start = len(_CONFLUENT) + _ID_BYTES
            schema = self._by_frame.get(value[:start])
        if schema is None or schema.subject != subject:
            found = schema.name if schema else value[:start].hex(" ")
            raise ChunkDecodeError("unknown_schema", f"the record starts with {found}, which is no {subject}")
        return schema, start


class _Avro:
    """One schema as fastavro reads and writes it; what an older one says is given as the ``newest`` understands it."""

    def __init__(self, schema: Schema, newest: Schema) -> None:
        self._schema = schema
        self._parsed = fastavro.parse_schema(dict(schema.definition))
        self._newest = None if newest is schema else fastavro.parse_schema(dict(newest.definition))

    def write(self, value: Mapping[str, Any]) -> bytes:
        sink = BytesIO()
        fastavro.schemaless_writer(sink, self._parsed, value)
        return sink.getvalue()

    def read(self, body: bytes) -> dict[str, Any]:
        # fastavro takes negative indexes, numbers out of range and trailing bytes: only bytes that it would have written
        # itself are taken on its word. Whatever it stumbles over, the strict reader finds again and names.
        with contextlib.suppress(Exception):
            value: Any = fastavro.schemaless_reader(BytesIO(body), self._parsed, None)
            if self.write(value) == body:
                return self._as_newest(value)
        return self.judge(body)

    def judge(self, body: bytes) -> dict[str, Any]:
        return self._as_newest(read_record(self._schema.shape, body))

    def _as_newest(self, value: dict[str, Any]) -> dict[str, Any]:
        if self._newest is None:
            return value
        try:
            resolved: Any = fastavro.schemaless_reader(BytesIO(self.write(value)), self._parsed, self._newest)
        except fastavro.read.SchemaResolutionError as problem:
            raise ChunkDecodeError("bad_enum", str(problem), where=self._schema.name) from None
        return dict(resolved)


def _bytes_max(kind: type[Event]) -> int:
    return STREAM_VALUE_BYTES_MAX if kind is Segment else EVENT_VALUE_BYTES_MAX


def _value(data: bytes | None, bytes_max: int) -> bytes:
    if not data:
        raise ChunkDecodeError("empty", "a record without a value")
    if len(data) > bytes_max:
        raise ChunkDecodeError("too_large", f"{len(data)} bytes; at most {bytes_max} are read")
    return data


def _known_by_hand(schema: Schema) -> Schema:
    if schema.fingerprint != run_codec.FINGERPRINT:
        raise InvalidConfiguration(
            f"{schema.name} is not the schema that run_codec is written for",
            where=f"schemas/events/{schema.name}.avsc",
            hint="Change contracts/run_codec.py together with the schema",
        )
    return schema


def _frame(schema: Schema, registry_ids: Mapping[str, int] | None) -> bytes:
    if registry_ids is None:
        return _SINGLE_OBJECT + schema.fingerprint
    number = registry_ids.get(schema.name)
    if number is None:
        raise InvalidConfiguration(
            f"{schema.name} has no id", where="schema registry", hint="Register all schemas first"
        )
    return _registry_frame(schema.name, number)


def _registry_frame(name: str, number: int) -> bytes:
    if not 0 <= number < 1 << 8 * _ID_BYTES:
        raise InvalidConfiguration(f"{number} is not an id", where=f"schema registry, {name}")
    return _CONFLUENT + number.to_bytes(_ID_BYTES, "big")


def _by_frame(known: Schemas, registry_ids: Mapping[str, int]) -> dict[bytes, Schema]:
    """What a registered record starts with, to its schema. Names that this version does not know yet are left out."""
    return {
        _registry_frame(schema.name, registry_ids[schema.name]): schema
        for schema in known.all
        if schema.name in registry_ids
    }


def _run(value: Mapping[str, Any], body: bytes, where: str) -> ChunkRun:
    """The run that a decoded record means; its limits are those of ``core.chunk``."""
    chunks = value["chunks"]
    if value["attempt"] < 0 or value["first_seq"] < FROM_UNKNOWN or len(chunks) > RUN_CHUNKS_MAX:
        what = f"attempt {value['attempt']}, first seq {value['first_seq']}, {len(chunks)} chunks"
        raise ChunkDecodeError("out_of_range", what, where=where)
    return ChunkRun(
        value["stream_id"],
        value["attempt"],
        value["writer"],
        value["first_seq"],
        tuple(_chunk(chunk) for chunk in chunks),
        value["checkpoint"],
        value["hash"],
        body[:-HASH_BYTES],
    )


def _chunk(value: Mapping[str, Any]) -> Chunk:
    kind = Kind[value["kind"].upper()]
    return Chunk(kind, value["payload"], value["event_time_us"], value["content_type"])
