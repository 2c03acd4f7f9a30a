"""What is known of actions and streams from ``apex.stats``: windows by name, put together from all partitions. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, linear_regression

from apexstream.client.statistics import StatsWindow, Trend
from apexstream.core.events import Scope, WindowStats
from apexstream.core.widths import RETENTION_S, TOTALS, US, start_of

GRACE_US = 3 * US  # after its end a window is over: processors write what they counted once a second
WINDOWS_MAX = 1_500  # of one answer
STEADY = 0.1  # a change over the whole history of less than this, relative to its mean, is none

Name = tuple[Scope, str, str]
"""Scope, tenant and name."""
_Place = tuple[Name, int, int]

_SUMS = (
    "chunks",
    "payload_bytes",
    "claims",
    "rewinds",
    "started",
    "retried",
    "parked",
    "completed",
    "failed",
    "cancelled",
)


class History:
    """Windows as processors wrote them. What has expired gets a tombstone there and goes here."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, bytes], _Place] = {}
        self._names: dict[Name, dict[int, dict[int, dict[int, WindowStats]]]] = {}

    def take(self, partition: int, key: bytes, row: WindowStats | None) -> None:
        """The newest state of the window under ``key``; None: it is gone."""
        self._forget(partition, key)
        if row is None:
            return
        name = (row.scope, row.tenant, row.name)
        self._places[partition, key] = name, row.width_s, row.start_us
        widths = self._names.setdefault(name, {})
        widths.setdefault(row.width_s, {}).setdefault(row.start_us, {})[partition] = row

    def names(self, scope: Scope) -> list[Name]:
        """All that something is known of."""
        return sorted(name for name in self._names if name[0] is scope)

    def find(self, scope: Scope, name: str) -> list[Name]:
        """The same name in all tenants that have it."""
        return [known for known in self._names if known[0] is scope and known[2] == name]

    def action(self, names: Iterable[Name]) -> str:
        """The action of a stream."""
        rows = (row for name in names for row in self._at(name, TOTALS))
        return next((row.action for row in rows if row.action), "")

    def totals(self, names: Iterable[Name], now_us: int) -> StatsWindow | None:
        """All of a stream so far, rates over its life up to its last chunk; None if nothing is known."""
        rows = [row for name in names for row in self._at(name, TOTALS)]
        if not rows:
            return None
        start_us, last_us = min(row.start_us for row in rows), max(row.last_us for row in rows)
        ended = any(row.completed + row.failed + row.cancelled for row in rows)
        return _window(rows, start_us, TOTALS, max(1.0, (last_us - start_us) / US), whole=ended or last_us > now_us)

    def windows(self, names: Sequence[Name], width_s: int, now_us: int) -> list[StatsWindow]:
        """All windows that are kept, oldest first, without holes: to now, or to the end of a stream that has ended."""
        found: dict[int, list[WindowStats]] = defaultdict(list)
        for name in names:
            for start_us, rows in self._names.get(name, {}).get(width_s, {}).items():
                found[start_us] += rows.values()
        if not found:
            return []
        oldest_us = now_us - min(RETENTION_S[name[0]][width_s] for name in names) * US
        totals = self.totals(names, now_us)
        last_us = max(found) if totals is not None and totals.whole else start_of(now_us, width_s)
        first_us = max(min(found), start_of(oldest_us, width_s) + width_s * US, last_us - WINDOWS_MAX * width_s * US)
        return [
            _window(found.get(at, ()), at, width_s, width_s, whole=at + width_s * US + GRACE_US <= now_us)
            for at in range(first_us, last_us + 1, width_s * US)
        ]

    def _at(self, name: Name, width_s: int) -> Iterable[WindowStats]:
        return [row for rows in self._names.get(name, {}).get(width_s, {}).values() for row in rows.values()]

    def _forget(self, partition: int, key: bytes) -> None:
        place = self._places.pop((partition, key), None)
        if place is None:
            return
        name, width_s, start_us = place
        widths = self._names[name]
        del widths[width_s][start_us][partition]
        if not widths[width_s][start_us]:
            del widths[width_s][start_us]
        if not widths[width_s]:
            del widths[width_s]
        if not widths:
            del self._names[name]


def trend_of(windows: Sequence[StatsWindow]) -> Trend:
    """Where ``windows`` are going; those that are not over do not count."""
    whole = [window for window in windows if window.whole]
    rate, rate_per_s = _slope([(window.start_us / US, window.chunks_per_s) for window in whole])
    found = [(w.start_us / US, w.latency_mean_s) for w in whole if w.latency_mean_s is not None]
    latency, latency_per_s = _slope(found)
    return Trend(rate=rate, rate_per_s=rate_per_s, latency=latency, latency_per_s=latency_per_s)


def _slope(points: Sequence[tuple[float, float]]) -> tuple[str, float]:
    if len(points) < 3:
        return "steady", 0.0
    began = points[0][0]
    slope = linear_regression([at - began for at, _ in points], [value for _, value in points]).slope
    change = slope * (points[-1][0] - began)
    if abs(change) <= STEADY * abs(fmean(value for _, value in points)):
        return "steady", slope
    return ("rising" if change > 0 else "falling"), slope


def _window(rows: Iterable[WindowStats], start_us: int, width_s: int, seconds: float, *, whole: bool) -> StatsWindow:
    rows = list(rows)
    sums = {name: sum(getattr(row, name) for row in rows) for name in _SUMS}
    measured = sum(row.latency_count for row in rows)
    return StatsWindow(
        start_us=start_us,
        width_s=width_s,
        chunks_per_s=sums["chunks"] / seconds,
        bytes_per_s=sums["payload_bytes"] / seconds,
        latency_mean_s=sum(row.latency_sum_us for row in rows) / measured / US if measured else None,
        latency_max_s=max(row.latency_max_us for row in rows) / US if measured else None,
        gap_max_s=max((row.gap_max_us for row in rows), default=0) / US,
        whole=whole,
        **sums,
    )
