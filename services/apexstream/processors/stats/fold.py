"""Counts what the records of one partition of ``apex.chunks`` and ``apex.task-events`` say. Pure.

By event time: no clock decides into which window anything falls, only the broker's time which windows are too old to keep.
So windows are a function of the log, and a record that comes again changes nothing: every window knows the offsets up to which
it counts.

A run of chunks counts if it is the next one of whoever claimed the stream last. That is the fold's rule without the chained
hashes, which statistics can do without.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from apexstream.core.chunk import FROM_UNKNOWN, Chunk, ChunkRun, Kind
from apexstream.core.claims import ClaimWords
from apexstream.core.events import Scope, TaskChange, TaskEvent, WindowStats
from apexstream.core.widths import TOTALS, WIDTHS_S, start_of
from apexstream.processors.stats.windows import Key, Window, Windows

STREAMS_MAX = 256  # of a partition whose windows are kept; of more, those that ended first are forgotten
GUESTS_MAX = 4_096  # streams beyond, which count for their action only
SHORT_MAX = 20  # streams a flush that begin and end between two: more of them are forgotten at once
ACTIONS_MAX = 1_000  # of all tenants; more count as one
OTHER = "unknown.unknown"

_COUNTED = {
    TaskChange.STARTED: "started",
    TaskChange.RETRYING: "retried",
    TaskChange.PARKED: "parked",
    TaskChange.COMPLETED: "completed",
    TaskChange.FAILED: "failed",
    TaskChange.CANCELLED: "cancelled",
}
_ENDS = {Kind.COMPLETE: "completed", Kind.ERROR: "failed", Kind.CANCELLED: "cancelled"}
_LARGEST = frozenset({"latency_max_us", "gap_max_us"})

Counts = dict[str, int]


class _Stream:
    """One stream: its totals, and its windows. ``told``: they have been written, and are from then on."""

    __slots__ = ("told", "totals", "windows")

    def __init__(self, totals: Window, *, told: bool = False) -> None:
        self.totals = totals
        self.windows: dict[tuple[int, int], Window] = {}
        self.told = told


class PartitionStats:
    """The statistics of one partition."""

    def __init__(self, partition: int, rows: Iterable[WindowStats] = ()) -> None:
        """``rows``: what was written before."""
        self._windows = Windows(partition)
        self._streams: dict[str, _Stream] = {}
        self._fresh: dict[str, _Stream] = {}
        self._guests: dict[str, _Stream] = {}
        self._actions: set[tuple[str, str]] = set()
        for row in sorted(rows, key=lambda row: row.width_s != TOTALS):
            self._load(Window(**msgspec.structs.asdict(row)))

    def run(self, offset: int, append_us: int, run: ChunkRun) -> None:
        """A record of ``apex.chunks`` and the broker's time of it."""
        if not run.chunks:
            return
        self._windows.now_us = max(self._windows.now_us, append_us)
        stream = self._stream(run.stream_id, append_us)
        totals = stream.totals
        if offset <= totals.chunks_to or totals.ended:
            return
        counts = self._counts(totals, run, append_us)
        if counts is None:
            return
        totals.chunks_to = offset
        totals.last_us = max([totals.last_us, *counts])
        if stream.told:
            self._windows.changed(totals)
        for found in counts.values():
            _add(totals, found)
        self._count(stream, counts, offset)

    def event(self, offset: int, append_us: int, event: TaskEvent) -> None:
        """A record of ``apex.task-events``."""
        field = _COUNTED.get(event.change)
        self._windows.now_us = max(self._windows.now_us, append_us)
        if field is None or not event.action:
            return
        at_us = min(event.at_us, append_us)
        for window in self._of_action(event.action, event.tenant, at_us):
            if offset > window.events_to:
                window.events_to = offset
                _add(window, {field: 1})
                self._windows.changed(window)

    def changes(self) -> list[tuple[Key, WindowStats | None]]:
        """What to write to ``apex.stats`` since the last call, in this order; None is a tombstone."""
        self._settle()
        for window in self._windows.expire():
            self._forget(window)
        written = self._windows.changes()
        return [(key, None if window is None else window.as_event()) for key, window in written]

    def __len__(self) -> int:
        return len(self._windows)

    # What a run says.

    def _counts(self, totals: Window, run: ChunkRun, append_us: int) -> dict[int, Counts] | None:
        """By second (its start, µs), what to add; None if the run does not count. Moves the stream on."""
        kind = run.chunks[0].kind
        if kind is Kind.CLAIM:
            return self._claimed(totals, run, append_us)
        if totals.attempt == 0:  # its beginning is not in the log any more
            totals.attempt, totals.writer, totals.next_seq = run.attempt, run.writer, run.first_seq
        if (run.attempt, run.writer) != (totals.attempt, totals.writer):
            return None
        if kind is Kind.RESUME:
            return {_second(run.chunks[0], append_us): _went_on(totals, run.first_seq)}
        if run.first_seq != totals.next_seq:
            return None
        totals.next_seq += len(run.chunks)
        return _of_chunks(run.chunks, append_us, totals.last_us)

    def _claimed(self, totals: Window, run: ChunkRun, append_us: int) -> dict[int, Counts] | None:
        if run.attempt <= totals.attempt:
            return None
        totals.attempt, totals.writer = run.attempt, run.writer
        words = _words(run.chunks[0])
        if not totals.action:
            totals.action, totals.tenant = words.action, words.tenant or totals.tenant
        found = {"claims": 1}
        if run.first_seq != FROM_UNKNOWN:
            found |= _went_on(totals, run.first_seq)
        return {_second(run.chunks[0], append_us): found}

    # Where it is counted.

    def _count(self, stream: _Stream, counts: dict[int, Counts], offset: int) -> None:
        totals = stream.totals
        for time_us, found in counts.items():
            for window in self._of_stream(stream, time_us):
                if offset > window.chunks_to:
                    _add(window, found)
            if totals.action:
                shared = {name: count for name, count in found.items() if name not in _ENDS.values()}
                for window in self._of_action(totals.action, totals.tenant, time_us):
                    if offset > window.chunks_to:
                        _add(window, shared)
                        self._windows.changed(window)
        for time_us in counts:  # a run may fall into a window twice: only now all of it is in there
            touched = [*self._of_stream(stream, time_us)]
            if totals.action:
                touched += self._of_action(totals.action, totals.tenant, time_us)
            for window in touched:
                window.chunks_to = max(window.chunks_to, offset)

    def _of_action(self, action: str, tenant: str, time_us: int) -> Iterator[Window]:
        if (action, tenant) not in self._actions:
            if len(self._actions) >= ACTIONS_MAX:
                action = OTHER
            self._actions.add((action, tenant))
        for width_s in WIDTHS_S:
            start_us = start_of(time_us, width_s)
            like = Window(
                scope=Scope.ACTION, name=action, action=action, tenant=tenant, width_s=width_s, start_us=start_us
            )
            window = self._windows.get(like)
            if window is not None:
                yield window

    def _of_stream(self, stream: _Stream, time_us: int) -> Iterator[Window]:
        totals = stream.totals
        for width_s in WIDTHS_S:
            start_us = start_of(time_us, width_s)
            window = stream.windows.get((width_s, start_us))
            if window is None:
                window = _like(totals, width_s, start_us)
                if window.expires_us() <= self._windows.now_us:
                    continue
                stream.windows[width_s, start_us] = window
                if stream.told:
                    self._windows.load(window)
            if stream.told:
                self._windows.changed(window)
            yield window

    # Which streams have windows of their own.

    def _stream(self, stream_id: str, append_us: int) -> _Stream:
        held = self._streams.get(stream_id) or self._fresh.get(stream_id) or self._guests.get(stream_id)
        if held is None:
            totals = Window(
                scope=Scope.STREAM, name=stream_id, action="", tenant="", width_s=TOTALS, start_us=append_us
            )
            held = self._fresh[stream_id] = _Stream(totals)
            if len(self._fresh) > GUESTS_MAX:
                self._fresh.pop(next(iter(self._fresh)))
        return held

    def _settle(self) -> None:
        """Give the streams that are new since the last time windows that are written, while there is room."""
        short = 0
        for stream_id, stream in self._fresh.items():
            short += stream.totals.ended
            if stream.totals.ended and short > SHORT_MAX:
                continue
            if self._room():
                self._streams[stream_id] = stream
                stream.told = True
                for window in (*stream.windows.values(), stream.totals):
                    self._windows.load(window)
                    self._windows.changed(window)
            elif not stream.totals.ended:
                self._guests[stream_id] = stream
        self._fresh = {}
        while len(self._guests) > GUESTS_MAX:
            self._guests.pop(next(iter(self._guests)))
        for guest in self._guests.values():
            guest.windows.clear()

    def _room(self) -> bool:
        if len(self._streams) < STREAMS_MAX:
            return True
        over = next((name for name, stream in self._streams.items() if stream.totals.ended), None)
        if over is None:
            return False
        gone = self._streams.pop(over)
        self._windows.drop((gone.totals, *gone.windows.values()))
        return True

    def _load(self, window: Window) -> None:
        self._windows.load(window)
        since_us = window.last_us if window.width_s == TOTALS else window.start_us
        self._windows.now_us = max(self._windows.now_us, since_us)
        if window.scope is Scope.ACTION:
            self._actions.add((window.name, window.tenant))
        elif window.width_s == TOTALS:
            self._streams[window.name] = _Stream(window, told=True)
        elif window.name in self._streams:
            self._streams[window.name].windows[window.width_s, window.start_us] = window

    def _forget(self, window: Window) -> None:
        if window.scope is Scope.STREAM and (stream := self._streams.get(window.name)) is not None:
            if window.width_s == TOTALS:
                del self._streams[window.name]
                self._windows.drop(stream.windows.values())
            else:
                stream.windows.pop((window.width_s, window.start_us), None)


