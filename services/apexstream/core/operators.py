"""The operators by name with their parameters, and the check of each. Pure; what they do is elsewhere.

``core.pipelines`` makes definitions of pipelines of them, ``core.views`` views of streams.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from apexstream.core.errors import InvalidRequest
from apexstream.core.paths import place, steps_of

WINDOWS_PER_ELEMENT_MAX = 1_000
_US = 1_000_000

Test: TypeAlias = Literal["eq", "ne", "lt", "le", "gt", "ge", "in", "contains", "exists"]
FOLDS = ("count", "sum", "min", "max", "mean", "first", "last", "list")


class InvalidPipeline(InvalidRequest):
    """A definition or a view that could never run."""

    code = "invalid_pipeline"


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op"):
    """Base of what is named by ``op``."""


class Condition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is true of an element whose value at ``path`` passes ``test`` against ``value``. Nothing at ``path``: not true."""

    path: str = "$"
    test: Test = "eq"
    value: Any = None


class Map(_Part, frozen=True, kw_only=True, tag="map"):
    """Each element becomes what lies at ``path``, or an object of what ``pick`` finds, or what ``function`` makes of it."""

    path: str = ""
    pick: dict[str, str] = {}
    function: str = ""


class Filter(_Part, frozen=True, kw_only=True, tag="filter"):
    """The elements that fit."""

    where: Condition | None = None
    function: str = ""


class FlatMap(_Part, frozen=True, kw_only=True, tag="flat_map"):
    """All items of the list at ``path``, or of the list that ``function`` makes."""

    path: str = ""
    function: str = ""


class Take(_Part, frozen=True, kw_only=True, tag="take"):
    """The first ``count``."""

    count: int


class Skip(_Part, frozen=True, kw_only=True, tag="skip"):
    """All but the first ``count``."""

    count: int


class TakeWhile(_Part, frozen=True, kw_only=True, tag="take_while"):
    """Those before the first that does not fit."""

    where: Condition


class SkipWhile(_Part, frozen=True, kw_only=True, tag="skip_while"):
    """Those from the first on that does not fit."""

    where: Condition


class Until(_Part, frozen=True, kw_only=True, tag="until"):
    """Those up to and with the first that fits."""

    where: Condition


class Distinct(_Part, frozen=True, kw_only=True, tag="distinct"):
    """Those whose value at ``key`` is not among the last ``remembered_max`` seen."""

    key: str = "$"
    remembered_max: int = 100_000


class Scan(_Part, frozen=True, kw_only=True, tag="scan"):
    """After each element what all so far come to: ``give`` folds by name, or ``function(before, element)``."""

    give: dict[str, str] = {}
    function: str = ""


class Reduce(_Part, frozen=True, kw_only=True, tag="reduce"):
    """At the end what all come to; as ``scan``. Nothing of an empty stream."""

    give: dict[str, str] = {}
    function: str = ""


class Batch(_Part, frozen=True, kw_only=True, tag="batch"):
    """Lists of ``count``; the last may be shorter."""

    count: int


class Window(_Part, frozen=True, kw_only=True, tag="window"):
    """Windows in event time, for each value at ``key``: tumbling and hopping [start, end), sliding (time - size, time] for each
    time at which there is an element, session [first, last + gap)."""

    kind: Literal["tumbling", "hopping", "sliding", "session"]
    give: dict[str, str]
    size_s: float = 0
    hop_s: float = 0
    gap_s: float = 0
    lateness_s: float = 0
    key: str = ""


class Merge(_Part, frozen=True, kw_only=True, tag="merge"):
    """All elements of all inputs by their time."""

    lateness_s: float = 0


class Concat(_Part, frozen=True, kw_only=True, tag="concat"):
    """One input after the other."""


class Zip(_Part, frozen=True, kw_only=True, tag="zip"):
    """Lists of one element of each input; ``strict`` fails if one ends before the other."""

    length: Literal["strict", "shortest"] = "strict"


class Join(_Part, frozen=True, kw_only=True, tag="join"):
    """Pairs of elements of two inputs with equal keys whose times differ by ``within_s`` at most."""

    within_s: float
    how: Literal["inner", "left", "right", "outer"] = "inner"
    lateness_s: float = 0


class Lookup(_Part, frozen=True, kw_only=True, tag="lookup"):
    """Each element of the first input with the newest element of the second one that has its key and is not younger."""

    how: Literal["inner", "left"] = "inner"
    lateness_s: float = 0


Operator: TypeAlias = (
    Map | Filter | FlatMap | Take | Skip | TakeWhile | SkipWhile | Until | Distinct | Scan | Reduce | Batch | Window
)
Combine: TypeAlias = Merge | Concat | Zip | Join | Lookup


def microseconds(seconds: float) -> int:
    """``seconds`` as definitions give them."""
    return round(seconds * _US)


