"""Steps that look at one element after the other. Pure; what calls users' functions says which, and is given the results."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from apexstream.core.operators import (
    Batch,
    Distinct,
    Filter,
    FlatMap,
    Map,
    Reduce,
    Scan,
    Skip,
    SkipWhile,
    Take,
    TakeWhile,
    Until,
)
from apexstream.core.paths import place
from apexstream.core.stateless import ElementFailed, fits, found, make_of
from apexstream.processors.folds import Folds
from apexstream.processors.items import END, ENDED, Element, Item, Mark, Sides
from apexstream.processors.rows import Part

_ALL = b"all"  # the row of a step that has only one


class Step(Protocol):
    """Turns items into items and remembers in its part of the state."""

    def feed(self, items: Sequence[Item]) -> list[Item]:
        """Take what comes next, give what it makes of it."""


class Calling(Protocol):
    """A step whose results a user's function decides."""

    @property
    def function(self) -> str:
        """``plugin:function``."""

    @property
    def folds(self) -> bool:
        """Whether the function takes what the call before gave as its first argument."""

    @property
    def so_far(self) -> Any:
        """That argument for the first call; :data:`msgspec.UNSET`: there is none yet, the first value is the first result."""

    def answered(self, items: Sequence[Item], results: Sequence[Any]) -> list[Item]:
        """What ``results``, a value or an :class:`ElementFailed` for each element of ``items``, make of them."""


class Each:
    """``map``, ``filter`` and ``flat_map`` without a function."""

    def __init__(self, operator: Map | Filter | FlatMap, sides: Sides) -> None:
        self._make = make_of(operator)
        self._sides = sides

    def feed(self, items: Sequence[Item]) -> list[Item]:
        made: list[Item] = []
        for item in items:
            if not isinstance(item, Element):
                made.append(item)
                continue
            try:
                made.extend(Element(item.time, value) for value in self._make(item.value))
            except ElementFailed as problem:
                self._sides.failed(item, problem)
        return made


class Counted:
    """``take`` and ``skip``: how many were seen is remembered until it does not matter any more.

    When ``take`` has its elements the stream ends there, whatever the input still brings.
    """

    def __init__(self, operator: Take | Skip, part: Part) -> None:
        self._count = operator.count
        self._takes = isinstance(operator, Take)
        self._part = part

    def feed(self, items: Sequence[Item]) -> list[Item]:
        seen: int = self._part.get(_ALL) or 0
        kept: list[Item] = []
        for item in items:
            if self._takes and seen >= self._count:
                kept.append(END)
                break
            if not isinstance(item, Element):
                kept.append(item)
                continue
            if (seen < self._count) == self._takes:
                kept.append(item)
            seen = min(seen + 1, self._count)
            if self._takes and seen == self._count:
                kept.append(END)
                break
        self._part.put(_ALL, seen)
        return kept


class Gate:
    """``take_while``, ``skip_while`` and ``until``: passes, or does not, until an element decides for good."""

    def __init__(self, operator: TakeWhile | SkipWhile | Until, part: Part) -> None:
        self._passes = fits(operator.where)
        self._until = isinstance(operator, Until)
        self._skips = isinstance(operator, SkipWhile)
        self._part = part

    def feed(self, items: Sequence[Item]) -> list[Item]:
        kept: list[Item] = []
        decided = self._part.get(_ALL) is not None
        if decided and not self._skips:
            return [END]
        for item in items:
            if decided or not isinstance(item, Element):
                kept.append(item)
                continue
            passes = self._passes(item.value)
            decided = passes == self._until
            if self._until or passes != self._skips:
                kept.append(item)
            if decided:
                self._part.put(_ALL, 1)
                if not self._skips:
                    kept.append(END)
                    break
        return kept


class Distinctly:
    """``distinct``: a row a key with the number of when it was last seen."""

    def __init__(self, operator: Distinct, part: Part, sides: Sides) -> None:
        self._at = place(operator.key)
        self._most = operator.remembered_max
        self._part = part
        self._sides = sides
        by_age = sorted((number, key) for key, number in part.items())
        self._seen: OrderedDict[bytes, None] = OrderedDict((key, None) for _, key in by_age)
        self._next = by_age[-1][0] + 1 if by_age else 0

    def feed(self, items: Sequence[Item]) -> list[Item]:
        kept: list[Item] = []
        for item in items:
            if not isinstance(item, Element):
                kept.append(item)
                continue
            try:
                key = msgspec.json.encode(found(self._at, item.value))
            except ElementFailed as problem:
                self._sides.failed(item, problem)
                continue
            if key not in self._seen:
                kept.append(item)
            self._see(key)
        return kept

    def _see(self, key: bytes) -> None:
        self._seen[key] = None
        self._seen.move_to_end(key)
        self._part.put(key, self._next)
        self._next += 1
        if len(self._seen) > self._most:
            oldest, _ = self._seen.popitem(last=False)
            self._part.delete(oldest)


