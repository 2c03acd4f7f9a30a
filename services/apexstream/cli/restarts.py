"""How often a crashed service is started again. Pure: the time comes in."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Backoff doubles from ``base_s`` to ``cap_s``; more than ``crashes_max`` crashes within ``window_s`` are a loop."""

    base_s: float = 0.2
    cap_s: float = 10.0
    crashes_max: int = 5
    window_s: float = 60.0


@dataclass(slots=True)
class Restarts:
    """The recent crashes of one service, in monotonic seconds."""

    policy: RestartPolicy
    _crashes: deque[float] = field(default_factory=deque)

    def crashed(self, now: float) -> float | None:
        """Count a crash: seconds to wait before the next start, or None if the service is in a crash loop."""
        while self._crashes and now - self._crashes[0] > self.policy.window_s:
            self._crashes.popleft()
        self._crashes.append(now)
        if len(self._crashes) > self.policy.crashes_max:
            return None
        return min(self.policy.cap_s, self.policy.base_s * 2.0 ** (len(self._crashes) - 1))
