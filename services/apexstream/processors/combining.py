"""Several inputs made one. Pure.

What comes out depends on what each input holds and never on which of them was read first: each input decides by its own order
what is late, and everything else waits until no input can bring anything older, then goes by (time, input, arrival).
"""

from collections import deque
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Protocol

import msgspec

from apexstream.core.operators import Join, Lookup, Zip, microseconds
from apexstream.core.paths import place
from apexstream.core.pipelines import Input
from apexstream.core.stateless import ElementFailed
from apexstream.processors.items import END, ENDED, NEVER, Element, Item, Mark, Overflow, PipelineFailed, Sides, Tick
from apexstream.processors.rows import Part

_CLOCK = b"!"


class Combine(Protocol):
    """Makes one list of items of those of several inputs."""

    def feed(self, number: int, items: Sequence[Item]) -> list[Item]:
        """Take what comes next of input ``number``."""

    def wants(self, number: int) -> bool:
        """Whether more of that input should be read now. What is not wanted may come all the same."""


class Released(Protocol):
    """What is done with elements in their final order."""

    retention: int  # how far back of an element its result reaches, microseconds

    def take(self, number: int, element: Element) -> list[Item]:
        """The next element."""

    def advance(self, watermark: int) -> list[Item]:
        """No element below ``watermark`` follows."""


class Sorted:
    """Holds elements back until none that is older can come, then hands them over in order.

    What waits, and what the results still to come reach back to, is remembered as it came: a row for each list of elements.
    After a restart the elements that were handed over already are handed over once more, and what comes of it is dropped.
    """

    def __init__(
        self,
        count: int,
        lateness_s: float,
        released: Released,
        *,
        clock: Part,
        rows: Part,
        sides: Sides,
        held_max: int,
        ranks: Sequence[int] | None = None,
    ) -> None:
        self._lateness = microseconds(lateness_s)
        self._released = released
        self._clock = clock
        self._rows = rows
        self._sides = sides
        self._held_max = held_max
        self._ranks = ranks or range(count)
        stored = clock.get(_CLOCK) or [[[NEVER, 0]] * count, NEVER]
        self._watermarks = [watermark for watermark, _ in stored[0]]
        self._arrivals = [arrivals for _, arrivals in stored[0]]
        self._frontier: int = stored[1]
        self._waiting: list[tuple[int, int, int, int, Any]] = []
        self._held = [0] * count
        self._ages: list[tuple[int, bytes]] = []  # the newest time in each row
        self._restore()

    def feed(self, number: int, items: Sequence[Item]) -> list[Item]:
        kept: list[list[Any]] = []
        for item in items:
            if isinstance(item, Mark):
                self._advance(number, item.time)
            elif isinstance(item, Tick):
                self._advance(number, item.time - self._lateness)
            elif item.time < self._watermarks[number]:
                self._sides.late(item, f"late{number}")
            else:
                kept.append([item.time, self._arrivals[number], item.value])
                self._arrivals[number] += 1
                self._advance(number, item.time - self._lateness)
        self._keep(number, kept)
        given = self._release(min(self._watermarks))
        self._forget()
        self._clock.put(_CLOCK, [list(map(list, zip(self._watermarks, self._arrivals, strict=True))), self._frontier])
        if min(self._held) >= self._held_max:
            raise Overflow(
                f"every input holds {self._held_max} elements that wait for the others",
                where="combine",
                hint="Less lateness or a smaller within_s holds less; or raise held_max",
            )
        return given

    def wants(self, number: int) -> bool:
        """False while as much as ``held_max`` of it waits for the others."""
        return self._held[number] < self._held_max

    def _advance(self, number: int, watermark: int) -> None:
        self._watermarks[number] = max(self._watermarks[number], watermark)

    def _keep(self, number: int, kept: list[list[Any]]) -> None:
        if not kept:
            return
        key = f"{number}:{kept[0][1]}".encode()
        self._rows.put(key, kept)
        heappush(self._ages, (max(time for time, _, _ in kept), key))
        for time, arrival, value in kept:
            heappush(self._waiting, (time, self._ranks[number], arrival, number, value))
        self._held[number] += len(kept)

    def _release(self, frontier: int) -> list[Item]:
        given: list[Item] = []
        while self._waiting and self._waiting[0][0] < frontier:
            time, _, _, number, value = heappop(self._waiting)
            self._held[number] -= 1
            given += self._released.take(number, Element(time, value))
        if frontier > self._frontier:
            self._frontier = frontier
            given += self._released.advance(frontier)
        return given

    def _forget(self) -> None:
        while self._ages and (self._frontier == ENDED or self._ages[0][0] < self._frontier - self._released.retention):
            self._rows.delete(heappop(self._ages)[1])

    def _restore(self) -> None:
        reach = self._frontier - self._released.retention
        for key, kept in self._rows.items():
            number = int(key.partition(b":")[0])
            self._ages.append((max(time for time, _, _ in kept), key))
            for time, arrival, value in kept:
                if time >= reach:
                    self._waiting.append((time, self._ranks[number], arrival, number, value))
                    self._held[number] += 1
        heapify(self._ages)
        heapify(self._waiting)
        frontier, self._frontier = self._frontier, NEVER
        self._release(frontier)
        self._sides.taken()


