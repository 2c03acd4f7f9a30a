"""Places in decoded JSON that definitions name: ``$``, ``$.user.name``, ``$.items[0]``, ``$['odd name']``. One value each."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from apexstream.core.errors import InvalidRequest

_STEP: Final = re.compile(r"\.(?P<name>[^\W\d]\w*)|\[(?P<index>-?\d{1,9})\]|\['(?P<quoted>[^'\\]*)'\]")
PATH_CHARACTERS_MAX = 500

Place = Callable[[Any], Any]
"""Takes a decoded value and gives what lies at the place; raises :class:`LookupError` if there is no such place in it."""


@lru_cache(1024)
def place(path: str) -> Place:
    """The place that ``path`` names. Raises :class:`InvalidRequest` for what is no such path."""
    return _finder(path, steps_of(path))


def steps_of(path: str) -> tuple[str | int, ...]:
    """The names and indexes on the way to the place. Raises :class:`InvalidRequest` for what is no path."""
    if not path.startswith("$") or len(path) > PATH_CHARACTERS_MAX:
        raise _no_path(path)
    steps: list[str | int] = []
    at = 1
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            raise _no_path(path)
        name = step["name"] if step["name"] is not None else step["quoted"]
        steps.append(int(step["index"]) if name is None else name)
        at = step.end()
    return tuple(steps)


def _finder(path: str, steps: tuple[Any, ...]) -> Place:
    def find(value: Any) -> Any:
        for step in steps:
            if type(value) is not (dict if type(step) is str else list):
                raise LookupError(f"there is no {path}: a {_kind(value)} is in its way")
            try:
                value = value[step]
            except LookupError:
                raise LookupError(f"there is no {path}") from None
        return value

    return find


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "text", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null")


def _no_path(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path[:60]!r} is no path",
        where="path",
        hint="Such as $.user.name, $.items[0] or $['odd name']; $ is all of it",
    )
