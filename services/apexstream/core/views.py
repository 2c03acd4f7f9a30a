"""What a view is: a stream as one viewer wants it, by operators that look at one chunk and remember nothing. Pure.

A view keeps the seqs of its stream, so a chunk stays a chunk or is left out: an operator that makes several of one, or that
needs what came before, is a pipeline's. A view of one definition always shows the same.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Literal

import msgspec

from apexstream.core.chunk import CHUNK_BYTES_MAX, WATERMARK_TYPE, Chunk, Kind
from apexstream.core.operators import Filter, InvalidPipeline, Map, check_growth, check_operator, within
from apexstream.core.stateless import ElementFailed, decoded, make_of

VIEW_BYTES_MAX = 4_096
VIEW_OPERATORS_MAX = 16
GROWTH_MAX = 16
_SHOWN_CHARACTERS_MAX = 200


class InvalidView(InvalidPipeline):
    """A view that nobody can be shown."""

    code = "invalid_view"


class ViewDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operators in order. ``on_failure``: of a chunk that an operator cannot take, ``skip`` leaves it out, ``tell`` shows
    ``{"error": {code, message, where}}`` in its place."""

    operators: tuple[Map | Filter, ...]
    on_failure: Literal["skip", "tell"] = "skip"


class View:
    """A view to be shown; made by :func:`read_view`. ``name`` is the same for the same definition, and only for it."""

    __slots__ = ("_makes", "_tells", "name")

    def __init__(self, definition: ViewDefinition) -> None:
        self.name = blake2b(msgspec.json.encode(definition), digest_size=16).hexdigest()
        self._makes: list[Callable[[Any], Any]] = [make_of(operator) for operator in definition.operators]
        self._tells = definition.on_failure == "tell"

    def shown(self, chunk: Chunk) -> Chunk | None:
        """The chunk as the view shows it; None: not at all. Everything but data is shown as it is."""
        if chunk.kind is not Kind.DATA or chunk.content_type == WATERMARK_TYPE:
            return chunk
        try:
            payload = self._payload(chunk)
        except ElementFailed as problem:
            if not self._tells:
                return None
            payload = msgspec.json.encode({"error": problem.as_dict()})
        return None if payload is None else Chunk(Kind.DATA, payload, chunk.event_time_us)

    def _payload(self, chunk: Chunk) -> bytes | None:
        value = decoded(chunk)
        for make in self._makes:
            made = make(value)
            if not made:
                return None
            (value,) = made
        try:
            payload = msgspec.json.encode(value)
        except RecursionError:
            raise ElementFailed("it is nested too deeply", where="view") from None
        if len(payload) > CHUNK_BYTES_MAX:
            raise ElementFailed(f"it would have {len(payload)} bytes, more than {CHUNK_BYTES_MAX}", where="view")
        return payload


def read_view(data: bytes) -> View:
    """The view that ``data`` (JSON) defines. Raises :class:`InvalidView` with the place of what is wrong."""
    try:
        within(len(data), 2, VIEW_BYTES_MAX, "view")
        definition = msgspec.json.decode(data, type=ViewDefinition)
        _check(definition)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as problem:
        what, _, where = str(problem).partition(" - at ")
        hint = 'Such as {"operators": [{"op": "filter", "where": {"path": "$.n", "test": "ge", "value": 3}}]}'
        if where.endswith(".op`"):
            hint = "A view takes map and filter, which keep each chunk a chunk; what else there is takes a pipeline"
        raise InvalidView(what[:_SHOWN_CHARACTERS_MAX], where=where.strip("`") or "view", hint=hint) from None
    except InvalidPipeline as problem:
        raise InvalidView(problem.what, where=problem.where, hint=problem.hint) from None
    return View(definition)


def _check(definition: ViewDefinition) -> None:
    within(len(definition.operators), 1, VIEW_OPERATORS_MAX, "$.operators")
    for at, operator in enumerate(definition.operators):
        where = f"$.operators[{at}]"
        check_operator(operator, where)
        if operator.function:
            raise InvalidPipeline(
                "a view calls no function", where=f"{where}.function", hint="Submit a pipeline (POST /pipelines)"
            )
    check_growth(definition.operators, GROWTH_MAX, "$.operators")
