"""Where a service can be made to die, stop or stall: before and after each kind of record that it writes, and each commit.

Works on the seams of the product, ``Writer.put`` and ``commit`` of both readers, through which everything goes that a service
leaves behind. A point is ``<when>-<what>:<count>[:<action>]``: ``after-checkpoint:3:kill`` (the default action) ends the
process when its third checkpoint is acknowledged.

When: ``before`` it is handed over, ``during`` its flight (handed over, not acknowledged), ``after`` its acknowledgement.
What: ``claim``, ``reclaim`` (a claim of a stream that may have been claimed before), ``resume``, ``chunk`` (a run without
checkpoint), ``checkpoint`` (a run with one), ``end``, ``event``, ``ended`` (an event that ends a task; others by
what they say, as ``parked``), ``assignment``,
``task``, ``segment``, ``state``, ``commit``, ``poll`` (of the group, ``before`` only).
Action: ``kill``, ``stop`` (SIGSTOP), ``stall<seconds>`` (commit and poll only: the coroutine waits).
"""

import asyncio
import inspect
import os
import signal
from dataclasses import dataclass
from typing import Any

from tests.faults.avro import Reader, Unreadable

SUBJECTS = ("chunk-run", "task-event", "assignment", "task-submitted", "segment", "stream-state")
_NAMES = {"assignment": "assignment", "task-submitted": "task", "segment": "segment", "stream-state": "state"}
_ENDINGS = {"completed", "failed", "cancelled"}
AT = {
    "runner": ("claim", "reclaim", "resume", "chunk", "checkpoint", "end", "event", "ended", "commit"),
    "dispatcher": ("assignment", "commit"),
    "gateway": ("task",),
    "archiver": ("segment", "state", "commit"),
}
"""What each service does at which it can be made to die."""
FLIGHT_S = 0.0005  # after this the batch has left, and its answer is not here yet


@dataclass(slots=True)
class Point:
    """One point, which acts once: at its ``count``-th occurrence."""

    when: str
    what: str
    count: int
    action: str

    @classmethod
    def parse(cls, text: str) -> "Point":
        """From ``<when>-<what>:<count>[:<action>]``."""
        place, count, action, *_ = [*text.split(":"), "kill"]
        when, _, what = place.partition("-")
        if when not in {"before", "during", "after"} or not what:
            raise ValueError(f"no such fault point: {text}")
        return cls(when, what, int(count), action)

    def reached(self, when: str, whats: frozenset[str]) -> bool:
        """Count an occurrence; True if it is the one."""
        if when != self.when or self.what not in whats:
            return False
        self.count -= 1
        return self.count == 0

    def act(self) -> None:
        """Do to this process what the point says."""
        os.kill(os.getpid(), signal.SIGSTOP if self.action == "stop" else signal.SIGKILL)

    @property
    def stall_s(self) -> float:
        """How long to wait; 0 if the action is another one."""
        return float(self.action.removeprefix("stall")) if self.action.startswith("stall") else 0.0


class Kinds:
    """Names what a record is."""

    def __init__(self) -> None:
        self._reader = Reader()

    def of(self, value: bytes | None) -> frozenset[str]:
        """All names of the point vocabulary that fit the record; none for others."""
        try:
            read = self._reader.read(value, *SUBJECTS)
        except Unreadable:
            return frozenset()
        if read.subject == "chunk-run":
            kind = _run_kind(read.fields)
            again = kind == "claim" and read.fields["first_seq"] < 0
            return frozenset({kind, "reclaim"} if again else {kind})
        if read.subject == "task-event":
            change = read.fields["change"]
            return frozenset({"event", "ended" if change in _ENDINGS else change})
        return frozenset({_NAMES[read.subject]})


def _run_kind(fields: Any) -> str:
    kinds = [chunk["kind"] for chunk in fields["chunks"]]
    if kinds[-1] in {"claim", "resume"}:
        return str(kinds[-1])
    if kinds[-1] in {"complete", "error", "cancelled"}:
        return "end"
    return "chunk" if fields["checkpoint"] is None else "checkpoint"


class _Told:
    """Stands between the writer and whoever waits for an acknowledgement."""

    __slots__ = ("_listener", "_point", "_whats")

    def __init__(self, listener: Any, point: Point, whats: frozenset[str]) -> None:
        self._listener = listener
        self._point = point
        self._whats = whats

    def appended(self, offset: int) -> None:
        if self._point.reached("after", self._whats):
            self._point.act()
        self._listener.appended(offset)

    def failed(self, error: Any) -> None:
        self._listener.failed(error)


def install(point: Point) -> None:
    """Make this process reach the point. Fails if the product no longer has the seams."""
    from apexstream.log.group import GroupReader
    from apexstream.log.sole import SoleReader
    from apexstream.log.writer import Writer

    _install_writer(Writer, point)
    _install_commit(GroupReader, point)
    _install_commit(SoleReader, point)


def _install_writer(writer: Any, point: Point) -> None:
    put, kinds = writer.put, Kinds()
    names = list(inspect.signature(put).parameters)
    if not {"value", "listener"} <= set(names):
        raise RuntimeError(f"Writer.put takes {names}: mend tests/faults/points.py")

    def put_at_point(self: Any, *args: Any, **named: Any) -> None:
        given = inspect.signature(put).bind(self, *args, **named)
        whats = kinds.of(given.arguments["value"])
        if point.reached("before", whats):
            point.act()
        if whats:
            given.arguments["listener"] = _Told(given.arguments["listener"], point, whats)
        put(*given.args, **given.kwargs)
        if point.reached("during", whats):
            asyncio.get_running_loop().call_later(FLIGHT_S, point.act)

    writer.put = put_at_point


def _install_commit(reader: Any, point: Point) -> None:
    commit, poll, what = reader.commit, reader.poll, frozenset({"commit"})

    async def commit_at_point(self: Any, *args: Any, **named: Any) -> Any:
        if point.reached("before", what):
            if point.stall_s:
                await asyncio.sleep(point.stall_s)
            else:
                point.act()
        if point.reached("during", what):
            asyncio.get_running_loop().call_later(FLIGHT_S, point.act)
        done = await commit(self, *args, **named)
        if point.reached("after", what):
            point.act()
        return done

    async def poll_at_point(self: Any, *args: Any, **named: Any) -> Any:
        if point.reached("before", frozenset({"poll"})):
            await asyncio.sleep(point.stall_s)
        return await poll(self, *args, **named)

    reader.commit, reader.poll = commit_at_point, poll_at_point
