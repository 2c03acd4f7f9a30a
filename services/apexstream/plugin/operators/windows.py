"""Which window an element belongs to, and when a window is closed: decisions without I/O and without a clock.

Times are numbers of one unit, whichever the caller likes (integers are exact). The *watermark* is the highest time seen, less
the lateness: elements below it are not expected any more. A window is closed as soon as the watermark says that no element
can fall into it any more, whatever its key.
"""

from bisect import bisect_right, insort
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import nextafter
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

Time: TypeAlias = float
NEVER = float("-inf")
ENDED = float("inf")


@dataclass(frozen=True, slots=True)
class Tumbling:
    """Windows [start, end) of ``size``, one after the other; starts are multiples of ``size``."""

    size: Time

    def __post_init__(self) -> None:
        _positive(size=self.size)


@dataclass(frozen=True, slots=True)
class Hopping:
    """Windows [start, end) of ``size``; starts are multiples of ``hop``, which is at most ``size``, so that they overlap."""

    size: Time
    hop: Time

    def __post_init__(self) -> None:
        _positive(size=self.size, hop=self.hop)
        if self.hop > self.size:
            raise ValueError(f"hop {self.hop} is more than size {self.size}: elements between windows would be in none")


@dataclass(frozen=True, slots=True)
class Sliding:
    """For each key and time at which an element is, the window (time - ``size``, time]: what had happened by then."""

    size: Time

    def __post_init__(self) -> None:
        _positive(size=self.size)


@dataclass(frozen=True, slots=True)
class Session:
    """Elements of a key of which each is less than ``gap`` from the next; [first, last + gap)."""

    gap: Time

    def __post_init__(self) -> None:
        _positive(gap=self.gap)


WindowKind: TypeAlias = Tumbling | Hopping | Sliding | Session


def _positive(**values: Time) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}, and must be above 0")


@dataclass(frozen=True, slots=True)
class Window(Generic[T]):
    """A closed window: its bounds (see its kind), its key (None without ``key_of``), its elements by time, then arrival."""

    start: Time
    end: Time
    key: Hashable
    elements: tuple[T, ...]


Timed: TypeAlias = tuple[Time, int, Any]  # time, number of arrival, element
Closed: TypeAlias = tuple[Time, Time, int, Hashable, list[Timed]]  # start, end, an arrival of the key, key, elements
_by_time = itemgetter(0, 1)


class Assigner(Protocol):
    """The open windows of one kind."""

    def add(self, key: Hashable, timed: Timed, watermark: Time) -> bool:
        """Put an element in its windows; False if all of them are closed."""
        ...

    def close(self, watermark: Time) -> Iterable[Closed]:
        """Remove what the watermark has closed."""
        ...

    def due(self) -> Time:
        """The earliest watermark that may close something; ``ENDED`` if nothing is open."""
        ...

    def __len__(self) -> int:
        """Elements held; one in several windows counts in each that holds a place for it."""
        ...


class Windows:
    """All open windows of a stream, and its watermark."""

    def __init__(self, kind: WindowKind, lateness: Time = 0) -> None:
        if not lateness >= 0:
            raise ValueError(f"lateness is {lateness}, and must be at least 0")
        self._assigner = _assigner(kind)
        self._lateness = lateness
        self._arrivals = count()
        self.watermark: Time = NEVER

    def __len__(self) -> int:
        return len(self._assigner)

    def due(self) -> Time:
        """The earliest watermark that may close something; ``ENDED`` if nothing is open."""
        return self._assigner.due()

    def add(self, time: Time, key: Hashable, element: Any) -> bool:
        """Take an element in, and let it move the watermark; False if it is late: it belongs to closed windows only.

        Raises :class:`ValueError` for a time that is no finite number.
        """
        if not NEVER < time < ENDED:
            raise ValueError(f"{time} is no time")
        taken = self._assigner.add(key, (time, next(self._arrivals), element), self.watermark)
        self.watermark = max(self.watermark, time - self._lateness)
        return taken

    def advance(self, watermark: Time) -> None:
        """Nothing under ``watermark`` will come any more."""
        self.watermark = max(self.watermark, watermark)

    def closed(self) -> list[Window[Any]]:
        """The windows that the watermark has closed since the last call, by end, start, and arrival."""
        closed = sorted(self._assigner.close(self.watermark), key=lambda found: (found[1], found[0], found[2]))
        return [
            Window(start, end, key, tuple(element for _, _, element in sorted(elements, key=_by_time)))
            for start, end, _, key, elements in closed
        ]


def _assigner(kind: WindowKind) -> Assigner:
    match kind:
        case Tumbling(size):
            return _Aligned(size, size)
        case Hopping(size, hop):
            return _Aligned(size, hop)
        case Sliding(size):
            return _Sliding(size)
        case Session(gap):
            return _Sessions(gap)


