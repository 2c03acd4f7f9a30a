"""What the operators that remember nothing do to one value. Pure; pipelines apply them in steps, views to chunks."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from apexstream.core.chunk import WATERMARK_TYPE, Chunk
from apexstream.core.errors import ApexError
from apexstream.core.operators import Condition, Filter, FlatMap, Map
from apexstream.core.paths import place

Make = Callable[[Any], Sequence[Any]]
"""Takes a value and gives what becomes of it: any number of values. Raises :class:`ElementFailed`."""


class ElementFailed(ApexError):
    """An operator cannot take one element; what becomes of it is the definition's ``on_failure``."""

    code = "element_failed"


def decoded(chunk: Chunk) -> Any:
    """The value of a data chunk: its JSON or its text. Raises :class:`ElementFailed` for what is neither."""
    if chunk.content_type.startswith("text/"):
        return chunk.payload.decode("utf-8", "replace")
    if chunk.content_type not in {"", WATERMARK_TYPE}:
        raise ElementFailed(f"a chunk of type {chunk.content_type[:60]} is neither JSON nor text", where="chunk")
    try:
        return msgspec.json.decode(chunk.payload or b"null")
    except (msgspec.DecodeError, RecursionError, UnicodeError) as problem:
        raise ElementFailed(f"the chunk is no JSON: {problem}", where="chunk") from None


def make_of(operator: Map | Filter | FlatMap) -> Make:
    """What ``operator``, which calls no function, does."""
    match operator:
        case Map():
            return _mapped(operator)
        case Filter():
            return _filtered(operator)
        case FlatMap():
            return _flattened(operator)


def fits(condition: Condition) -> Callable[[Any], bool]:
    """Whether a value passes; nothing at the path, and what cannot be compared, does not."""
    at, value, test = place(condition.path), condition.value, _TESTS[condition.test]

    def passes(element: Any) -> bool:
        try:
            there = at(element)
        except LookupError:
            return False
        try:
            return bool(test(there, value))
        except TypeError:
            return False

    return passes


_TESTS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": lambda there, value: there == value,
    "ne": lambda there, value: there != value,
    "lt": lambda there, value: there < value,
    "le": lambda there, value: there <= value,
    "gt": lambda there, value: there > value,
    "ge": lambda there, value: there >= value,
    "in": lambda there, value: there in value,
    "contains": lambda there, value: value in there,
    "exists": lambda _, __: True,
}


def found(at: Callable[[Any], Any], value: Any) -> Any:
    """What lies ``at`` a place of ``value``; raises :class:`ElementFailed` if there is none."""
    try:
        return at(value)
    except LookupError as problem:
        raise ElementFailed(str(problem.args[0]), where="path") from None


def _mapped(operator: Map) -> Make:
    if operator.path:
        at = place(operator.path)
        return lambda value: (found(at, value),)
    places = [(name, place(path)) for name, path in operator.pick.items()]
    return lambda value: ({name: found(at, value) for name, at in places},)


def _filtered(operator: Filter) -> Make:
    assert operator.where is not None  # noqa: S101 - check_operator
    passes = fits(operator.where)
    return lambda value: (value,) if passes(value) else ()


def _flattened(operator: FlatMap) -> Make:
    at = place(operator.path)

    def items_of(value: Any) -> Sequence[Any]:
        items = found(at, value)
        if type(items) is not list:
            raise ElementFailed(f"{operator.path} is no list", where="flat_map")
        return items

    return items_of
