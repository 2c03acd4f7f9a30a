"""What a pipeline is: streams that go in, operators by name with parameters, streams that come out. Pure.

A definition is JSON and says everything that its output depends on. :func:`read_definition` refuses what could never run,
so that whoever stores one need not run it to know.
"""

from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from apexstream.core.errors import ApexError, InvalidRequest
from apexstream.core.ids import check_id
from apexstream.core.operators import (
    Combine,
    InvalidPipeline,
    Join,
    Lookup,
    Merge,
    Operator,
    Window,
    check_growth,
    check_operator,
    check_path,
    within,
)

INPUTS_MAX = 8
OPERATORS_MAX = 64
PARTS_MAX = 64
ID_CHARACTERS_MAX = 100  # the ids of its outputs are longer
GROWTH_MAX = 1_000

Unit: TypeAlias = Literal["s", "ms", "us"]


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
    within(definition.parts, 1, PARTS_MAX, "$.parts")
    within(len(definition.inputs), 1, INPUTS_MAX, "$.inputs")
    within(len(definition.operators), 0, OPERATORS_MAX, "$.operators")
    within(definition.rows_max, 1, 10_000_000, "$.rows_max")
    within(definition.held_max, 1, 10_000_000, "$.held_max")
    within(definition.function_timeout_s, 0.01, 3600, "$.function_timeout_s")
    if (definition.parts > 1) != bool(definition.part_by):
        raise InvalidPipeline("parts above 1 and part_by go together", where="$.part_by")
    check_path(definition.part_by or "$", "$.part_by")
    for at, entry in enumerate(definition.inputs):
        _check_input(entry, f"$.inputs[{at}]")
    _check_combine(definition)
    for at, operator in enumerate(definition.operators):
        check_operator(operator, f"$.operators[{at}]")
    check_growth(definition.operators, GROWTH_MAX, "$.operators")


def _check_input(entry: Input, where: str) -> None:
    try:
        check_id(entry.stream, "stream_id")
    except ApexError as problem:
        raise InvalidPipeline(problem.what, where=f"{where}.stream", hint=problem.hint) from None
    within(entry.from_seq, 0, 1 << 62, f"{where}.from_seq")
    check_path(entry.time or "$", f"{where}.time")
    check_path(entry.key or "$", f"{where}.key")


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
        within(combine.lateness_s, 0, 1e9, "$.combine.lateness_s")
    if isinstance(combine, Join):
        within(combine.within_s, 0, 1e9, "$.combine.within_s")


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
