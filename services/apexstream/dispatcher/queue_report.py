"""What waits and why, in numbers and words: the body of ``GET /queue``. Pure."""

from collections import deque
from typing import Any

from apexstream.core.tiers import Tier
from apexstream.dispatcher.scheduler import Scheduler

WAITS_MAX = 1_000  # newest starts of a tier that its wait is taken from
STUCK_MAX = 20  # groups of tasks of a tier that are listed with their obstacle


class QueueReport:
    """Keeps the waits of the newest starts; everything else is asked of the scheduler."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._tiers = scheduler.policy.tiers.names
        self._waits_s: dict[Tier, deque[float]] = {tier: deque(maxlen=WAITS_MAX) for tier in self._tiers}

    def started(self, tier: Tier, waited_s: float) -> None:
        """A task of ``tier`` was given to a runner this long after its submission."""
        self._waits_s[tier].append(waited_s)

    def state(self, now_us: int) -> dict[str, Any]:
        """The report. Waits and ages are seconds; ``worst_wait_slots`` is for a task that becomes ready now and fits."""
        ready = {tier: self._scheduler.ready(tier) for tier in self._tiers}
        return {
            "tiers": [self._tier(tier, ready[tier], now_us) for tier in self._tiers],
            "held": self._scheduler.waiting - sum(ready.values()),
            "active": self._scheduler.active,
            "starts": self._scheduler.starts,
            "runners": self._scheduler.runners(now_us),
        }

    def _tier(self, tier: Tier, ready: int, now_us: int) -> dict[str, Any]:
        waits = sorted(self._waits_s[tier])
        policy = self._scheduler.policy
        oldest_us = self._scheduler.oldest_us(tier)
        return {
            "tier": tier,
            "ready": ready,
            "oldest_ready_s": 0.0 if oldest_us is None else max(0.0, (now_us - oldest_us) / 1e6),
            "wait_p50_s": waits[len(waits) // 2] if waits else 0.0,
            "wait_p99_s": waits[int(len(waits) * 0.99)] if waits else 0.0,
            "worst_wait_slots": policy.worst_wait_slots(tier, ready),
            "one_of_slots": policy.reserved.get(tier, 1),
            "stuck": [
                {
                    "action": lane.shape.action,
                    "tenant": lane.tenant,
                    "tasks": lane.live,
                    "first": head.job.task_id,
                    "reason": reason,
                }
                for lane, reason in self._scheduler.stuck(tier, now_us, STUCK_MAX)
                if (head := lane.head()) is not None
            ],
        }
