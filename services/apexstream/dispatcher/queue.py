"""The ready tasks of one tier: in lanes of interchangeable tasks, shared fairly by tenants, oldest first inside a tenant.

A lane that cannot start costs one look, however many tasks are in it. Pure.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from apexstream.core.scheduling import ConcurrencyKey
from apexstream.dispatcher.decisions import Job
from apexstream.dispatcher.fleet import Shape

LaneKey = tuple[str, Shape, tuple[ConcurrencyKey, ...]]
PAST_MAX = 1_000  # tenants without a ready task whose turn is remembered
P = TypeVar("P")


@dataclass(slots=True, eq=False)
class Entry:
    """A task that waits. ``ready_at`` is its place in line (0: not ready), ``ready_start`` the slot count at that time."""

    job: Job
    since_us: int
    pending: int = 0  # upstreams that have not ended
    ready_at: int = 0
    ready_start: int = 0
    ahead: int = 0  # ready tasks of its tier when it became ready
    gone: bool = False


@dataclass(slots=True, eq=False)
class Lane:
    """Tasks of one tenant that can start under the same conditions, in order. An empty lane is never used again."""

    tenant: str
    shape: Shape
    keys: tuple[ConcurrencyKey, ...]
    entries: deque[Entry] = field(default_factory=deque)
    live: int = 0

    def head(self) -> Entry | None:
        """The next task; those that are gone are dropped on the way."""
        while self.entries and self.entries[0].gone:
            self.entries.popleft()
        return self.entries[0] if self.entries else None


CanStart = Callable[[Lane], P | None]
"""Where the next task of a lane can start now, or None."""


class Picked(NamedTuple, Generic[P]):
    """The lane whose head goes next, where it goes, and whether it was chosen for its age."""

    lane: Lane
    place: P
    oldest: bool


class _Heads(Generic[P]):
    """Lanes by the place of their first task; places that are no longer true are mended when they come up."""

    __slots__ = ("_clean_at", "_heap")

    def __init__(self) -> None:
        self._heap: list[tuple[int, Lane]] = []
        self._clean_at = 64

    def add(self, lane: Lane, ready_at: int) -> None:
        """A lane that has just got its first task."""
        heapq.heappush(self._heap, (ready_at, lane))
        if len(self._heap) > self._clean_at:
            self._heap = [item for item in self._heap if item[1].live]
            heapq.heapify(self._heap)
            self._clean_at = 2 * len(self._heap) + 64

    def first(self, can_start: CanStart[P]) -> tuple[Lane, P] | None:
        """The lane with the oldest head that can start."""
        heap = self._heap
        aside: list[tuple[int, Lane]] = []
        found: tuple[Lane, P] | None = None
        while heap and found is None:
            item = heapq.heappop(heap)
            lane = item[1]
            head = lane.head()
            if head is None:
                continue
            if head.ready_at > item[0]:
                heapq.heappush(heap, (head.ready_at, lane))
                continue
            aside.append(item)
            place = can_start(lane)
            if place is not None:
                found = lane, place
        for item in aside:
            heapq.heappush(heap, item)
        return found


class _Tenant(Generic[P]):
    __slots__ = ("heads", "live", "served", "weight")

    def __init__(self, weight: float, served: float) -> None:
        self.weight = weight
        self.served = served  # starts, divided by the weight
        self.live = 0
        self.heads: _Heads[P] = _Heads()


class TierQueue(Generic[P]):
    """Ready tasks of a tier. ``passed_over`` counts slots that went to other tiers since its last one."""

    def __init__(self, weight_of: Callable[[str], float], oldest_every: int) -> None:
        self._weight_of = weight_of
        self._oldest_every = oldest_every
        self._lanes: dict[LaneKey, Lane] = {}
        self._tenants: dict[str, _Tenant[P]] = {}
        self._past: dict[str, float] = {}  # where tenants that have nothing ready left off
        self._heads: _Heads[P] = _Heads()
        self._since_oldest = 0
        self._virtual = 0.0  # where the tenant stood that was served last: newcomers start there, and are owed nothing
        self.ready = 0
        self.passed_over = 0

    def add(self, entry: Entry, lane_key: LaneKey) -> None:
        """The entry is ready; its ``ready_at`` is set, and larger than all before it."""
        lane = self._lanes.get(lane_key)
        tenant = self._tenants.get(lane_key[0]) or self._join(lane_key[0])
        if lane is None:
            lane = self._lanes[lane_key] = Lane(*lane_key)
            self._heads.add(lane, entry.ready_at)
            tenant.heads.add(lane, entry.ready_at)
        lane.entries.append(entry)
        lane.live += 1
        tenant.live += 1
        entry.ahead = self.ready
        self.ready += 1

    def remove(self, entry: Entry, lane_key: LaneKey) -> None:
        """The entry is ready here no longer: started, cancelled or moved."""
        lane, tenant = self._lanes[lane_key], self._tenants[lane_key[0]]
        entry.gone = True
        lane.live -= 1
        tenant.live -= 1
        self.ready -= 1
        if lane.live == 0:
            lane.entries.clear()
            del self._lanes[lane_key]
        if tenant.live == 0:
            self._leave(lane_key[0], tenant)
        if self.ready == 0:
            self.passed_over = 0

    def pick(self, can_start: CanStart[P]) -> Picked[P] | None:
        """What goes next, or None if nothing here can start now."""
        if self._since_oldest + 1 >= self._oldest_every or len(self._tenants) == 1:
            found = self._heads.first(can_start)
            return None if found is None else Picked(*found, oldest=True)
        for tenant in sorted(self._tenants.values(), key=lambda tenant: tenant.served):
            found = tenant.heads.first(can_start)
            if found is not None:
                return Picked(*found, oldest=False)
        return None

    def served(self, tenant_name: str, *, oldest: bool) -> None:
        """A start of this tier, before its entry is removed."""
        tenant = self._tenants[tenant_name]
        self._since_oldest = 0 if oldest else self._since_oldest + 1
        self._virtual = max(self._virtual, min(other.served for other in self._tenants.values()))
        tenant.served += 1 / tenant.weight
        self.passed_over = 0

    def lanes(self) -> list[Lane]:
        """All lanes."""
        return list(self._lanes.values())

    def _join(self, name: str) -> _Tenant[P]:
        served = max(self._virtual, self._past.pop(name, 0.0))
        tenant = self._tenants[name] = _Tenant(self._weight_of(name), served)
        return tenant

    def _leave(self, name: str, tenant: _Tenant[P]) -> None:
        del self._tenants[name]
        self._past[name] = tenant.served
        if len(self._past) > PAST_MAX:
            self._past = {name: served for name, served in self._past.items() if served > self._virtual}
            while len(self._past) > PAST_MAX:
                del self._past[next(iter(self._past))]
