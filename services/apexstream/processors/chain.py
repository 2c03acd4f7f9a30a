"""A job's steps in order, made from the pipeline's definition. Pure, but that users' functions are called in between."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from apexstream.core.chunk import CHUNK_BYTES_MAX, Chunk, Kind
from apexstream.core.operators import (
    Batch,
    Concat,
    Distinct,
    Filter,
    FlatMap,
    Join,
    Lookup,
    Map,
    Merge,
    Operator,
    Reduce,
    Scan,
    Skip,
    SkipWhile,
    Take,
    TakeWhile,
    Until,
    Window,
    Zip,
)
from apexstream.core.pipelines import Definition, sides_of
from apexstream.core.stateless import ElementFailed
from apexstream.processors.combining import Combine, Concatenated, Joined, LookedUp, Merged, Sorted, Zipped
from apexstream.processors.elementwise import (
    Batches,
    Calling,
    Counted,
    Distinctly,
    Each,
    FoldCalls,
    Folded,
    Gate,
    MapCalls,
    Parted,
    Step,
)
from apexstream.processors.intake import Intake
from apexstream.processors.items import Element, Item, Sides
from apexstream.processors.rows import State
from apexstream.processors.windows import Windows


class Call(Protocol):
    """Calls a user's function for each of ``values``; if ``folds``, with what the call before gave, at first ``so_far``.

    The answer holds a result or an :class:`ElementFailed` for each.
    """

    def __call__(
        self, function: str, values: Sequence[Any], *, folds: bool, so_far: Any
    ) -> Awaitable[Sequence[Any]]: ...


Fall = Callable[[bytes], int]
"""A number for a key, the same everywhere and for ever."""


class Chain:
    """Part ``part`` of a pipeline, with its ``state``. Feed it chunks, take what they come to."""

    def __init__(self, definition: Definition, part: int, state: State, fall: Fall) -> None:
        self._sides = Sides(definition.on_failure, frozenset(sides_of(definition)))
        several = definition.combine is not None
        self._intakes = [
            Intake(entry, self._sides, f"failed{number}" if several else "failed")
            for number, entry in enumerate(definition.inputs)
        ]
        self._combine = _combine(definition, state, self._sides)
        self._steps: list[Step | Calling] = []
        if definition.parts > 1:
            self._steps.append(Parted(definition.part_by, part, definition.parts, fall, self._sides))
        self._steps += [
            _step(operator, str(at), state, self._sides) for at, operator in enumerate(definition.operators)
        ]

    def wants(self, number: int) -> bool:
        """Whether more of input ``number`` should be read now."""
        return self._combine is None or self._combine.wants(number)

    async def feed(self, number: int, chunks: Sequence[Chunk], call: Call) -> list[Item]:
        """Take the next chunks of input ``number``; raises :class:`PipelineFailed` if the job cannot go on."""
        items = self._intakes[number].items(chunks)
        if self._combine is not None:
            items = self._combine.feed(number, items)
        for step in self._steps:
            items = await _answered(step, items, call) if isinstance(step, MapCalls | FoldCalls) else step.feed(items)  # type: ignore[union-attr]
        return items

    def written(self, items: Sequence[Item]) -> list[Chunk]:
        """The chunks of the output; what is too large for one has failed."""
        chunks = []
        for item in items:
            if isinstance(item, Element):
                payload = msgspec.json.encode(item.value)
                if len(payload) <= CHUNK_BYTES_MAX:
                    chunks.append(Chunk(Kind.DATA, payload, item.time))
                else:
                    what = f"it would be a chunk of {len(payload)} bytes, more than {CHUNK_BYTES_MAX}"
                    self._sides.failed(Element(item.time, None), ElementFailed(what, where="output"))
        return chunks

    def sides(self) -> dict[str, list[Chunk]]:
        """What went to the side outputs since the last call."""
        return {name: self.written(elements) for name, elements in self._sides.taken().items()}


async def _answered(step: MapCalls | FoldCalls, items: Sequence[Item], call: Call) -> list[Item]:
    values = [item.value for item in items if isinstance(item, Element)]
    if not values:
        return step.answered(items, ())
    return step.answered(items, await call(step.function, values, folds=step.folds, so_far=step.so_far))


def _combine(definition: Definition, state: State, sides: Sides) -> Combine | None:
    combine, inputs = definition.combine, definition.inputs
    clock, rows = state.part("clock"), state.part("held")
    count, held_max = len(inputs), definition.held_max
    match combine:
        case None:
            return None
        case Concat():
            return Concatenated(count, clock, rows)
        case Zip():
            return Zipped(combine, count, rows, held_max)
        case Merge():
            return Sorted(count, combine.lateness_s, Merged(), clock=clock, rows=rows, sides=sides, held_max=held_max)
        case Join():
            joined = Joined(combine, inputs, sides)
            return Sorted(count, combine.lateness_s, joined, clock=clock, rows=rows, sides=sides, held_max=held_max)
        case Lookup():
            table = LookedUp(combine, inputs, state.part("table"), sides)
            return Sorted(
                count,
                combine.lateness_s,
                table,
                clock=clock,
                rows=rows,
                sides=sides,
                held_max=held_max,
                ranks=(1, 0),  # of what has the same time, the table comes first
            )


def _step(operator: Operator, name: str, state: State, sides: Sides) -> Step | Calling:
    if getattr(operator, "function", ""):
        match operator:
            case Map() | Filter() | FlatMap():
                return MapCalls(operator, sides)
            case Scan() | Reduce():
                return FoldCalls(operator, state.part(name), sides)
    match operator:
        case Map() | Filter() | FlatMap():
            return Each(operator, sides)
        case Take() | Skip():
            return Counted(operator, state.part(name))
        case TakeWhile() | SkipWhile() | Until():
            return Gate(operator, state.part(name))
        case Distinct():
            return Distinctly(operator, state.part(name), sides)
        case Scan() | Reduce():
            return Folded(operator, state.part(name), sides)
        case Batch():
            return Batches(operator, state.part(name))
        case Window():
            return Windows(operator, state.part(f"{name}-clock"), state.part(name), sides)