def _of_chunks(chunks: Iterable[Chunk], append_us: int, last_us: int) -> dict[int, Counts]:
    counts: dict[int, Counts] = {}
    latency_us = -1
    for chunk in chunks:
        at_us = min(chunk.event_time_us, append_us)
        found = counts.setdefault(start_of(at_us, 1), {})
        if latency_us < 0:  # the oldest chunk of a run waited longest
            latency_us = append_us - at_us
            found |= {"latency_count": 1, "latency_sum_us": latency_us, "latency_max_us": latency_us}
        if last_us:
            found["gap_max_us"] = max(found.get("gap_max_us", 0), at_us - last_us)
        last_us = max(last_us, at_us)
        if chunk.kind is Kind.DATA:
            found["chunks"] = found.get("chunks", 0) + 1
            found["payload_bytes"] = found.get("payload_bytes", 0) + len(chunk.payload)
        elif chunk.kind.closes:
            found[_ENDS[chunk.kind]] = 1
    return counts


def _went_on(totals: Window, first_seq: int) -> Counts:
    rewound = first_seq < totals.next_seq
    totals.next_seq = first_seq
    return {"rewinds": 1} if rewound else {}


def _like(totals: Window, width_s: int, start_us: int) -> Window:
    return Window(
        scope=Scope.STREAM,
        name=totals.name,
        action=totals.action,
        tenant=totals.tenant,
        width_s=width_s,
        start_us=start_us,
    )


def _add(window: Window, found: Counts) -> None:
    for name, count in found.items():
        held: Any = getattr(window, name)
        setattr(window, name, max(held, count) if name in _LARGEST else held + count)


def _second(chunk: Chunk, append_us: int) -> int:
    return start_of(min(chunk.event_time_us, append_us), 1)


def _words(claim: Chunk) -> ClaimWords:
    try:
        return msgspec.json.decode(claim.payload or b"{}", type=ClaimWords)
    except msgspec.DecodeError:
        return ClaimWords()
