"""The identity of an Avro schema: CRC-64-AVRO of its Parsing Canonical Form, as the specification defines both."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from apexstream.contracts.shape import full_name

FINGERPRINT_BYTES = 8
_EMPTY = 0xC15D213AA4D7A795
_NAMED = {"record", "enum", "fixed"}
_PRIMITIVES = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}


def fingerprint(definition: Any) -> bytes:
    """The 8 bytes that stand for a schema (parsed JSON) in single-object encoding: little-endian CRC-64-AVRO."""
    crc = _EMPTY
    table = _table()
    for byte in canonical_form(definition).encode():
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc.to_bytes(FINGERPRINT_BYTES, "little")


def canonical_form(definition: Any) -> str:
    """The Parsing Canonical Form: full names, no docs, defaults or logical types, fixed order, no white space."""
    return json.dumps(_canonical(definition, ""), separators=(",", ":"), ensure_ascii=False)


def _canonical(definition: Any, namespace: str) -> Any:
    if isinstance(definition, list):
        return [_canonical(branch, namespace) for branch in definition]
    if isinstance(definition, str):
        return definition if definition in _PRIMITIVES else full_name(definition, namespace)
    kind = definition["type"]
    if kind in _NAMED:
        return _canonical_named(definition, namespace)
    if kind == "array":
        return {"type": kind, "items": _canonical(definition["items"], namespace)}
    if kind == "map":
        return {"type": kind, "values": _canonical(definition["values"], namespace)}
    return _canonical(kind, namespace)


def _canonical_named(definition: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    name = full_name(definition["name"], definition.get("namespace", namespace))
    inner = name.rpartition(".")[0]
    form: dict[str, Any] = {"name": name, "type": definition["type"]}
    if definition["type"] == "enum":
        form["symbols"] = list(definition["symbols"])
    elif definition["type"] == "fixed":
        form["size"] = int(definition["size"])
    else:
        form["fields"] = [
            {"name": field["name"], "type": _canonical(field["type"], inner)} for field in definition["fields"]
        ]
    return form


@cache
def _table() -> tuple[int, ...]:
    def entry(crc: int) -> int:
        for _ in range(8):
            crc = crc >> 1 ^ (_EMPTY if crc & 1 else 0)
        return crc

    return tuple(entry(byte) for byte in range(256))
