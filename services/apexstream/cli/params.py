"""From ``-p`` arguments to an action's parameters. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from apexstream.core.errors import InvalidParameters

_DEPTH_MAX = 16  # of references inside a schema; deeper ones are recursive

Schema = Mapping[str, Any]


def parse_params(arguments: Iterable[str], schema: Schema) -> dict[str, Any]:
    """The parameters that ``arguments`` spell, each ``key=value`` or ``key:=JSON``.

    The value of ``key=value`` stays a string if the action's ``schema`` (JSON Schema of an object) allows one there, and
    is read as JSON otherwise. A key that the schema does not know is read as JSON if it is JSON: the gateway decides.
    """
    params: dict[str, Any] = {}
    for argument in arguments:
        key, value = _parse(argument, schema)
        if key in params:
            raise InvalidParameters("given twice", where=key)
        params[key] = value
    return params


def _parse(argument: str, schema: Schema) -> tuple[str, Any]:
    name, equals, text = argument.partition("=")
    raw = name.endswith(":")
    key = name[:-1] if raw else name
    if not equals or not key:
        raise InvalidParameters(f"{argument!r} is not a parameter", where="-p", hint="Use key=value or key:=JSON")
    if raw:
        return key, _json(key, text, "JSON")
    expected = schema.get("properties", {}).get(key)
    if expected is None:
        return key, _json_or_text(text)
    if _allows_string(expected, schema, _DEPTH_MAX):
        return key, text
    return key, _json(key, text, _describe(expected))


def _json(key: str, text: str, expected: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        shown = text[:40] + ("…" if len(text) > 40 else "")
        raise InvalidParameters(f"expected {expected}, got {shown!r}", where=key) from None


def _json_or_text(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return text


def _allows_string(schema: Any, root: Schema, depth: int) -> bool:
    """Whether a string may be valid here; what cannot be decided counts as no, so that it is read as JSON."""
    if not isinstance(schema, Mapping) or depth == 0:
        return False
    if "$ref" in schema:
        return _allows_string(_resolve(schema["$ref"], root), root, depth - 1)
    if "const" in schema:
        return isinstance(schema["const"], str)
    if "enum" in schema:
        return any(isinstance(choice, str) for choice in schema["enum"])
    if "type" in schema:
        kinds = schema["type"]
        return kinds == "string" or (isinstance(kinds, list) and "string" in kinds)
    choices = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    return any(_allows_string(choice, root, depth - 1) for choice in choices)


def _resolve(reference: Any, root: Schema) -> Any:
    """What a local reference (``#/$defs/Name``) names; None for any other."""
    place: Any = root
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    for step in reference[2:].split("/"):
        if not isinstance(place, Mapping):
            return None
        place = place.get(step.replace("~1", "/").replace("~0", "~"))
    return place


def _describe(schema: Any) -> str:
    kinds = schema.get("type") if isinstance(schema, Mapping) else None
    if isinstance(kinds, str):
        return f"JSON of type {kinds}"
    return f"JSON of type {' or '.join(kinds)}" if isinstance(kinds, list) else "JSON"
