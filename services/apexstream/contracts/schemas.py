"""The allow-list of record schemas, read from ``schemas/events``: every version can be read, the newest is written."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from apexstream.contracts.fingerprint import fingerprint
from apexstream.contracts.shape import Record, UnsafeSchema, shape_of
from apexstream.core.errors import InvalidConfiguration

_PACKAGE = Path(__file__).resolve().parents[1]
_FILE_NAME = re.compile(r"(?P<subject>[a-z][a-z0-9-]*)\.v(?P<version>[1-9][0-9]{0,3})\.avsc")


@dataclass(frozen=True, slots=True)
class Schema:
    """One version of one subject. ``fingerprint`` is as it stands in records: 8 bytes, little-endian."""

    subject: str
    version: int
    definition: Mapping[str, Any]
    shape: Record
    fingerprint: bytes

    @property
    def name(self) -> str:
        """``<subject>.v<version>``, the file's name without its ending."""
        return f"{self.subject}.v{self.version}"


@dataclass(frozen=True)
class Schemas:
    """All schemas that a record may be written with; nothing else is ever decoded."""

    all: tuple[Schema, ...]

    @cached_property
    def by_fingerprint(self) -> Mapping[bytes, Schema]:
        """Fingerprint to schema."""
        return {schema.fingerprint: schema for schema in self.all}

    def versions(self, subject: str) -> tuple[Schema, ...]:
        """The versions of ``subject``, oldest first; empty if there is no such subject."""
        return tuple(sorted((s for s in self.all if s.subject == subject), key=lambda schema: schema.version))

    def newest(self, subject: str) -> Schema:
        """The version of ``subject`` that is written; raise :class:`InvalidConfiguration` if there is none."""
        versions = self.versions(subject)
        if not versions:
            raise InvalidConfiguration(f"no schema for {subject}", where=f"schemas/events/{subject}.v1.avsc")
        return versions[-1]


def schemas_folder(package: Path = _PACKAGE) -> Path:
    """Where ``schemas/`` is: inside the installed package, or at the root of the checkout that ``package`` is part of."""
    candidates = (package / "_schemas", package.parents[1] / "schemas")
    for folder in candidates:
        if (folder / "events").is_dir():
            return folder
    raise InvalidConfiguration(
        "the schemas are missing",
        where=" or ".join(map(str, candidates)),
        hint="Install the wheel, or run from a complete checkout",
    )


def load_schemas(folder: Path | None = None) -> Schemas:
    """Read and check ``events/*.avsc`` under ``folder``; raise :class:`InvalidConfiguration` naming file and rule."""
    events = (schemas_folder() if folder is None else folder) / "events"
    schemas = tuple(_load(path) for path in sorted(events.glob("*.avsc")))
    _check_distinct(schemas)
    return Schemas(schemas)


def _load(path: Path) -> Schema:
    match = _FILE_NAME.fullmatch(path.name)
    if match is None:
        raise InvalidConfiguration("not named <subject>.v<N>.avsc", where=str(path))
    try:
        definition = json.loads(path.read_bytes())
        shape = shape_of(definition)
        if not isinstance(shape, Record):
            raise UnsafeSchema("schema: the outermost type must be a record")  # noqa: TRY301
        return Schema(match["subject"], int(match["version"]), definition, shape, fingerprint(definition))
    except UnsafeSchema as problem:
        raise InvalidConfiguration(str(problem), where=str(path)) from None
    except (ValueError, KeyError, TypeError) as problem:
        raise InvalidConfiguration(f"not an Avro schema: {problem!r}", where=str(path)) from None


def _check_distinct(schemas: Iterable[Schema]) -> None:
    seen: dict[bytes, Schema] = {}
    for schema in schemas:
        twin = seen.setdefault(schema.fingerprint, schema)
        if twin is not schema:
            # Docs, defaults and logical types are not part of the identity: records could not be told apart.
            raise InvalidConfiguration(
                f"{schema.name} cannot be told from {twin.name}",
                where=f"schemas/events/{schema.name}.avsc",
                hint="A new version must change names, types or fields; edit the old file for anything else",
            )
