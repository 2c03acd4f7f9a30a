"""Parameters that refer to what other tasks made: finding such references, naming them anew, putting values in. Pure.

Anywhere in a task's parameters ``{"$result": "TASK_ID"}`` stands for the last data chunk of that task's stream, and
``{"$stream": "TASK_ID"}`` for the list of all of them. A ``default`` beside it is taken where there is nothing to be had.
"""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from apexstream.core.chunk import WATERMARK_TYPE, Chunk, Kind
from apexstream.core.errors import InvalidParameters

INPUTS_MAX = 100  # references in one task's parameters
INPUT_BYTES_MAX = 1_000_000  # of the parameters with all values in
_WORDS: dict[str, Literal["result", "stream"]] = {"$result": "result", "$stream": "stream"}
_MARKS = (b'"$result"', b'"$stream"')

Path = tuple[str | int, ...]


class InputMissing(InvalidParameters):
    """What a task was to work on is not there: its upstream gave nothing, was erased or has expired."""

    code = "input_missing"


@dataclass(frozen=True, slots=True)
class Ref:
    """One reference and its place in the parameters."""

    what: Literal["result", "stream"]
    task_id: str
    path: Path


def may_refer(params: bytes) -> bool:
    """Whether these parameters (JSON) may have references: False is certain."""
    return any(mark in params for mark in _MARKS)


def references(params: Any) -> tuple[Ref, ...]:
    """All references in ``params``. Raises :class:`InvalidParameters` for one that is malformed, or too many."""
    found = tuple(_references(params, ()))
    if len(found) > INPUTS_MAX:
        raise InvalidParameters(f"{len(found)} references; at most {INPUTS_MAX} are allowed", where="params")
    return found


def renamed(params: Any, ids: Mapping[str, str]) -> Any:
    """``params`` whose references name the ids that ``ids`` has for their names; others stay."""
    return _replaced(params, lambda ref, written: {**written, f"${ref.what}": ids.get(ref.task_id, ref.task_id)})


def filled(params: Any, value_of: Callable[[Ref], Any]) -> Any:
    """``params`` with ``value_of`` in the place of each reference; where that raises :class:`InputMissing`, the default."""

    def value(ref: Ref, written: Mapping[str, Any]) -> Any:
        try:
            return value_of(ref)
        except InputMissing:
            if "default" in written:
                return written["default"]
            raise

    return _replaced(params, value)


def values_of(chunks: Sequence[Chunk]) -> list[Any]:
    """The data chunks among ``chunks`` as JSON values: text as a string, bytes in base64; watermarks are left out."""
    return [_value(chunk) for chunk in chunks if chunk.kind is Kind.DATA and chunk.content_type != WATERMARK_TYPE]


def _value(chunk: Chunk) -> Any:
    if chunk.content_type in {"", "application/json"}:
        return msgspec.json.decode(chunk.payload)
    if chunk.content_type.startswith("text/"):
        return chunk.payload.decode(errors="replace")
    return base64.b64encode(chunk.payload).decode()


def _references(value: Any, path: Path) -> Iterator[Ref]:
    ref = _ref(value, path)
    if ref is not None:
        yield ref
    elif isinstance(value, dict):
        for name, each in value.items():
            yield from _references(each, (*path, name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _references(each, (*path, number))


def _replaced(value: Any, by: Callable[[Ref, Mapping[str, Any]], Any], path: Path = ()) -> Any:
    ref = _ref(value, path)
    if ref is not None:
        return by(ref, value)
    if isinstance(value, dict):
        return {name: _replaced(each, by, (*path, name)) for name, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, by, (*path, number)) for number, each in enumerate(value)]
    return value


def _ref(value: Any, path: Path) -> Ref | None:
    word = next((word for word in _WORDS if isinstance(value, dict) and word in value), None)
    if word is None:
        return None
    if not path or not value.keys() <= {word, "default"} or not isinstance(value[word], str) or not value[word]:
        raise InvalidParameters(
            f'a reference is {{"{word}": "TASK_ID"}}, perhaps with a "default", in the place of one value',
            where=f"params {'.'.join(map(str, path))}".strip(),
        )
    return Ref(_WORDS[word], value[word], path)
