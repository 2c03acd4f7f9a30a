"""Whether a failed attempt is followed by another one, and when. Pure: randomness and time come in as parameters."""

from dataclasses import dataclass

from apexstream.core.options import (
    DEFAULT_BACKOFF_MAX_S,
    DEFAULT_BACKOFF_S,
    DEFAULT_MAX_ATTEMPTS,
    ErrorClass,
    TaskOptions,
)

ATTEMPTS_MAX = 100  # of any kind, lost runners included: a task that kills its runner every time must end


@dataclass(frozen=True, slots=True)
class Again:
    """Try again after ``delay_s``."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not try again, because …"""

    reason: str


def after_failure(
    options: TaskOptions,
    error_class: ErrorClass,
    *,
    failures: int,
    attempt: int,
    chance: float,
    retry_after_s: float = 0.0,
) -> Again | GiveUp:
    """What follows the ``failures``-th failure (1, 2, …), which was of attempt number ``attempt``.

    The delay doubles with each failure up to ``backoff_max_s`` and is drawn from its upper half by ``chance`` (0 to 1), so
    that tasks that failed together do not come back together. It is at least ``retry_after_s``.
    """
    allowed = options.max_attempts or DEFAULT_MAX_ATTEMPTS
    class_max = error_class.tries_max
    if class_max is not None and failures >= class_max:
        return GiveUp(f"{error_class} errors are not tried again" if class_max == 1 else f"a {error_class} again")
    if failures >= allowed:
        return GiveUp(f"failed {failures} times; {allowed} are allowed")
    if attempt >= ATTEMPTS_MAX:
        return GiveUp(f"attempt {attempt} was the last")
    longest = options.backoff_max_s or DEFAULT_BACKOFF_MAX_S
    delay = min(longest, (options.backoff_s or DEFAULT_BACKOFF_S) * 2.0 ** min(failures - 1, 30))
    return Again(max(retry_after_s, delay * (0.5 + chance / 2)))


class RetryBudget:
    """A token bucket for one action: each task that starts adds a share of a token, each retry takes one. When everything
    fails at once, retries stop multiplying the load."""

    __slots__ = ("_share", "_tokens", "_tokens_max")

    def __init__(self, *, share: float = 0.2, tokens_max: float = 50.0) -> None:
        self._share = share
        self._tokens_max = tokens_max
        self._tokens = tokens_max

    def started(self) -> None:
        """A task started."""
        self._tokens = min(self._tokens_max, self._tokens + self._share)

    def spend(self) -> bool:
        """Take a token for a retry; False if there is none."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
