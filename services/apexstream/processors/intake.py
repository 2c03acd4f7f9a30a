"""From the chunks of an input to items. Pure."""

import math
from collections.abc import Sequence
from typing import Any

from apexstream.core.chunk import WATERMARK_TYPE, Chunk, Kind
from apexstream.core.paths import place
from apexstream.core.pipelines import Input
from apexstream.core.stateless import ElementFailed, decoded
from apexstream.processors.items import END, Element, Item, Mark, Sides, Tick

_FACTORS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_TIME_MAX = 1 << 62


class Intake:
    """Reads the chunks of one input. ``failed`` is the side output of what cannot be read."""

    def __init__(self, entry: Input, sides: Sides, failed: str) -> None:
        self._time = place(entry.time) if entry.time else None
        self._factor = _FACTORS[entry.unit]
        self._stream = entry.stream
        self._sides = sides
        self._failed = failed

    def items(self, chunks: Sequence[Chunk]) -> list[Item]:
        """What the chunks are. Progress shows how far time is if elements have the time of their chunk; the end is ``END``."""
        items: list[Item] = []
        for chunk in chunks:
            if chunk.kind is Kind.DATA:
                item = self._item(chunk)
                if item is not None:
                    items.append(item)
            elif chunk.kind is Kind.PROGRESS:
                if self._time is None:
                    items.append(Tick(chunk.event_time_us))
            else:
                items.append(END)
        return items

    def _item(self, chunk: Chunk) -> Item | None:
        value: Any = None
        try:
            value = decoded(chunk)
            if chunk.content_type == WATERMARK_TYPE:
                return Mark(self._microseconds(value))
            return Element(chunk.event_time_us if self._time is None else self._time_of(value), value)
        except ElementFailed as problem:
            self._sides.failed(Element(chunk.event_time_us, value), problem, self._failed)
            return None

    def _time_of(self, value: Any) -> int:
        assert self._time is not None  # noqa: S101 - asked before
        try:
            return self._microseconds(self._time(value))
        except LookupError as problem:
            raise ElementFailed(str(problem.args[0]), where=f"{self._stream}.time") from None

    def _microseconds(self, found: Any) -> int:
        if type(found) not in {int, float} or not math.isfinite(found) or abs(found) * self._factor > _TIME_MAX:
            raise ElementFailed(f"{found!r:.40} is no time", where=f"{self._stream}.time")
        return found * self._factor if type(found) is int else round(found * self._factor)
