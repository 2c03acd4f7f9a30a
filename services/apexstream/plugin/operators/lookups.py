"""Elements of a stream with what a table says of their key at their time: lookup. Event time only, as a join."""

from collections.abc import AsyncGenerator, Callable, Hashable
from heapq import heappop, heappush
from itertools import count
from typing import Any, Literal, TypeAlias, TypeVar

from apexstream.plugin.operators.calls import Function, above, at_least
from apexstream.plugin.operators.catching import MISSING
from apexstream.plugin.operators.errors import Overflow
from apexstream.plugin.operators.joining import Joined
from apexstream.plugin.operators.reading import Inbox, Readers
from apexstream.plugin.operators.stream import Guard, Source, Stream
from apexstream.plugin.operators.windowing import HELD_MAX, handed_over, overflowing
from apexstream.plugin.operators.windows import ENDED, NEVER, Time
from apexstream.plugin.values import Watermark

L = TypeVar("L")
R = TypeVar("R")

HowLookup: TypeAlias = Literal["inner", "left"]
_TABLE = 1


class Lookup:
    """The state of a lookup: what waits, what the table holds. Knows neither streams nor clocks.

    What comes waits until neither side can bring anything older, and then goes by time, the table first, then arrival: so the
    order in which the sides are read changes nothing.
    """

    def __init__(self, lateness: Time, how: HowLookup, keys_max: int) -> None:
        if how not in {"inner", "left"}:
            raise ValueError(f"how={how!r} is neither inner nor left")
        self._lateness = lateness
        self._drops = how == "inner"
        self._keys_max = keys_max
        self._table: dict[Hashable, Any] = {}
        self._waiting: list[tuple[Time, int, int, int, Hashable, Any]] = []
        self._numbers = count()
        self.held = [0, 0]
        self.watermarks: list[Time] = [NEVER, NEVER]

    def is_late(self, side: int, time: Time) -> bool:
        """Whether what is younger may have been given already."""
        return time < self.watermarks[side]

    def add(self, side: int, time: Time, key: Hashable, element: Any) -> None:
        """An element of ``side`` (0 the stream, 1 the table), which is not late."""
        heappush(self._waiting, (time, -side, next(self._numbers), side, key, element))
        self.held[side] += 1
        self.advance(side, time - self._lateness)

    def advance(self, side: int, watermark: Time) -> None:
        """No element of ``side`` below ``watermark`` follows."""
        self.watermarks[side] = max(self.watermarks[side], watermark)

    def ready(self) -> list[Joined[Any, Any]]:
        """What can be given now."""
        given: list[Joined[Any, Any]] = []
        until = min(self.watermarks)
        while self._waiting and self._waiting[0][0] < until:
            _, _, _, side, key, element = heappop(self._waiting)
            self.held[side] -= 1
            if side == _TABLE:
                self._put(key, element)
            elif key in self._table or not self._drops:
                given.append(Joined(key, element, self._table.get(key, MISSING)))
        return given

    def _put(self, key: Hashable, element: Any) -> None:
        self._table[key] = element
        if len(self._table) > self._keys_max:
            raise Overflow(f"the table of a lookup has more than {self._keys_max} keys", hint="Raise keys_max")


def lookup(
    source: Source[L],
    table: Source[R],
    *,
    key_of: Callable[[Any], Hashable],
    time_of: Callable[[Any], Time],
    table_key_of: Callable[[R], Hashable] | None = None,
    table_time_of: Callable[[R], Time] | None = None,
    how: HowLookup = "inner",
    lateness: Time = 0,
    late: Function[Any, object] | None = None,
    held_max: int = HELD_MAX,
    keys_max: int = HELD_MAX,
    ahead_max: int = 1,
) -> Stream[Joined[L, R]]:
    """Each element of ``source``, by time, with the newest element of ``table`` that has its key and is not younger. Without
    one, ``inner`` leaves it out and ``left`` gives it with ``MISSING``.

    Each side has a watermark, its highest time less ``lateness``, after its end infinity. An element waits until both are past
    its time; one below its own side's is late: ``late`` gets it, or the stream fails with
    :class:`~apexstream.plugin.operators.LateElement`. ``held_max`` elements of a side wait at most, and it is not read on
    before the other has moved; if both do, or the table has more than ``keys_max`` keys, it is
    :class:`~apexstream.plugin.operators.Overflow`.
    """
    at_least(0, lateness=lateness, ahead_max=ahead_max)
    above(0, held_max=held_max, keys_max=keys_max)
    Lookup(lateness, how, keys_max)  # what is wrong is said now
    keys = (key_of, table_key_of or key_of)
    times = (time_of, table_time_of or time_of)

    async def run(guard: Guard | None) -> AsyncGenerator[Joined[L, R], None]:
        looking = Lookup(lateness, how, keys_max)
        async with Readers(guard=guard) as readers:
            inboxes: list[Inbox[Any]] = [readers.add(each, max(1, ahead_max)) for each in (source, table)]
            open_sides = {0, 1}
            while open_sides:
                for side in [side for side in open_sides if inboxes[side].over]:
                    inboxes[side].finish()
                    open_sides.remove(side)
                    looking.advance(side, ENDED)
                for joined in looking.ready():
                    yield joined
                free = [side for side in open_sides if looking.held[side] < held_max]
                ready = [side for side in free if inboxes[side]]
                if ready:
                    side = min(ready, key=lambda side: looking.watermarks[side])
                    element = inboxes[side].take()
                    if isinstance(element, Watermark):
                        looking.advance(side, element.time)
                    elif looking.is_late(side, time := times[side](element)):
                        await handed_over(element, late, looking.watermarks[side], "younger ones")
                    else:
                        looking.add(side, time, keys[side](element), element)
                elif free:
                    await readers.bell.wait()
                elif open_sides:
                    raise overflowing("both sides of a lookup", held_max)

    return Stream(run, source, table)