class Merged:
    """``merge``: as they are."""

    retention = 0

    def take(self, _: int, element: Element) -> list[Item]:
        return [element]

    def advance(self, watermark: int) -> list[Item]:
        return [Mark(watermark)]


class _Held(msgspec.Struct):
    time: int
    number: int
    key: bytes
    value: Any
    matched: bool = False


class Joined:
    """``join``: pairs have the time of the younger one, and who stays alone that at which it is known."""

    def __init__(self, operator: Join, inputs: Sequence[Input], sides: Sides) -> None:
        self._within = microseconds(operator.within_s)
        self.retention = 2 * self._within  # who is held may have met a partner that is not held any more
        self._places = [place(entry.key) for entry in inputs]
        alone = {"inner": (False, False), "left": (True, False), "right": (False, True), "outer": (True, True)}
        self._alone = alone[operator.how]
        self._sides = sides
        self._held: deque[_Held] = deque()
        self._by_key: tuple[dict[bytes, deque[_Held]], dict[bytes, deque[_Held]]] = ({}, {})

    def take(self, number: int, element: Element) -> list[Item]:
        given = self._expire(element.time)
        key = _key(self._places[number], element, self._sides, number)
        if key is None:
            return given
        held = _Held(element.time, number, key, element.value)
        for partner in self._by_key[1 - number].get(key, ()):
            held.matched = partner.matched = True
            left, right = (held, partner) if number == 0 else (partner, held)
            value = {"key": msgspec.json.decode(key), "left": left.value, "right": right.value}
            given.append(Element(element.time, value))
        self._held.append(held)
        self._by_key[number].setdefault(key, deque()).append(held)
        return given

    def advance(self, watermark: int) -> list[Item]:
        return [*self._expire(watermark), Mark(watermark)]

    def _expire(self, time: int) -> list[Item]:
        alone: list[Item] = []
        while self._held and self._held[0].time + self._within < time:
            held = self._held.popleft()
            mine = self._by_key[held.number]
            mine[held.key].popleft()
            if not mine[held.key]:
                del mine[held.key]
            if not held.matched and self._alone[held.number]:
                value = {"key": msgspec.json.decode(held.key), ("left", "right")[held.number]: held.value}
                alone.append(Element(held.time + self._within, value))
        return alone


