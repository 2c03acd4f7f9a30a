"""Windows in event time, as folds by key: tumbling, hopping, sliding, session. Pure.

A row a key holds its open windows. The watermark, which is the highest time seen less the lateness, closes the windows of all
keys; which ones are due is known from a heap that is rebuilt from the rows when the state is loaded. Semantics, order
and lateness are those of ``plugin.operators.windows``.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Protocol

import msgspec

from apexstream.core.operators import Window, microseconds
from apexstream.core.paths import place
from apexstream.core.stateless import ElementFailed
from apexstream.processors.folds import Folds
from apexstream.processors.items import ENDED, NEVER, Element, Item, Mark, Sides, Tick
from apexstream.processors.rows import Part

_CLOCK = b"!"  # no JSON begins like this

Closed = tuple[int, int, int, bytes, Any]  # end, start, arrival, key, state of the folds
_Due = tuple[int, int, int, bytes]  # watermark at which to look at a key, and for a stable order start, arrival, key


class Kind(Protocol):
    """The open windows of all keys."""

    def add(self, key: bytes, time: int, arrival: int, picked: Sequence[Any], watermark: int) -> bool:
        """Fold an element into its windows; False if all of them are closed. Raises :class:`ElementFailed`."""

    def close(self, watermark: int) -> list[Closed]:
        """Forget and give what the watermark has closed."""


class Windows:
    """``window``: one element for each window that is closed, by end, start and arrival."""

    def __init__(self, operator: Window, clock: Part, rows: Part, sides: Sides) -> None:
        self._folds = Folds(operator.give)
        self._key = None if not operator.key else place(operator.key)
        self._lateness = microseconds(operator.lateness_s)
        self._clock = clock
        self._sides = sides
        watermark, arrivals = clock.get(_CLOCK) or (NEVER, 0)
        self._watermark: int = watermark
        self._arrivals: int = arrivals
        self._kind = _kind(operator, rows, self._folds)

    def feed(self, items: Sequence[Item]) -> list[Item]:
        given: list[Item] = []
        for item in items:
            if isinstance(item, Element):
                self._add(item)
            elif isinstance(item, Tick):
                self._watermark = max(self._watermark, item.time - self._lateness)
            else:
                self._watermark = max(self._watermark, item.time)
            given += self._closed()
            if isinstance(item, Mark):
                given.append(item)
        self._clock.put(_CLOCK, [self._watermark, self._arrivals])
        if given and not isinstance(given[-1], Mark) and self._watermark > NEVER:
            given.append(Mark(self._watermark))
        return given

    def _add(self, element: Element) -> None:
        arrival = self._arrivals
        try:
            key = b"null" if self._key is None else msgspec.json.encode(self._key(element.value))
            picked = self._folds.picked(element.time, arrival, element.value)
            taken = self._kind.add(key, element.time, arrival, picked, self._watermark)
        except LookupError as problem:
            self._sides.failed(element, ElementFailed(str(problem.args[0]), where="window.key"))
            return
        except ElementFailed as problem:
            self._sides.failed(element, problem)
            return
        self._arrivals += 1
        self._watermark = max(self._watermark, element.time - self._lateness)
        if not taken:
            self._sides.late(element)

    def _closed(self) -> list[Item]:
        closed = sorted(self._kind.close(self._watermark), key=lambda found: found[:3])
        return [
            Element(end, {"key": msgspec.json.decode(key), "start": start, "end": end, **self._folds.result(state)})
            for end, start, _, key, state in closed
        ]


def _kind(operator: Window, rows: Part, folds: Folds) -> Kind:
    if operator.kind == "session":
        return Sessions(microseconds(operator.gap_s), rows, folds)
    size = microseconds(operator.size_s)
    if operator.kind == "sliding":
        return Slides(size, rows, folds)
    return Spans(size, microseconds(operator.hop_s) or size, rows, folds)


class Spans:
    """Tumbling and hopping. A row: ``[[start, arrival of the first, state], …]`` by start."""

    def __init__(self, size: int, hop: int, rows: Part, folds: Folds) -> None:
        self._size, self._hop = size, hop
        self._rows = rows
        self._folds = folds
        self._due: list[_Due] = [
            (start + size, start, arrival, key) for key, row in rows.items() for start, arrival, _ in row
        ]
        heapify(self._due)

    def add(self, key: bytes, time: int, arrival: int, picked: Sequence[Any], watermark: int) -> bool:
        last = time // self._hop * self._hop
        first = (time - self._size) // self._hop * self._hop + self._hop
        starts = [start for start in range(first, last + 1, self._hop) if start + self._size > watermark]
        row = {start: [start, since, state] for start, since, state in self._rows.get(key) or ()}
        added = [(start, row.get(start) or [start, arrival, None]) for start in starts]
        updated = [[start, since, self._folds.add(state, picked)] for _, (start, since, state) in added]
        for window in updated:
            if window[0] not in row:
                heappush(self._due, (window[0] + self._size, window[0], window[1], key))
            row[window[0]] = window
        if updated:
            self._rows.put(key, [row[start] for start in sorted(row)])
        return bool(updated)

    def close(self, watermark: int) -> list[Closed]:
        closed: list[Closed] = []
        while self._due and self._due[0][0] <= watermark:
            end, start, arrival, key = heappop(self._due)
            row = self._rows.get(key)
            ((_, _, state),) = (window for window in row if window[0] == start)
            left = [window for window in row if window[0] != start]
            if left:
                self._rows.put(key, left)
            else:
                self._rows.delete(key)
            closed.append((end, start, arrival, key, state))
        return closed


class Slides:
    """Sliding. A row: ``[closed before, [[time, arrival, picked], …]]`` by time, then arrival."""

    def __init__(self, size: int, rows: Part, folds: Folds) -> None:
        self._size = size
        self._rows = rows
        self._folds = folds
        self._due: list[_Due] = []  # windows to be closed …
        self._old: list[tuple[int, bytes]] = []  # … and keys with an element that none will reach back to
        for key, (before, held) in rows.items():
            times: dict[int, int] = {}
            for time, arrival, _ in held:
                if time >= before:
                    times.setdefault(time, arrival)
            self._due += [(time, time, arrival, key) for time, arrival in times.items()]
            self._old += [(time, key) for time in {time for time, _, _ in held}]
        heapify(self._due)
        heapify(self._old)

    def add(self, key: bytes, time: int, arrival: int, picked: Sequence[Any], watermark: int) -> bool:
        if time < watermark:
            return False
        self._folds.add(None, picked)  # what cannot be folded fails now, not when its window closes
        before, held = self._rows.get(key) or (NEVER, [])
        if all(other[0] != time for other in held):
            heappush(self._due, (time, time, arrival, key))
            heappush(self._old, (time, key))
        insort(held, [time, arrival, list(picked)], key=lambda timed: (timed[0], timed[1]))
        self._rows.put(key, [before, held])
        return True

    def close(self, watermark: int) -> list[Closed]:
        closed: list[Closed] = []
        while self._due and self._due[0][0] < watermark:
            time, _, arrival, key = heappop(self._due)
            _, held = self._rows.get(key)
            first, last = (bisect_right(held, edge, key=lambda timed: timed[0]) for edge in (time - self._size, time))
            state: Any = None
            for _, _, picked in held[first:last]:
                state = self._folds.add(state, picked)
            self._rows.put(key, [time + 1, held])
            closed.append((time, time - self._size, arrival, key, state))
        while self._old and (watermark == ENDED or self._old[0][0] <= watermark - self._size):
            time, key = heappop(self._old)
            row = self._rows.get(key)
            if row is None:
                continue
            held = [timed for timed in row[1] if timed[0] > time]
            if held:
                self._rows.put(key, [row[0], held])
            else:
                self._rows.delete(key)
        return closed


class Sessions:
    """Sessions. A row: ``[[first, last, arrival of the last to come, state], …]`` by first."""

    def __init__(self, gap: int, rows: Part, folds: Folds) -> None:
        self._gap = gap
        self._rows = rows
        self._folds = folds
        self._due: list[_Due] = [
            (last + gap, first, arrival, key) for key, row in rows.items() for first, last, arrival, _ in row
        ]
        heapify(self._due)

    def add(self, key: bytes, time: int, arrival: int, picked: Sequence[Any], watermark: int) -> bool:
        row = self._rows.get(key) or []
        near = [found for found in row if found[0] - self._gap < time < found[1] + self._gap]
        if not near and time + self._gap <= watermark:
            return False
        session: list[Any] = [time, time, arrival, self._folds.add(None, picked)]
        for other in near:
            session = [
                min(session[0], other[0]),
                max(session[1], other[1]),
                arrival,
                self._folds.merged(other[3], session[3]),
            ]
        kept = [found for found in row if found not in near]
        self._rows.put(key, sorted([*kept, session], key=lambda found: found[0]))
        heappush(self._due, (session[1] + self._gap, session[0], arrival, key))
        return True

    def close(self, watermark: int) -> list[Closed]:
        closed: list[Closed] = []
        while self._due and self._due[0][0] <= watermark:
            end, first, arrival, key = heappop(self._due)
            row = self._rows.get(key) or []
            found = [session for session in row if session[:3] == [first, end - self._gap, arrival]]
            if not found:
                continue  # it was merged into another since
            left = [session for session in row if session is not found[0]]
            if left:
                self._rows.put(key, left)
            else:
                self._rows.delete(key)
            closed.append((end, first, arrival, key, found[0][3]))
        return closed
