"""Folds by name, as ``give`` lists them: what a window, a scan or a reduce makes of many elements. Pure.

A fold's state is JSON, starts as ``None`` and can be merged with another. Sums are exact whatever the order: of floats the
partial sums are kept (Shewchuk's algorithm, as :func:`math.fsum`), so an order of arrival never shows in a result.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apexstream.core.operators import split_fold
from apexstream.core.paths import place
from apexstream.core.stateless import ElementFailed
from apexstream.processors.items import Overflow

LIST_MAX = 10_000

Add = Callable[[Any, Any], Any]


class Folds:
    """Several folds of the same elements, by name."""

    def __init__(self, give: Mapping[str, str]) -> None:
        parsed = [(name, *split_fold(text)) for name, text in give.items()]
        self._folds = [(name, place(path or "$"), *_FOLDS[fold]) for name, fold, path in parsed]
        self._timed = [fold in {"first", "last", "list"} for _, fold, _ in parsed]

    def picked(self, time: int, arrival: int, value: Any) -> list[Any]:
        """What the folds need of an element. Raises :class:`ElementFailed`."""
        try:
            return [
                [time, arrival, at(value)] if timed else at(value)
                for (_, at, *_), timed in zip(self._folds, self._timed, strict=True)
            ]
        except LookupError as problem:
            raise ElementFailed(str(problem.args[0]), where="give") from None

    def add(self, state: Sequence[Any] | None, picked: Sequence[Any]) -> list[Any]:
        """The state after one more. Raises :class:`ElementFailed` and leaves ``state`` as it was."""
        before = [None] * len(self._folds) if state is None else state
        try:
            return [add(old, one) for (_, _, add, *_), old, one in zip(self._folds, before, picked, strict=True)]
        except TypeError as problem:
            raise ElementFailed(f"it cannot be folded: {problem}", where="give") from None

    def merged(self, first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
        """The state of the elements of both."""
        return [merge(a, b) for (_, _, _, merge, _), a, b in zip(self._folds, first, second, strict=True)]

    def result(self, state: Sequence[Any]) -> dict[str, Any]:
        """What all of them come to."""
        return {name: result(one) for (name, _, _, _, result), one in zip(self._folds, state, strict=True)}


def _number(value: Any) -> int | float:
    if type(value) is not int and (type(value) is not float or not math.isfinite(value)):
        raise TypeError(f"{value!r:.40} is not a number")
    return value


def _add_sum(state: list[Any] | None, value: Any) -> list[Any]:
    """``[sum of the integers, partial sums of the others]``."""
    number = _number(value)
    whole, partials = (0, []) if state is None else (state[0], list(state[1]))
    if type(number) is int:
        return [whole + number, partials]
    return [whole, _added(partials, float(number))]


def _added(partials: list[float], x: float) -> list[float]:
    kept = []
    for other in partials:
        big, small = (x, other) if abs(x) >= abs(other) else (other, x)
        high = big + small
        low = small - (high - big)
        if low:
            kept.append(low)
        x = high
    if not math.isfinite(x):
        raise TypeError("the sum is larger than any number")
    return [*kept, x]


def _merge_sum(first: list[Any], second: list[Any]) -> list[Any]:
    partials = list(first[1])
    for x in second[1]:
        partials = _added(partials, x)
    return [first[0] + second[0], partials]


def _sum(state: list[Any]) -> int | float:
    return state[0] if not state[1] else math.fsum([*state[1], state[0]])


def _add_mean(state: list[Any] | None, value: Any) -> list[Any]:
    count, total = (0, None) if state is None else state
    return [count + 1, _add_sum(total, value)]


def _listed(values: list[Any]) -> list[Any]:
    if len(values) > LIST_MAX:
        raise Overflow(f"a list would have more than {LIST_MAX} elements", where="give")
    return sorted(values, key=_place)


def _place(timed: Sequence[Any]) -> tuple[int, int]:
    return timed[0], timed[1]


def _least(state: Any, value: Any) -> Any:
    return [_number(value) if state is None else min(state[0], _number(value))]


def _most(state: Any, value: Any) -> Any:
    return [_number(value) if state is None else max(state[0], _number(value))]


def _only(state: Any) -> Any:
    return state[0]


# State, None at first, and one more; two states; the result.
_FOLDS: dict[str, tuple[Add, Add, Callable[[Any], Any]]] = {
    "count": (lambda state, _: (state or 0) + 1, lambda a, b: a + b, lambda state: state),
    "sum": (_add_sum, _merge_sum, _sum),
    "mean": (_add_mean, lambda a, b: [a[0] + b[0], _merge_sum(a[1], b[1])], lambda state: _sum(state[1]) / state[0]),
    "min": (_least, lambda a, b: [min(a[0], b[0])], _only),
    "max": (_most, lambda a, b: [max(a[0], b[0])], _only),
    # What has an order has it by time, then arrival: [time, arrival, value].
    "first": (
        lambda state, timed: timed if state is None else min(state, timed, key=_place),
        lambda a, b: min(a, b, key=_place),
        lambda state: state[2],
    ),
    "last": (
        lambda state, timed: timed if state is None else max(state, timed, key=_place),
        lambda a, b: max(a, b, key=_place),
        lambda state: state[2],
    ),
    "list": (
        lambda state, timed: _listed([*(state or ()), timed]),
        lambda a, b: _listed(a + b),
        lambda state: [value for _, _, value in state],
    ),
}