class _Aligned:
    """Tumbling and hopping windows. The windows of one start are kept together, so that closing looks at no others."""

    def __init__(self, size: Time, hop: Time) -> None:
        self._size = size
        self._hop = hop
        self._open: dict[Time, dict[Hashable, list[Timed]]] = {}
        self._starts: list[Time] = []
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def due(self) -> Time:
        return self._starts[0] + self._size if self._starts else ENDED

    def _starts_of(self, time: Time) -> Iterator[Time]:
        number = time // self._hop
        while (start := number * self._hop) + self._size > time:
            yield start
            number -= 1

    def add(self, key: Hashable, timed: Timed, watermark: Time) -> bool:
        taken = False
        for start in self._starts_of(timed[0]):
            if start + self._size <= watermark:
                break
            if start not in self._open:
                self._open[start] = {}
                insort(self._starts, start)
            self._open[start].setdefault(key, []).append(timed)
            self._held += 1
            taken = True
        return taken

    def close(self, watermark: Time) -> Iterator[Closed]:
        done = 0
        for start in self._starts:
            if start + self._size > watermark:
                break
            done += 1
            for key, elements in self._open.pop(start).items():
                self._held -= len(elements)
                yield start, start + self._size, elements[0][1], key, elements
        del self._starts[:done]


class _Sliding:
    """Elements by key and time; a window is cut out when it closes, so that an element is held once."""

    def __init__(self, size: Time) -> None:
        self._size = size
        self._held: dict[Hashable, list[Timed]] = {}
        self._ages: list[tuple[Time, int, Hashable]] = []  # heap of all that is held
        self._open: list[tuple[Time, int, Hashable]] = []  # heap of windows: time, first arrival, key
        self._known: set[tuple[Hashable, Time]] = set()

    def __len__(self) -> int:
        return len(self._ages)

    def due(self) -> Time:
        return nextafter(self._open[0][0], ENDED) if self._open else ENDED

    def add(self, key: Hashable, timed: Timed, watermark: Time) -> bool:
        time, arrival, _ = timed
        if time < watermark:
            return False
        insort(self._held.setdefault(key, []), timed, key=_by_time)
        heappush(self._ages, (time, arrival, key))
        if (key, time) not in self._known:
            self._known.add((key, time))
            heappush(self._open, (time, arrival, key))
        return True

    def close(self, watermark: Time) -> Iterator[Closed]:
        while self._open and self._open[0][0] < watermark:
            time, arrival, key = heappop(self._open)
            self._known.discard((key, time))
            held = self._held[key]
            first, last = (bisect_right(held, edge, key=itemgetter(0)) for edge in (time - self._size, time))
            yield time - self._size, time, arrival, key, held[first:last]
        while self._ages and self._ages[0][0] <= watermark - self._size:  # no window to come reaches back to it
            _, _, key = heappop(self._ages)
            del self._held[key][0]
            if not self._held[key]:
                del self._held[key]


class _Open:
    """A session that is open, or that was merged into another and is none any more."""

    __slots__ = ("elements", "first", "last", "merged")

    def __init__(self, timed: Timed) -> None:
        self.first = self.last = timed[0]
        self.elements = [timed]
        self.merged = False

    def merge(self, other: "_Open") -> None:
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.elements += other.elements
        other.merged = True


class _Sessions:
    """Open sessions of each key, apart by at least the gap."""

    def __init__(self, gap: Time) -> None:
        self._gap = gap
        self._open: dict[Hashable, list[_Open]] = {}
        self._ends: list[tuple[Time, int, Hashable, _Open]] = []  # heap; a session may have grown since
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def due(self) -> Time:
        return self._ends[0][0] if self._ends else ENDED

    def add(self, key: Hashable, timed: Timed, watermark: Time) -> bool:
        time, arrival, _ = timed
        sessions = self._open.get(key, [])
        near = [found for found in sessions if found.first - self._gap < time < found.last + self._gap]
        if not near and time + self._gap <= watermark:
            return False
        session = _Open(timed)
        for other in near:
            session.merge(other)
        self._open[key] = [found for found in sessions if not found.merged] + [session]
        heappush(self._ends, (session.last + self._gap, arrival, key, session))
        self._held += 1
        return True

    def close(self, watermark: Time) -> Iterator[Closed]:
        while self._ends and self._ends[0][0] <= watermark:
            end, arrival, key, session = heappop(self._ends)
            if session.merged:
                continue
            self._open[key].remove(session)
            if not self._open[key]:
                del self._open[key]
            self._held -= len(session.elements)
            yield session.first, end, arrival, key, session.elements
