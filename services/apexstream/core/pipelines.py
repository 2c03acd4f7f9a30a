"""What a pipeline is: streams that go in, operators by name with parameters, streams that come out. Pure.

A definition is JSON and says everything that its output depends on. :func:`read_definition` refuses what could never run,
so that whoever stores one need not run it to know.
"""

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import msgspec

from apexstream.core.errors import ApexError, InvalidRequest
from apexstream.core.ids import check_id
from apexstream.core.paths import place

INPUTS_MAX = 8
OPERATORS_MAX = 64
PARTS_MAX = 64
ID_CHARACTERS_MAX = 100  # the ids of its outputs are longer
WINDOWS_PER_ELEMENT_MAX = 1_000
_US = 1_000_000

Test: TypeAlias = Literal["eq", "ne", "lt", "le", "gt", "ge", "in", "contains", "exists"]
Unit: TypeAlias = Literal["s", "ms", "us"]
FOLDS = ("count", "sum", "min", "max", "mean", "first", "last", "list")


class InvalidPipeline(InvalidRequest):
    """A definition that could never run."""

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


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stream that goes in, from ``from_seq`` on. ``time``: where its elements' event time lies, in ``unit``; empty: the time at
    which the chunk was yielded. ``key``: what joins and lookups match by."""

    stream: str
    from_seq: int = 0
    time: str = ""
    unit: Unit = "ms"
    key: str = ""


class Definition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pipeline. ``parts`` above 1: that many outputs, each with the elements whose value at ``part_by`` falls to it.

    ``on_failure`` says what becomes of an element that an operator cannot take. ``rows_max`` bounds what a part remembers,
    ``held_max`` what waits for the other input; ``function_timeout_s`` what a call of a user's function takes.
    """

    inputs: tuple[Input, ...]
    combine: Combine | None = None
    operators: tuple[Operator, ...] = ()
    parts: int = 1
    part_by: str = ""
    on_failure: Literal["fail", "skip", "dead_letter"] = "fail"
    rows_max: int = 1_000_000
    held_max: int = 100_000
    function_timeout_s: float = 10.0

    @property
    def functions(self) -> frozenset[str]:
        """The users' functions that it calls, each ``plugin:function``."""
        return frozenset(filter(None, (getattr(operator, "function", "") for operator in self.operators)))


def microseconds(seconds: float) -> int:
    """``seconds`` as definitions give them."""
    return round(seconds * _US)


def read_definition(data: bytes) -> Definition:
    """The definition in ``data`` (JSON). Raises :class:`InvalidPipeline` with the place of what is wrong."""
    try:
        definition = msgspec.json.decode(data, type=Definition)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as problem:
        what, _, where = str(problem).partition(" - at ")
        raise InvalidPipeline(what, where=where.strip("`") or "definition") from None
    check_definition(definition)
    return definition


def check_definition(definition: Definition) -> None:
    """Raise :class:`InvalidPipeline` for what could never run."""
    _within(definition.parts, 1, PARTS_MAX, "$.parts")
    _within(len(definition.inputs), 1, INPUTS_MAX, "$.inputs")
    _within(len(definition.operators), 0, OPERATORS_MAX, "$.operators")
    _within(definition.rows_max, 1, 10_000_000, "$.rows_max")
    _within(definition.held_max, 1, 10_000_000, "$.held_max")
    _within(definition.function_timeout_s, 0.01, 3600, "$.function_timeout_s")
    if (definition.parts > 1) != bool(definition.part_by):
        raise InvalidPipeline("parts above 1 and part_by go together", where="$.part_by")
    _path(definition.part_by or "$", "$.part_by")
    for at, entry in enumerate(definition.inputs):
        _check_input(entry, f"$.inputs[{at}]")
    _check_combine(definition)
    for at, operator in enumerate(definition.operators):
        _check_operator(operator, f"$.operators[{at}]")


def _check_input(entry: Input, where: str) -> None:
    try:
        check_id(entry.stream, "stream_id")
    except ApexError as problem:
        raise InvalidPipeline(problem.what, where=f"{where}.stream", hint=problem.hint) from None
    _within(entry.from_seq, 0, 1 << 62, f"{where}.from_seq")
    _path(entry.time or "$", f"{where}.time")
    _path(entry.key or "$", f"{where}.key")


def _check_combine(definition: Definition) -> None:
    combine, count = definition.combine, len(definition.inputs)
    if (count > 1) != (combine is not None):
        raise InvalidPipeline(
            f"{count} inputs and {'no' if combine is None else 'a'} combine",
            where="$.combine",
            hint="Several inputs need one of merge, concat, zip, join, lookup; one input none",
        )
    if isinstance(combine, Join | Lookup):
        if count != 2:
            raise InvalidPipeline(f"it takes two inputs, not {count}", where="$.combine")
        for at, entry in enumerate(definition.inputs):
            if not entry.key:
                raise InvalidPipeline("a key is missing", where=f"$.inputs[{at}].key", hint="Such as $.user")
    if isinstance(combine, Merge | Join | Lookup):
        _within(combine.lateness_s, 0, 1e9, "$.combine.lateness_s")
    if isinstance(combine, Join):
        _within(combine.within_s, 0, 1e9, "$.combine.within_s")


