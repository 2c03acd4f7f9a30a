"""How fast a stream may be written, so that those who read it keep up: a controller of one number. Pure.

Readers say how much of what they may be behind they are behind (``pressure``, 0 to 1). At ``HIGH`` and above the rate falls, at
``LOW`` and below it rises until it is no limit any more; in between it stays, and after each change it stays for a while, so that
what a change does is seen before the next. Nothing is ever dropped: who writes too fast waits.
"""

import math
from dataclasses import dataclass
from typing import Final

import msgspec

HIGH: Final = 0.5
LOW: Final = 0.2
SLOWER: Final = 0.7
FASTER: Final = 1.25
SETTLE_S: Final = 2.0  # after a change
EXPIRES_S: Final = 15.0  # a reader that says nothing any more is gone
FREE_FACTOR: Final = 2.0  # so far above what the stream did by itself, a limit is none any more
READERS_MAX: Final = 100
RATE_MIN: Final = 1.0  # chunks a second

SAY_S: Final = 5.0  # a reader under pressure says so at least so often
STEP: Final = 0.1  # or when it changed by so much


@dataclass(frozen=True, slots=True)
class Bounds:
    """Chunks a second. ``most`` infinite: as fast as the stream can when nobody is behind."""

    least: float = RATE_MIN
    most: float = math.inf


class Behind(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader says in a ``throttle`` command (JSON)."""

    reader: str
    pressure: float


def behind_words(reader: str, pressure: float) -> bytes:
    """The detail of such a command."""
    return msgspec.json.encode(Behind(reader=reader, pressure=round(pressure, 3)))


class Throttle:
    """One stream's rate. ``now`` is in seconds of a clock that does not jump."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = Bounds(min(bounds.least, bounds.most), bounds.most)
        self._pressures: dict[str, tuple[float, float]] = {}  # (pressure, when) by reader
        self._changed_at = -math.inf
        self._free = 0.0  # what the stream did when it was limited first
        self.rate = bounds.most  # infinite: no limit

    def press(self, reader: str, pressure: float, now: float) -> None:
        """What a reader says. Only the newest of ``READERS_MAX`` readers are heard."""
        self._pressures.pop(reader, None)
        self._pressures[reader] = min(1.0, max(0.0, pressure)), now
        if len(self._pressures) > READERS_MAX:
            del self._pressures[next(iter(self._pressures))]

    def pressure(self, now: float) -> float:
        """Of the reader that is furthest behind; 0 if nobody is."""
        return max((pressure for pressure, at in self._pressures.values() if now - at < EXPIRES_S), default=0.0)

    def look(self, seen_per_s: float, now: float) -> bool:
        """Decide anew; ``seen_per_s`` is what the stream does now. True if :attr:`rate` changed."""
        if now - self._changed_at < SETTLE_S:
            return False
        before, pressure = self.rate, self.pressure(now)
        if pressure >= HIGH:
            self._slow(seen_per_s)
        elif pressure <= LOW and before < self._bounds.most:
            faster = max(before, self._bounds.least) * FASTER
            self.rate = self._bounds.most if faster >= min(self._bounds.most, self._free * FREE_FACTOR) else faster
        if self.rate == before:
            return False
        self._changed_at = now
        return True

    def _slow(self, seen_per_s: float) -> None:
        base = min(self.rate, seen_per_s) if seen_per_s > 0 else self.rate
        if math.isinf(base):
            return  # it stands still by itself
        if self.rate == self._bounds.most:
            self._free = max(base, self._bounds.least)
        self.rate = max(self._bounds.least, base * SLOWER)


class Reporter:
    """When a reader's pressure is worth saying."""

    def __init__(self) -> None:
        self._said = 0.0
        self._said_at = -math.inf

    def due(self, pressure: float, now: float) -> bool:
        """True if it is to be said now."""
        moved = abs(pressure - self._said) >= STEP or (pressure == 0) != (self._said == 0)
        if moved or (pressure > 0 and now - self._said_at >= SAY_S):
            self._said, self._said_at = pressure, now
            return True
        return False
