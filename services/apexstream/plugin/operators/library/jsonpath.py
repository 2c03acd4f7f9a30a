"""A small part of JSONPath (RFC 9535): ``$``, names, indexes, slices without a step, and ``*``. Nothing else.

Filters, ``..``, unions and functions are refused with an error. Whoever needs them gives a well-kept library's function to
``flat_map``.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from apexstream.plugin.operators.flattening import flat_map
from apexstream.plugin.operators.stream import Source, Stream

_STEP: Final = re.compile(
    r"""\.(?P<name>[^\W\d][\w]*) | (?P<all>\.\*|\[\*\])
    | \[(?P<index>-?\d+)\] | \[(?P<first>-?\d+)?:(?P<last>-?\d+)?\]
    | \['(?P<single>[^'\\]*)'\] | \["(?P<double>[^"\\]*)"\]""",
    re.VERBOSE,
)

Step = Callable[[Any], list[Any]]


def json_path(source: Source[Any], path: str) -> Stream[Any]:
    """Everything that ``path`` finds in the elements, which are decoded JSON, in order. Null that is found is a value."""
    return flat_map(source, compiled(path))


def compiled(path: str) -> Step:
    """A function from a decoded value to the list of what ``path`` finds in it. Raises :class:`ValueError`."""
    steps = _steps(path)

    def find(value: Any) -> list[Any]:
        found = [value]
        for step in steps:
            found = [deeper for one in found for deeper in step(one)]
        return found

    return find


def _steps(path: str) -> list[Step]:
    if not path.startswith("$"):
        raise ValueError(f"{path!r} is no path: it must begin with $")
    steps: list[Step] = []
    place = 1
    while place < len(path):
        found = _STEP.match(path, place)
        if found is None:
            raise ValueError(
                f"{path!r} is not understood at {path[place:]!r}; there are .name, ['name'], [0], [1:3], .* and [*]"
            )
        steps.append(_step(found))
        place = found.end()
    return steps


def _step(found: re.Match[str]) -> Step:
    parts = found.groupdict()
    if parts["all"]:
        return _all
    if parts["index"]:
        return _item(slice_of(int(parts["index"])))
    names = [parts[kind] for kind in ("name", "single", "double") if parts[kind] is not None]
    if names:
        return _member(names[0])
    return _item(slice(*(None if parts[edge] is None else int(parts[edge]) for edge in ("first", "last"))))


def slice_of(index: int) -> slice:
    """The slice that holds the element at ``index``, from the end if negative, and none if there is no such element."""
    return slice(index, index + 1 or None)


def _all(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _member(name: str) -> Step:
    return lambda value: [value[name]] if isinstance(value, dict) and name in value else []


def _item(items: slice) -> Step:
    return lambda value: value[items] if isinstance(value, list) else []