class Folded:
    """``scan`` and ``reduce`` with folds by name."""

    def __init__(self, operator: Scan | Reduce, part: Part, sides: Sides) -> None:
        self._folds = Folds(operator.give)
        self._scans = isinstance(operator, Scan)
        self._part = part
        self._sides = sides

    def feed(self, items: Sequence[Item]) -> list[Item]:
        row = self._part.get(_ALL)
        time, arrival, state = row or (0, 0, None)
        given: list[Item] = []
        for item in items:
            if isinstance(item, Mark) and item.time == ENDED and not self._scans and state is not None:
                given.append(Element(time, self._folds.result(state)))
            if not isinstance(item, Element):
                given.append(item)
                continue
            try:
                state = self._folds.add(state, self._folds.picked(item.time, arrival, item.value))
            except ElementFailed as problem:
                self._sides.failed(item, problem)
                continue
            time, arrival = max(time, item.time), arrival + 1
            if self._scans:
                given.append(Element(item.time, self._folds.result(state)))
        if state is not None:
            self._part.put(_ALL, [time, arrival, state])
        return given


class Batches:
    """``batch``: a list has the time of its last element."""

    def __init__(self, operator: Batch, part: Part) -> None:
        self._count = operator.count
        self._part = part

    def feed(self, items: Sequence[Item]) -> list[Item]:
        waiting: list[list[Any]] = list(self._part.get(_ALL) or ())
        given: list[Item] = []
        for item in items:
            if isinstance(item, Element):
                waiting.append([item.time, item.value])
            ends = isinstance(item, Mark) and item.time == ENDED
            if len(waiting) >= self._count or (ends and waiting):
                given.append(Element(waiting[-1][0], [value for _, value in waiting]))
                waiting = []
            if not isinstance(item, Element):
                given.append(item)
        self._part.put(_ALL, waiting)
        return given


class MapCalls:
    """``map``, ``filter`` and ``flat_map`` with a user's function."""

    folds = False
    so_far: Any = msgspec.UNSET

    def __init__(self, operator: Map | Filter | FlatMap, sides: Sides) -> None:
        self.function = operator.function
        self._make = {Map: _one, Filter: _if_true, FlatMap: _many}[type(operator)]
        self._sides = sides

    def answered(self, items: Sequence[Item], results: Sequence[Any]) -> list[Item]:
        made: list[Item] = []
        answers = iter(results)
        for item in items:
            if not isinstance(item, Element):
                made.append(item)
                continue
            try:
                made.extend(Element(item.time, value) for value in self._make(item.value, _good(next(answers))))
            except ElementFailed as problem:
                self._sides.failed(item, problem)
        return made


def _good(result: Any) -> Any:
    if isinstance(result, ElementFailed):
        raise result
    return result


def _one(_: Any, result: Any) -> Sequence[Any]:
    return (result,)


def _if_true(value: Any, result: Any) -> Sequence[Any]:
    if type(result) is not bool:
        raise ElementFailed(f"the function said {result!r:.40}, not true or false", where="filter")
    return (value,) if result else ()


def _many(_: Any, result: Any) -> Sequence[Any]:
    if type(result) is not list:
        raise ElementFailed(f"the function gave {result!r:.40}, not a list", where="flat_map")
    return result


class FoldCalls:
    """``scan`` and ``reduce`` with a user's function of what came out so far and the next value."""

    folds = True

    def __init__(self, operator: Scan | Reduce, part: Part, sides: Sides) -> None:
        self.function = operator.function
        self._scans = isinstance(operator, Scan)
        self._part = part
        self._sides = sides

    @property
    def so_far(self) -> Any:
        """What the last call gave."""
        row = self._part.get(_ALL)
        return msgspec.UNSET if row is None else row[1]

    def answered(self, items: Sequence[Item], results: Sequence[Any]) -> list[Item]:
        row = self._part.get(_ALL)
        given: list[Item] = []
        answers = iter(results)
        for item in items:
            if isinstance(item, Mark) and item.time == ENDED and not self._scans and row is not None:
                given.append(Element(*row))
            if not isinstance(item, Element):
                given.append(item)
                continue
            try:
                row = [item.time if row is None else max(row[0], item.time), _good(next(answers))]
            except ElementFailed as problem:
                self._sides.failed(item, problem)
                continue
            if self._scans:
                given.append(Element(item.time, row[1]))
        if row is not None:
            self._part.put(_ALL, row)
        return given


class Parted:
    """The elements that fall to one of ``parts``, by the value at ``path``."""

    def __init__(self, path: str, part: int, parts: int, fall: Callable[[bytes], int], sides: Sides) -> None:
        self._at = place(path)
        self._part, self._parts = part, parts
        self._fall = fall
        self._sides = sides

    def feed(self, items: Sequence[Item]) -> list[Item]:
        kept: list[Item] = []
        for item in items:
            if not isinstance(item, Element):
                kept.append(item)
                continue
            try:
                key = msgspec.json.encode(found(self._at, item.value))
            except ElementFailed as problem:
                if self._part == 0:  # every part sees it; one reports it
                    self._sides.failed(item, problem)
                continue
            if self._fall(key) % self._parts == self._part:
                kept.append(item)
        return kept
