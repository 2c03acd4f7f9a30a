"""Two streams of events joined by key within a time: join. Event time only, so that a replay joins the same."""

from collections.abc import AsyncGenerator, Callable, Hashable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from apexstream.plugin.operators.calls import Function, above, at_least
from apexstream.plugin.operators.catching import MISSING, Missing
from apexstream.plugin.operators.reading import Inbox, Readers
from apexstream.plugin.operators.stream import Guard, Source, Stream
from apexstream.plugin.operators.windowing import HELD_MAX, handed_over, overflowing
from apexstream.plugin.operators.windows import ENDED, NEVER, Time

L = TypeVar("L")
R = TypeVar("R")

How: TypeAlias = Literal["inner", "left", "right", "outer"]


@dataclass(frozen=True, slots=True)
class Joined(Generic[L, R]):
    """A pair of one key; a side that has no partner in a left, right or outer join is with ``MISSING``."""

    key: Hashable
    left: L | Missing
    right: R | Missing


class Side:
    """What one side holds for partners to come, and how far it has got."""

    def __init__(self, within: Time, lateness: Time) -> None:
        self._within = within
        self._lateness = lateness
        self._by_key: dict[Hashable, dict[int, _Held]] = {}
        self._ages: list[tuple[Time, int, Hashable]] = []  # heap
        self._numbers = count()
        self.watermark: Time = NEVER

    def __len__(self) -> int:
        return len(self._ages)

    def partners(self, time: Time, key: Hashable) -> list["_Held"]:
        """What is held of this key within the time, by time, then arrival."""
        found = [held for held in self._by_key.get(key, {}).values() if abs(held.time - time) <= self._within]
        return sorted(found, key=lambda held: held.time)

    def hold(self, held: "_Held", key: Hashable) -> None:
        """Keep an element for partners that may come."""
        number = next(self._numbers)
        self._by_key.setdefault(key, {})[number] = held
        heappush(self._ages, (held.time, number, key))

    def advance(self, time: Time) -> None:
        """An element of this side has this time."""
        self.watermark = max(self.watermark, time - self._lateness)

    def expired(self, others_watermark: Time) -> list[tuple[Hashable, Any]]:
        """Let go of what no element of the other side can be a partner of; those of it that never had one, by time."""
        alone: list[tuple[Hashable, Any]] = []
        while self._ages and self._ages[0][0] + self._within < others_watermark:
            _, number, key = heappop(self._ages)
            held = self._by_key[key].pop(number)
            if not self._by_key[key]:
                del self._by_key[key]
            if not held.matched:
                alone.append((key, held.element))
        return alone


class _Held:
    __slots__ = ("element", "matched", "time")

    def __init__(self, element: Any, time: Time) -> None:
        self.element = element
        self.time = time
        self.matched = False


class Join:
    """The state of a join: what it gives for each element, and at the end of a side. Knows neither streams nor clocks."""

    def __init__(self, within: Time, lateness: Time, how: How) -> None:
        self.sides = (Side(within, lateness), Side(within, lateness))
        self._alone = {"inner": (False, False), "left": (True, False), "right": (False, True), "outer": (True, True)}[
            how
        ]

    def is_late(self, side: int, time: Time) -> bool:
        """Whether partners of such an element may be gone already."""
        return time < self.sides[side].watermark

    def add(self, side: int, time: Time, key: Hashable, element: Any) -> list[Joined[Any, Any]]:
        """What an element of ``side`` (0 left, 1 right), which is not late, gives."""
        own, other = self.sides[side], self.sides[1 - side]
        held = _Held(element, time)
        found: list[Joined[Any, Any]] = []
        for partner in other.partners(time, key):
            partner.matched = held.matched = True
            found.append(_pair(side, key, element, partner.element))
        own.hold(held, key)
        own.advance(time)
        return found + self._expired()

    def end(self, side: int) -> list[Joined[Any, Any]]:
        """What the end of ``side`` gives."""
        self.sides[side].watermark = ENDED
        return self._expired()

    def _expired(self) -> list[Joined[Any, Any]]:
        left, right = self.sides
        alone = [_pair(0, key, element, MISSING) for key, element in left.expired(right.watermark) if self._alone[0]]
        return alone + [
            _pair(1, key, element, MISSING) for key, element in right.expired(left.watermark) if self._alone[1]
        ]


def _pair(side: int, key: Hashable, element: Any, partner: Any) -> Joined[Any, Any]:
    return Joined(key, element, partner) if side == 0 else Joined(key, partner, element)


def join(
    left: Source[L],
    right: Source[R],
    *,
    within: Time,
    key_of: Callable[[Any], Hashable],
    time_of: Callable[[Any], Time],
    right_key_of: Callable[[R], Hashable] | None = None,
    right_time_of: Callable[[R], Time] | None = None,
    how: How = "inner",
    lateness: Time = 0,
    late: Function[Any, object] | None = None,
    held_max: int = HELD_MAX,
    ahead_max: int = 1,
) -> Stream[Joined[L, R]]:
    """Every pair of a left and a right element with equal keys whose times differ by ``within`` at most, as soon as the second
    of them comes; in a left, right or outer join also those of that side that had no partner, as soon as none can come.

    Each side has a watermark: its highest time less ``lateness``, and after its end infinity. An element is held until the
    other side's watermark is past its time plus ``within``. One below its own side's watermark is late: ``late`` gets it, or
    the stream fails with :class:`~apexstream.plugin.operators.LateElement`.

    Where both sides have elements ready, the one with the lower time goes first. A side that holds ``held_max`` elements is
    not read on before the other has moved; if both do, it is :class:`~apexstream.plugin.operators.Overflow`. A side that
    never comes therefore holds the other back, for ever: give it a ``timeout``.
    """
    at_least(0, within=within, lateness=lateness, ahead_max=ahead_max)
    above(0, held_max=held_max)
    Join(within, lateness, how)  # what is wrong is said now
    keys = (key_of, right_key_of or key_of)
    times = (time_of, right_time_of or time_of)

    async def run(guard: Guard | None) -> AsyncGenerator[Joined[L, R], None]:
        joining = Join(within, lateness, how)
        async with Readers(guard=guard) as readers:
            inboxes: list[Inbox[Any]] = [readers.add(source, max(1, ahead_max)) for source in (left, right)]
            open_sides = {0, 1}
            while open_sides:
                for side in [side for side in open_sides if inboxes[side].over]:
                    inboxes[side].finish()
                    open_sides.remove(side)
                    for joined in joining.end(side):
                        yield joined
                free = [side for side in open_sides if len(joining.sides[side]) < held_max]
                ready = [(times[side](inboxes[side].head), side) for side in free if inboxes[side]]
                if ready:
                    time, side = min(ready)
                    element = inboxes[side].take()
                    if joining.is_late(side, time):
                        await handed_over(element, late, joining.sides[side].watermark, "its partners")
                        continue
                    for joined in joining.add(side, time, keys[side](element), element):
                        yield joined
                elif free:
                    await readers.bell.wait()
                elif open_sides:
                    raise overflowing("both sides of a join", held_max)

    return Stream(run, left, right)
