"""The windows of one partition: which exist, which have changed, which are too old. Pure."""

import heapq
from collections.abc import Iterable, Iterator

import msgspec

from apexstream.core.events import Scope, WindowStats
from apexstream.core.widths import RETENTION_S, TOTALS, US

Key = bytes


class Window(msgspec.Struct, kw_only=True, gc=False):
    """A :class:`WindowStats` that is still being counted in."""

    scope: Scope
    name: str
    action: str
    tenant: str
    width_s: int
    start_us: int
    chunks: int = 0
    payload_bytes: int = 0
    latency_count: int = 0
    latency_sum_us: int = 0
    latency_max_us: int = 0
    gap_max_us: int = 0
    claims: int = 0
    rewinds: int = 0
    started: int = 0
    retried: int = 0
    parked: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    chunks_to: int = -1
    events_to: int = -1
    attempt: int = 0
    writer: str = ""
    next_seq: int = 0
    last_us: int = 0

    @property
    def ended(self) -> bool:
        """Of a stream's totals: it is closed."""
        return self.completed + self.failed + self.cancelled > 0

    def expires_us(self) -> int:
        """When nobody wants it any more."""
        since = self.last_us if self.width_s == TOTALS else self.start_us
        return since + RETENTION_S[self.scope][self.width_s] * US

    def as_event(self) -> WindowStats:
        """As it stands."""
        return WindowStats(**msgspec.structs.asdict(self))


def key_of(partition: int, window: Window) -> Key:
    """The key of its record. A table of several partitions holds all of them, so the partition is part of it."""
    parts = (partition, window.scope, window.tenant, window.name, window.width_s, window.start_us)
    return "\x00".join(map(str, parts)).encode()


def partition_of(key: Key) -> int:
    """The partition that a record's key names; -1: it is no such key."""
    number = key.partition(b"\x00")[0]
    return int(number) if number.isdigit() else -1


class Windows:
    """Windows by key. ``now_us`` is the broker's time of the newest record, by which windows expire."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.now_us = 0
        self._windows: dict[Key, Window] = {}
        self._changed: dict[Key, None] = {}
        self._gone: dict[Key, None] = {}
        self._expiry: list[tuple[int, Key]] = []

    def load(self, window: Window) -> None:
        """Take one that was written."""
        key = key_of(self.partition, window)
        self._windows[key] = window
        heapq.heappush(self._expiry, (window.expires_us(), key))

    def get(self, like: Window) -> Window | None:
        """The window of the same name, width and start as ``like``, which becomes it if there is none; None: it is too old."""
        key = key_of(self.partition, like)
        held = self._windows.get(key)
        if held is None:
            if like.expires_us() <= self.now_us:
                return None
            held = like
            self._gone.pop(key, None)
            self.load(like)
        return held

    def changed(self, window: Window) -> None:
        """It has to be written."""
        self._changed[key_of(self.partition, window)] = None

    def drop(self, windows: Iterable[Window]) -> None:
        """Forget them before their time."""
        for window in windows:
            self._drop(key_of(self.partition, window))

    def expire(self) -> Iterator[Window]:
        """Forget what is too old; what it was."""
        while self._expiry and self._expiry[0][0] <= self.now_us:
            _, key = heapq.heappop(self._expiry)
            window = self._windows.get(key)
            if window is None:
                continue
            if (again := window.expires_us()) > self.now_us:
                heapq.heappush(self._expiry, (again, key))
            else:
                self._drop(key)
                yield window

    def changes(self) -> list[tuple[Key, Window | None]]:
        """What to write since the last call, None for what is gone. Totals of streams come last: whoever finds one that counts a
        record therefore finds that record in every window."""
        written = [(key, self._windows[key]) for key in self._changed]
        written.sort(key=lambda each: each[1].width_s == TOTALS)
        changes: list[tuple[Key, Window | None]] = [*((key, None) for key in self._gone), *written]
        self._changed, self._gone = {}, {}
        return changes

    def __len__(self) -> int:
        return len(self._windows)

    def _drop(self, key: Key) -> None:
        if self._windows.pop(key, None) is not None:
            self._changed.pop(key, None)
            self._gone[key] = None
