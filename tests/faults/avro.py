"""Reads the platform's records with fastavro and the ``.avsc`` files alone: none of the product's own readers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

SCHEMAS = Path(__file__).parents[2] / "schemas" / "events"
MAGIC = b"\xc3\x01"  # Avro's single-object encoding: this, the schema's fingerprint (8 bytes), the record
FRAME_BYTES = 10
HASH_BYTES = 16


class Unreadable(ValueError):
    """Bytes that are not a record of a schema in ``schemas/events``."""


@dataclass(frozen=True, slots=True)
class Read:
    """A record: the ``subject`` of its schema, its fields, and its bytes without the frame."""

    subject: str
    fields: Mapping[str, Any]
    body: bytes


class Reader:
    """Every version of every schema in the folder, by the fingerprint that records start with."""

    def __init__(self, folder: Path = SCHEMAS) -> None:
        self._known: dict[bytes, tuple[str, Any]] = {}
        for path in sorted(folder.glob("*.avsc")):
            definition = json.loads(path.read_bytes())
            mark = bytes.fromhex(fingerprint(to_parsing_canonical_form(definition), "CRC-64-AVRO"))
            self._known[mark] = path.name.partition(".")[0], fastavro.parse_schema(definition)

    def read(self, value: bytes | None, *subjects: str) -> Read:
        """The record in ``value``, which must be of one of ``subjects``; :class:`Unreadable` for anything else."""
        if value is None or not value.startswith(MAGIC):
            raise Unreadable("no single-object frame")
        subject, schema = self._known.get(value[2:FRAME_BYTES], ("", None))
        if schema is None or subject not in subjects:
            raise Unreadable(f"schema {value[2:FRAME_BYTES].hex()} ({subject or 'unknown'}) is none of {subjects}")
        return Read(subject, _read(schema, value[FRAME_BYTES:]), value[FRAME_BYTES:])


def _read(schema: Any, data: bytes) -> Any:
    source = BytesIO(data)
    try:
        value = fastavro.schemaless_reader(source, schema, None)
    except Exception as problem:
        raise Unreadable(f"fastavro: {problem!r}") from problem
    if source.tell() != len(data):
        raise Unreadable(f"{len(data) - source.tell()} bytes after the record")
    return value