def check_operator(operator: Operator, where: str) -> None:
    if isinstance(operator, Map | Filter | FlatMap | Scan | Reduce):
        _one_way(operator, where)
    if isinstance(operator, Filter | TakeWhile | SkipWhile | Until) and operator.where is not None:
        check_path(operator.where.path, f"{where}.where.path")
        if operator.where.test == "in" and not isinstance(operator.where.value, list):
            raise InvalidPipeline("the test 'in' needs a list", where=f"{where}.where.value")
    if isinstance(operator, Map | FlatMap):
        check_path(operator.path or "$", f"{where}.path")
    if isinstance(operator, Map):
        for name, path in operator.pick.items():
            check_path(path, f"{where}.pick.{name}")
    if isinstance(operator, Take | Skip):
        within(operator.count, 0, 1 << 62, f"{where}.count")
    if isinstance(operator, Batch):
        within(operator.count, 1, 10_000, f"{where}.count")
    if isinstance(operator, Distinct):
        check_path(operator.key, f"{where}.key")
        within(operator.remembered_max, 1, 10_000_000, f"{where}.remembered_max")
    if isinstance(operator, Scan | Reduce | Window):
        _check_give(operator.give, where)
    if isinstance(operator, Window):
        _check_window(operator, where)


def _one_way(operator: Any, where: str) -> None:
    ways = [name for name in ("path", "pick", "where", "give", "function") if getattr(operator, name, None)]
    if len(ways) != 1:
        known = [name for name in ("path", "pick", "where", "give", "function") if hasattr(operator, name)]
        raise InvalidPipeline(f"exactly one of {', '.join(known)} is needed", where=where)
    if ways == ["function"]:
        plugin, colon, name = operator.function.partition(":")
        if not (plugin and colon and name):
            raise InvalidPipeline(
                f"{operator.function[:60]!r} names no function", where=f"{where}.function", hint="plugin:function"
            )


def _check_give(give: dict[str, str], where: str) -> None:
    for name, text in give.items():
        fold, path = split_fold(text)
        if fold not in FOLDS or (fold == "count") == bool(path):
            raise InvalidPipeline(
                f"{text[:60]!r} is no fold",
                where=f"{where}.give.{name}",
                hint=f"'count', or one of {', '.join(FOLDS[1:])} and a path: 'sum $.ms'",
            )
        check_path(path or "$", f"{where}.give.{name}")


def check_growth(operators: Sequence[Any], most: int, where: str) -> None:
    """Raise :class:`InvalidPipeline` if the operators together could write a value down more than ``most`` times.

    Two names for one value double it, and the next operator may double that: a few lines would fill any memory.
    """
    growth = math.prod(_copies(operator) for operator in operators)
    if growth > most:
        raise InvalidPipeline(
            f"a value could come out {growth} times, more than {most}", where=where, hint="Pick each value once"
        )


def _copies(operator: Any) -> int:
    """How often one value can be in what the operator makes: by how many of its paths at most."""
    paths = [
        *getattr(operator, "pick", {}).values(),
        *(split_fold(text)[1] for text in getattr(operator, "give", {}).values()),
    ]
    # Of a list's items, those counted from its end may be those counted from its beginning.
    steps = [tuple(0 if type(step) is int else step for step in steps_of(path)) for path in paths if path]
    return max((sum(own[: len(other)] == other for other in steps) for own in steps), default=1)


def split_fold(text: str) -> tuple[str, str]:
    """The name of a fold and its path: ``sum $.ms`` → ``sum``, ``$.ms``."""
    fold, _, path = text.strip().partition(" ")
    return fold, path.strip()


def _check_window(window: Window, where: str) -> None:
    if not window.give:
        raise InvalidPipeline("it gives nothing", where=f"{where}.give", hint="Such as {'n': 'count'}")
    check_path(window.key or "$", f"{where}.key")
    within(window.lateness_s, 0, 1e9, f"{where}.lateness_s")
    wanted = {"tumbling": {"size_s"}, "sliding": {"size_s"}, "hopping": {"size_s", "hop_s"}, "session": {"gap_s"}}
    for name in ("size_s", "hop_s", "gap_s"):
        given = getattr(window, name)
        if name in wanted[window.kind]:
            within(given, 1e-6, 1e9, f"{where}.{name}")
        elif given:
            raise InvalidPipeline(f"a {window.kind} window has no {name}", where=f"{where}.{name}")
    if window.kind == "hopping" and not 1 <= window.size_s / window.hop_s <= WINDOWS_PER_ELEMENT_MAX:
        raise InvalidPipeline(
            f"hop_s must be at most size_s, and at least a {WINDOWS_PER_ELEMENT_MAX}th of it", where=f"{where}.hop_s"
        )


def within(value: float, least: float, most: float, where: str) -> None:
    if not least <= value <= most:
        raise InvalidPipeline(f"{value} is not from {least} to {most}", where=where)


def check_path(path: str, where: str) -> None:
    try:
        place(path)
    except InvalidRequest as problem:
        raise InvalidPipeline(problem.what, where=where, hint=problem.hint) from None
