"""The shape of an Avro schema: names resolved, every rule checked that makes decoding hostile bytes safe.

A schema that breaks a rule is refused when it is loaded, so that no decoder ever has to defend itself against it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

FIXED_BYTES_MAX: Final = 256
LOGICAL_TYPES: Final = {
    ("int", "date"),
    ("long", "timestamp-millis"),
    ("long", "timestamp-micros"),
    ("string", "uuid"),
}
_LEAST_BYTES = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}


class UnsafeSchema(Exception):
    """A schema that must not be loaded: ``args[0]`` says where in it and why."""


@dataclass(frozen=True, slots=True)
class Primitive:
    """A type without parts. ``logical`` is the name of its logical type, or empty."""

    kind: str
    logical: str
    bytes_min: int


@dataclass(frozen=True, slots=True)
class Enum:
    """One of ``symbols``, encoded as its position."""

    name: str
    symbols: tuple[str, ...]
    bytes_min: int = 1


@dataclass(frozen=True, slots=True)
class Fixed:
    """Exactly ``bytes_min`` bytes."""

    name: str
    bytes_min: int


@dataclass(frozen=True, slots=True)
class Array:
    """Any number of ``items``, in blocks."""

    items: "Shape"
    bytes_min: int = 1


@dataclass(frozen=True, slots=True)
class Map:
    """Strings to ``values``, in blocks."""

    values: "Shape"
    bytes_min: int = 1


@dataclass(frozen=True, slots=True)
class Union:
    """One of ``branches``, preceded by its position."""

    branches: tuple["Shape", ...]
    bytes_min: int


@dataclass(frozen=True, slots=True)
class Record:
    """Named parts, one after the other."""

    name: str
    fields: tuple[tuple[str, "Shape"], ...]
    bytes_min: int


Shape = Primitive | Enum | Fixed | Array | Map | Union | Record


def shape_of(definition: Any) -> Shape:
    """Resolve an Avro schema (parsed JSON); raise :class:`UnsafeSchema` for one that could be used against a reader."""
    return _Builder().build(definition, "", "schema")


class _Builder:
    """Walks a definition once, outermost type first, remembering the named types that it has completed."""

    def __init__(self) -> None:
        self._complete: dict[str, Shape] = {}
        self._open: set[str] = set()

    def build(self, definition: Any, namespace: str, path: str) -> Shape:
        if isinstance(definition, list):
            return self._union(definition, namespace, path)
        if isinstance(definition, str):
            definition = {"type": definition}
        if not isinstance(definition, Mapping) or "type" not in definition:
            raise UnsafeSchema(f"{path}: not a type: {definition!r}")
        kind = definition["type"]
        if not isinstance(kind, str):
            if len(definition) > 1:
                raise UnsafeSchema(f"{path}: attributes belong inside the type that they describe")
            return self.build(kind, namespace, path)
        if kind in _LEAST_BYTES:
            return _primitive(definition, path)
        if kind in {"array", "map"}:
            return self._collection(definition, namespace, path)
        if kind in {"record", "enum", "fixed"}:
            return self._named(definition, namespace, path)
        return self._reference(full_name(kind, namespace), path)

    def _reference(self, name: str, path: str) -> Shape:
        if name in self._open:
            # Nesting is then bounded by the data alone: one byte a level overflows the stack of a decoder written in C.
            raise UnsafeSchema(f"{path}: {name} contains itself; recursive schemas crash decoders")
        if name not in self._complete:
            raise UnsafeSchema(f"{path}: unknown type {name}")
        return self._complete[name]

    def _union(self, definition: list[Any], namespace: str, path: str) -> Union:
        if not definition:
            raise UnsafeSchema(f"{path}: a union without branches")
        branches = tuple(self.build(branch, namespace, f"{path}[{at}]") for at, branch in enumerate(definition))
        return Union(branches, 1 + min(branch.bytes_min for branch in branches))

    def _collection(self, definition: Mapping[str, Any], namespace: str, path: str) -> Array | Map:
        if definition["type"] == "map":
            return Map(self.build(definition["values"], namespace, f"{path}.values"))
        items = self.build(definition["items"], namespace, f"{path}.items")
        if items.bytes_min == 0:
            # Six bytes can announce two thousand million of them.
            raise UnsafeSchema(f"{path}: array items that take no bytes let a few bytes announce any number of items")
        return Array(items)

    def _named(self, definition: Mapping[str, Any], namespace: str, path: str) -> Shape:
        name = full_name(str(definition["name"]), definition.get("namespace", namespace))
        if name in self._complete or name in self._open:
            raise UnsafeSchema(f"{path}: {name} is defined twice")
        self._open.add(name)
        shape = self._define(definition, name, path)
        self._open.remove(name)
        self._complete[name] = shape
        return shape

    def _define(self, definition: Mapping[str, Any], name: str, path: str) -> Shape:
        if definition["type"] == "enum":
            return Enum(name, tuple(definition["symbols"]))
        if definition["type"] == "fixed":
            return _fixed(definition, name, path)
        namespace = name.rpartition(".")[0]
        fields = tuple(
            (field["name"], self.build(field["type"], namespace, f"{path}.{field['name']}"))
            for field in definition["fields"]
        )
        return Record(name, fields, sum(shape.bytes_min for _, shape in fields))


def _primitive(definition: Mapping[str, Any], path: str) -> Primitive:
    kind, logical = definition["type"], definition.get("logicalType", "")
    _check_logical(kind, logical, path)
    if kind == "int" and not logical:
        raise UnsafeSchema(
            f"{path}: use long: it takes the same bytes, and not every decoder checks the range of an int"
        )
    return Primitive(kind, logical, _LEAST_BYTES[kind])


def _fixed(definition: Mapping[str, Any], name: str, path: str) -> Fixed:
    size = definition["size"]
    if not isinstance(size, int) or not 0 < size <= FIXED_BYTES_MAX:
        raise UnsafeSchema(f"{path}: a fixed of {size} bytes; 1 to {FIXED_BYTES_MAX} are allowed")
    _check_logical("fixed", definition.get("logicalType", ""), path)
    return Fixed(name, size)


def _check_logical(kind: str, logical: str, path: str) -> None:
    if logical == "decimal":
        # Reading one costs the square of its length: 100 KB took 1.5 s.
        raise UnsafeSchema(f"{path}: decimal is not allowed; its cost grows with the square of its length")
    if logical and (kind, logical) not in LOGICAL_TYPES:
        raise UnsafeSchema(f"{path}: logical type {logical} on {kind} is not one that decoders check")


def full_name(name: str, namespace: str) -> str:
    """The name with its namespace, unless it has one already."""
    return name if "." in name or not namespace else f"{namespace}.{name}"
