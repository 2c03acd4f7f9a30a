"""What metrics are counted in: plain numbers, changed in the event loop, read by another thread when somebody scrapes.

Hot paths change a cell's number and nothing else: no lock, no clock, no label look-up. A cell is looked up once, where its
labels become known. A reader may see a sum without its newest observation, never a torn number.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

LABEL_SETS_MAX = 1_000  # of one metric; whatever comes beyond is counted together …
OTHER = "other"  # … under this value of every label


class Kind(StrEnum):
    """What a metric's number does: only grow, go up and down, or be spread over buckets."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What operators are told of a metric. ``unit`` is a base unit or what is counted."""

    name: str
    kind: Kind
    unit: str
    labels: tuple[str, ...]
    meaning: str


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One observation that stands for its bucket: the trace that it belongs to, its value, when (seconds since 1970)."""

    trace_id: str
    value: float
    at_s: float


class Number:
    """The cell of a counter or a gauge: add to ``value``, or set it."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0


class Spread:
    """The cell of a histogram. ``counts`` has one number a bucket and one for what lies above the last bound."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, times: int = 1) -> None:
        """Count ``value``, ``times`` over."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def exemplify(self, exemplar: Exemplar) -> None:
        """Count the exemplar's value and let it stand for its bucket, in place of the one before."""
        bucket = bisect_left(self.bounds, exemplar.value)
        self.counts[bucket] += 1
        self.sum += exemplar.value
        self.exemplars[bucket] = exemplar


C = TypeVar("C", bound=Number | Spread)
Labels = tuple[str, ...]
Read = Callable[[], float]


class Metric(Generic[C]):
    """A declared metric and its cells by label values."""

    def __init__(self, declaration: Declaration, make_cell: Callable[[], C]) -> None:
        self.declaration = declaration
        self._make_cell: Callable[[], C] = make_cell
        self._cells: dict[Labels, C] = {}

    def of(self, *labels: str) -> C:
        """The cell for these label values, in the order of the declaration."""
        cell = self._cells.get(labels)
        if cell is None:
            self.check(labels)
            if len(self._cells) >= LABEL_SETS_MAX:
                labels = (OTHER,) * len(labels)
            cell = self._cells.setdefault(labels, self._make_cell())
        return cell

    def check(self, labels: Labels) -> None:
        """Raise :class:`TypeError` unless there is one value a label."""
        if len(labels) != len(self.declaration.labels):
            raise TypeError(f"{self.declaration.name} has the labels {self.declaration.labels}, got {labels}")

    def cells(self) -> list[tuple[Labels, C]]:
        """All cells as they are now. Safe from any thread."""
        return list(self._cells.items())


class Counter(Metric[Number]):
    """A number that only grows while the process lives."""


class Histogram(Metric[Spread]):
    """Observations by size. ``bounds`` are the upper bounds of its buckets, ascending."""

    def __init__(self, declaration: Declaration, bounds: tuple[float, ...]) -> None:
        super().__init__(declaration, lambda: Spread(bounds))
        self.bounds = bounds


class Gauge(Metric[Number]):
    """A number that goes up and down, kept in a cell or read when somebody looks."""

    def __init__(self, declaration: Declaration, make_cell: Callable[[], Number]) -> None:
        super().__init__(declaration, make_cell)
        self._reads: dict[int, tuple[Labels, Read]] = {}
        self._next = 0

    def read(self, read: Read, *labels: str) -> Callable[[], None]:
        """Ask ``read`` at every scrape, from another thread, until what this returns is called. Several with the same labels
        are added up. It must be quick and change nothing; one that fails is left out."""
        self.check(labels)
        number, self._next = self._next, self._next + 1
        self._reads[number] = labels, read
        return lambda: self._reads.pop(number, None) and None

    def values(self) -> dict[Labels, float]:
        """What all cells and readers say now. Safe from any thread."""
        values: dict[Labels, float] = {labels: cell.value for labels, cell in self.cells()}
        for labels, value in _answers(list(self._reads.values())):
            values[labels] = values.get(labels, 0) + value
        return values


def _answers(reads: Iterable[tuple[Labels, Read]]) -> Iterator[tuple[Labels, float]]:
    for labels, read in reads:
        try:
            yield labels, read()
        except Exception:  # noqa: S112 - it looks at the loop's data from another thread, and may meet it half changed
            continue


Pages = Callable[[], Mapping[str, str]]
"""Gives the pages (OpenMetrics) of processes that are part of this service, by the value of the label ``worker``."""


class Declared:
    """All metrics of a process, each declared once."""

    def __init__(self) -> None:
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}
        self.beside: list[Pages] = []  # other processes' pages that are shown with this one's

    def counter(self, name: str, unit: str, meaning: str, *labels: str) -> Counter:
        """Declare a counter; its name ends with ``_total``."""
        metric = Counter(self._declare(name, Kind.COUNTER, unit, meaning, labels), Number)
        self._metrics[name] = metric
        return metric

    def gauge(self, name: str, unit: str, meaning: str, *labels: str) -> Gauge:
        """Declare a gauge."""
        metric = Gauge(self._declare(name, Kind.GAUGE, unit, meaning, labels), Number)
        self._metrics[name] = metric
        return metric

    def histogram(self, name: str, unit: str, meaning: str, *labels: str, bounds: tuple[float, ...]) -> Histogram:
        """Declare a histogram with these upper bounds of its buckets, ascending."""
        metric = Histogram(self._declare(name, Kind.HISTOGRAM, unit, meaning, labels), bounds)
        self._metrics[name] = metric
        return metric

    def all(self) -> tuple[Counter | Gauge | Histogram, ...]:
        """In the order of declaration."""
        return tuple(self._metrics.values())

    def _declare(self, name: str, kind: Kind, unit: str, meaning: str, labels: Labels) -> Declaration:
        if name in self._metrics:
            raise ValueError(f"{name} is declared twice")
        return Declaration(name=name, kind=kind, unit=unit, labels=labels, meaning=meaning)
