"""How long to wait before connecting again, and when to give up. Pure: time and randomness come in."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

from apexstream.core.errors import Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectPolicy:
    """Exponential backoff with full jitter, and the longest time without a working connection, all in seconds."""

    base_s: float = 0.1
    cap_s: float = 5.0
    offline_max_s: float = 60.0
    stable_s: float = 5.0  # a connection that lasted this long worked, even if nothing came over it
    connect_timeout_s: float = 5.0
    later_s: float = 1.0  # added where the gateway asks for a pause and does not say how long


@dataclass(slots=True)
class Patience:
    """The state of one follower: since when it is without a working connection, and how often it failed since.

    ``draw`` gives a random float in [0, 1); times are monotonic seconds.
    """

    policy: ReconnectPolicy
    draw: Callable[[], float]
    failures: int = 0
    offline_since: float | None = field(default=None)

    def worked(self) -> None:
        """The connection delivered something: all is well again."""
        self.failures, self.offline_since = 0, None

    def lost(self, now: float, *, connected_at: float | None, reason: str, where: str, least_s: float = 0.0) -> float:
        """The connection, open since ``connected_at``, is lost, or never came about (None): how long to wait, in seconds,
        ``least_s`` at least.

        Raises :class:`Unavailable` once the time without a working connection is used up.
        """
        if connected_at is not None and now - connected_at >= self.policy.stable_s:
            self.worked()
        if self.offline_since is None:
            self.offline_since = now
        left = self.offline_since + self.policy.offline_max_s - now
        if left <= 0:
            raise Unavailable(
                f"no connection for {self.policy.offline_max_s:g} s ({reason})",
                where=where,
                hint="Is the gateway running? The stream itself is safe: follow it again from the last seq",
            )
        ceiling = min(self.policy.cap_s, self.policy.base_s * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return min(least_s + self.draw() * ceiling, left)


def retry_after_s(header: str | None, now_us: int) -> float | None:
    """The pause that a ``Retry-After`` header asks for, in seconds; None without one that can be read."""
    try:
        seconds = float(header or "")
    except ValueError:
        try:
            when = parsedate_to_datetime(header or "")
        except ValueError:
            return None
        seconds = when.replace(tzinfo=when.tzinfo or UTC).timestamp() - now_us / 1e6
    return max(0.0, seconds) if math.isfinite(seconds) else None