class LookedUp:
    """``lookup``: the table is in rows, a key each; a null value deletes."""

    retention = 0

    def __init__(self, operator: Lookup, inputs: Sequence[Input], table: Part, sides: Sides) -> None:
        self._places = [place(entry.key) for entry in inputs]
        self._drops = operator.how == "inner"
        self._table = table
        self._sides = sides

    def take(self, number: int, element: Element) -> list[Item]:
        key = _key(self._places[number], element, self._sides, number)
        if key is None:
            return []
        if number == 1:
            self._table.put(key, [element.value])
            return []
        found = self._table.get(key)
        value = {"key": msgspec.json.decode(key), "left": element.value}
        if found is None:
            return [] if self._drops else [Element(element.time, value)]
        return [Element(element.time, {**value, "right": found[0]})]

    def advance(self, watermark: int) -> list[Item]:
        return [Mark(watermark)]


def _key(at: Callable[[Any], Any], element: Element, sides: Sides, number: int) -> bytes | None:
    try:
        return msgspec.json.encode(at(element.value))
    except LookupError as problem:
        sides.failed(element, ElementFailed(str(problem.args[0]), where=f"inputs[{number}].key"))
        return None


class Concatenated:
    """``concat``: an input is wanted once those before it have ended; what comes earlier waits in rows."""

    def __init__(self, count: int, clock: Part, rows: Part) -> None:
        self._count = count
        self._clock = clock
        self._rows = rows
        self._current: int = clock.get(_CLOCK) or 0

    def feed(self, number: int, items: Sequence[Item]) -> list[Item]:
        if number != self._current:
            self._rows.put(str(number).encode(), [*(self._rows.get(str(number).encode()) or ()), *_stored(items)])
            return []
        given: list[Item] = []
        waiting: Sequence[Item] = items
        while True:
            given += [item for item in waiting if isinstance(item, Element)]
            if not waiting or waiting[-1] != END:
                return given
            self._current += 1
            self._clock.put(_CLOCK, self._current)
            if self._current == self._count:
                return [*given, END]
            key = str(self._current).encode()
            stored = self._rows.get(key)
            waiting = [] if stored is None else _restored(stored)
            if stored is not None:
                self._rows.delete(key)

    def wants(self, number: int) -> bool:
        """Only the one whose turn it is."""
        return number == self._current


class Zipped:
    """``zip``: lists of one element of each, with the time of the latest; what waits for its partners is in rows."""

    def __init__(self, operator: Zip, count: int, rows: Part, held_max: int) -> None:
        self._strict = operator.length == "strict"
        self._rows = rows
        self._held_max = held_max
        self._queues = [deque(_restored(rows.get(str(at).encode()) or ())) for at in range(count)]
        self._over = rows.get(_CLOCK) is not None

    def feed(self, number: int, items: Sequence[Item]) -> list[Item]:
        if self._over:
            return []
        self._queues[number].extend(item for item in items if isinstance(item, Element) or item == END)
        given: list[Item] = []
        while all(self._queues):
            row = [queue[0] for queue in self._queues]
            elements = [item for item in row if isinstance(item, Element)]
            if len(elements) < len(row):
                self._end(row)
                given.append(END)
                break
            for queue in self._queues:
                queue.popleft()
            given.append(Element(max(item.time for item in elements), [item.value for item in elements]))
        for at, queue in enumerate(self._queues):
            self._rows.put(str(at).encode(), _stored(queue))
        return given

    def _end(self, row: Sequence[Item]) -> None:
        ended = [item == END for item in row]
        if self._strict and not all(ended):
            raise PipelineFailed(
                f"input {ended.index(True)} ended before input {ended.index(False)}",
                where="combine",
                hint="length 'shortest' leaves out the rest",
            )
        self._over = True
        self._rows.put(_CLOCK, 1)

    def wants(self, number: int) -> bool:
        """False while as many as ``held_max`` wait for partners."""
        return len(self._queues[number]) < self._held_max


def _stored(items: Sequence[Item] | deque[Item]) -> list[list[Any]]:
    return [
        [item.time, item.value] if isinstance(item, Element) else []
        for item in items
        if isinstance(item, Element) or item == END
    ]


def _restored(stored: Sequence[Sequence[Any]]) -> list[Item]:
    return [Element(*one) if one else END for one in stored]