def _check_operator(operator: Operator, where: str) -> None:
    if isinstance(operator, Map | Filter | FlatMap | Scan | Reduce):
        _one_way(operator, where)
    if isinstance(operator, Filter | TakeWhile | SkipWhile | Until) and operator.where is not None:
        _path(operator.where.path, f"{where}.where.path")
        if operator.where.test == "in" and not isinstance(operator.where.value, list):
            raise InvalidPipeline("the test 'in' needs a list", where=f"{where}.where.value")
    if isinstance(operator, Map | FlatMap):
        _path(operator.path or "$", f"{where}.path")
    if isinstance(operator, Map):
        for name, path in operator.pick.items():
            _path(path, f"{where}.pick.{name}")
    if isinstance(operator, Take | Skip):
        _within(operator.count, 0, 1 << 62, f"{where}.count")
    if isinstance(operator, Batch):
        _within(operator.count, 1, 10_000, f"{where}.count")
    if isinstance(operator, Distinct):
        _path(operator.key, f"{where}.key")
        _within(operator.remembered_max, 1, 10_000_000, f"{where}.remembered_max")
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
        _path(path or "$", f"{where}.give.{name}")


def split_fold(text: str) -> tuple[str, str]:
    """The name of a fold and its path: ``sum $.ms`` → ``sum``, ``$.ms``."""
    fold, _, path = text.strip().partition(" ")
    return fold, path.strip()


def _check_window(window: Window, where: str) -> None:
    if not window.give:
        raise InvalidPipeline("it gives nothing", where=f"{where}.give", hint="Such as {'n': 'count'}")
    _path(window.key or "$", f"{where}.key")
    _within(window.lateness_s, 0, 1e9, f"{where}.lateness_s")
    wanted = {"tumbling": {"size_s"}, "sliding": {"size_s"}, "hopping": {"size_s", "hop_s"}, "session": {"gap_s"}}
    for name in ("size_s", "hop_s", "gap_s"):
        given = getattr(window, name)
        if name in wanted[window.kind]:
            _within(given, 1e-6, 1e9, f"{where}.{name}")
        elif given:
            raise InvalidPipeline(f"a {window.kind} window has no {name}", where=f"{where}.{name}")
    if window.kind == "hopping" and not 1 <= window.size_s / window.hop_s <= WINDOWS_PER_ELEMENT_MAX:
        raise InvalidPipeline(
            f"hop_s must be at most size_s, and at least a {WINDOWS_PER_ELEMENT_MAX}th of it", where=f"{where}.hop_s"
        )


def _within(value: float, least: float, most: float, where: str) -> None:
    if not least <= value <= most:
        raise InvalidPipeline(f"{value} is not from {least} to {most}", where=where)


def _path(path: str, where: str) -> None:
    try:
        place(path)
    except InvalidRequest as problem:
        raise InvalidPipeline(problem.what, where=where, hint=problem.hint) from None


# What comes out.


def check_pipeline_id(pipeline_id: str) -> str:
    """Return it if it is one, else raise :class:`InvalidRequest`. Shorter than other ids: those of its outputs are longer."""
    check_id(pipeline_id, "pipeline_id")
    if len(pipeline_id) > ID_CHARACTERS_MAX:
        raise InvalidRequest(f"pipeline_id has over {ID_CHARACTERS_MAX} characters", where="pipeline_id")
    return pipeline_id


def jobs_of(pipeline_id: str, definition: Definition) -> Iterator[str]:
    """The ids of its jobs, each of which writes one part of the output: the stream with the job's id."""
    if definition.parts == 1:
        yield pipeline_id
    else:
        yield from (f"{pipeline_id}.p{part}" for part in range(definition.parts))


def sides_of(definition: Definition) -> Iterator[str]:
    """The names of the side outputs that each job writes besides: of what came late, and of what failed.

    Several inputs have one each, because only the elements of one input have an order before they are combined.
    """
    kinds: list[str] = []
    if isinstance(definition.combine, Merge | Join | Lookup):
        kinds.append("late")
    if definition.on_failure == "dead_letter":
        kinds.append("failed")
    for kind in kinds:
        if definition.combine is not None:
            yield from (f"{kind}{at}" for at in range(len(definition.inputs)))
    if any(isinstance(operator, Window) for operator in definition.operators):
        yield "late"
    if definition.on_failure == "dead_letter":
        yield "failed"


def streams_of(pipeline_id: str, definition: Definition) -> Iterator[str]:
    """The ids of all streams that it writes."""
    for job in jobs_of(pipeline_id, definition):
        yield job
        yield from (f"{job}.{side}" for side in sides_of(definition))
