"""What a new version of a schema may change: nothing that keeps any version's readers from any version's records.

Services are upgraded one at a time and logs are older than the code that reads them, so old and new must understand each
other both ways. The rules of Avro itself come from whoever asks (the tests hand in those of the ``avro`` package).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import Any

from apexstream.contracts.schemas import Schema, Schemas
from apexstream.contracts.shape import Fixed
from apexstream.core.chunk import HASH_BYTES

#: Given the reader's and the writer's schema (parsed JSON), why the one cannot read what the other writes; empty: it can.
Objections = Callable[[Any, Any], Sequence[str]]


def violations(schemas: Schemas, objections: Objections) -> tuple[str, ...]:
    """Every rule that ``schemas`` break, a line each with the version and the reason; empty if there is none."""
    subjects = sorted({schema.subject for schema in schemas.all})
    return tuple(line for subject in subjects for line in _violations(schemas.versions(subject), objections))


def _violations(versions: Sequence[Schema], objections: Objections) -> Iterator[str]:
    numbers = [schema.version for schema in versions]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"{versions[0].subject}: versions are {numbers}; number them from 1 without a gap"
    for reader, writer in permutations(versions, 2):
        for objection in objections(reader.definition, writer.definition):
            yield f"{reader.name} cannot read {writer.name}: {objection}"
    for schema in versions:
        if schema.subject == "chunk-run" and not _ends_in_hash(schema):
            yield f"{schema.name}: the hash must be the last field, a fixed of {HASH_BYTES} bytes: it covers all before it"


def _ends_in_hash(schema: Schema) -> bool:
    name, shape = schema.shape.fields[-1]
    return name == "hash" and isinstance(shape, Fixed) and shape.bytes_min == HASH_BYTES
