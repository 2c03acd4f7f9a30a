"""The tasks that were not given to a runner yet, counted as they come and go: by tier and by tenant."""

import heapq
from collections import Counter, defaultdict
from typing import NamedTuple

from apexstream.core.tiers import Tier

SPARE = 64  # entries of a heap that may be out of date before it is looked through


class _Waits(NamedTuple):
    tier: Tier
    tenant: str
    since_us: int


class Backlog:
    """What waits. Every question costs the same, however many tasks are known."""

    def __init__(self) -> None:
        self._tasks: dict[str, _Waits] = {}
        self._of_tier: Counter[Tier] = Counter()
        self._of_tenant: Counter[str] = Counter()
        self._oldest: defaultdict[Tier, list[tuple[int, str]]] = defaultdict(list)  # heaps; some have left since

    def add(self, task_id: str, tier: Tier, tenant: str, since_us: int) -> None:
        """A task waits in ``tier``, since this time; it waited nowhere before."""
        self._tasks[task_id] = _Waits(tier, tenant, since_us)
        self._of_tier[tier] += 1
        self._of_tenant[tenant] += 1
        heap = self._oldest[tier]
        heapq.heappush(heap, (since_us, task_id))
        if len(heap) > 2 * self._of_tier[tier] + SPARE:
            self._oldest[tier] = sorted(each for each in heap if self._waits_in(tier, each[1]))

    def remove(self, task_id: str) -> None:
        """The task waits no longer, or never did."""
        waits = self._tasks.pop(task_id, None)
        if waits is not None:
            _less(self._of_tier, waits.tier)
            _less(self._of_tenant, waits.tenant)

    def move(self, task_id: str, tier: Tier) -> None:
        """The task waits in another tier, if it waits."""
        waits = self._tasks.get(task_id)
        if waits is not None and waits.tier != tier:
            self.remove(task_id)
            self.add(task_id, tier, waits.tenant, waits.since_us)

    def depth(self, tier: Tier) -> int:
        """How many tasks wait in ``tier``."""
        return self._of_tier[tier]

    def of_tenant(self, tenant: str) -> int:
        """How many tasks of ``tenant`` wait."""
        return self._of_tenant[tenant]

    def oldest_us(self, tier: Tier) -> int | None:
        """Since when the task waits that has waited longest in ``tier``; None if none does."""
        heap = self._oldest[tier]
        while heap and not self._waits_in(tier, heap[0][1]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _waits_in(self, tier: Tier, task_id: str) -> bool:
        waits = self._tasks.get(task_id)
        return waits is not None and waits.tier == tier


def _less(counts: "Counter[str]", name: str) -> None:
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
