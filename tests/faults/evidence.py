"""What a run leaves for the checker: what was asked for, what viewers saw, what was killed. Plain data, as JSON lines."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One task of the workload and how it must end. ``plan`` is the action's parameter of that name."""

    task_id: str
    action: str
    plan: dict[str, Any]
    more: dict[str, Any] = {}  # further parameters
    tier: str = "normal"
    cancel_after_s: float | None = None
    options: dict[str, Any] = {}
    fails: bool = False  # after all of its data, whatever the error

    @property
    def data_count(self) -> int:
        """How many data chunks the stream must hold, unless it is cancelled."""
        fail_at = self.plan.get("fail_at", -1)
        return int(self.plan["n"] if fail_at < 0 else fail_at)

    @property
    def endings(self) -> frozenset[str]:
        """The changes of ``apex.task-events`` that may end it."""
        planned = {"failed" if self.fails or self.plan.get("fail_at", -1) >= 0 else "completed"}
        return frozenset(planned | ({"cancelled"} if self.cancel_after_s is not None else set()))


class Seen(msgspec.Struct, kw_only=True):
    """What one viewer was shown of one stream. ``frames`` after applying rewinds, the index is the seq; ``forgotten`` what
    rewinds took away, with its seq; ``broken`` where the protocol was not kept."""

    stream_id: str
    viewer: str
    from_seq: int = 0
    frames: list[str] = []
    forgotten: list[tuple[int, str]] = []
    broken: list[str] = []
    ended: bool = False

    @property
    def next_seq(self) -> int:
        """The seq that the viewer needs next."""
        return self.from_seq + len(self.frames)


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """Something done to a process, ``at_s`` seconds after the run began."""

    at_s: float
    what: str
    target: str


class Evidence(msgspec.Struct, kw_only=True):
    """All that a run leaves."""

    jobs: list[Job] = []
    accepted: list[str] = []  # ids of tasks whose submission the gateway acknowledged
    seen: list[Seen] = []
    kills: list[Kill] = []

    def save(self, path: Path) -> None:
        """Write it as one JSON document."""
        path.write_bytes(msgspec.json.encode(self))

    @classmethod
    def load(cls, path: Path) -> "Evidence":
        """Read what :meth:`save` wrote."""
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def views_of(self, stream_id: str) -> Iterable[Seen]:
        """What all viewers saw of one stream."""
        return (seen for seen in self.seen if seen.stream_id == stream_id)
