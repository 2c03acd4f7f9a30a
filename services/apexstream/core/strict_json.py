"""JSON that says one thing to everybody.

Of two equal keys in an object some readers take the first and some the last, so what was checked need not be what is done.
"""

import json
import re
from typing import Any, Final

from apexstream.core.errors import InvalidRequest

_STRINGS: Final = re.compile(rb'"([^"]*)"(\s*:)?')


def check_keys(text: str | bytes, where: str) -> None:
    """Raise :class:`InvalidRequest` if an object in ``text``, which must be JSON, has a key twice. ``where`` names the text."""
    if _has_each_key_once(text.encode() if isinstance(text, str) else text):
        return
    try:
        json.loads(text, object_pairs_hook=_object)
    except _Twice as problem:
        raise InvalidRequest(
            f"an object has the key {problem.key[:60]!r} twice", where=where, hint="Say it once"
        ) from None
    except RecursionError:
        raise InvalidRequest("is nested too deeply", where=where) from None


def _has_each_key_once(text: bytes) -> bool:
    """True if no two keys in the whole text are equal, which most texts can be told by in a fifth of the time."""
    if b"\\" in text:
        return False  # only without escapes is every quotation mark the beginning or the end of a string
    keys = [string for string, colon in _STRINGS.findall(text) if colon]
    return len(set(keys)) == len(keys)


class _Twice(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


def _object(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Twice(key)
            seen.add(key)
