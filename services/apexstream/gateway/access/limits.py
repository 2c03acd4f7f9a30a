"""How much one user, one socket and all of them may ask for. Pure: the time is handed in, in seconds on a monotonic clock."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from apexstream.core.errors import LimitReached

USERS_MAX: Final = 10_000  # whose buckets are remembered; a forgotten one is full again
RETRY_S_MAX: Final = 60.0


class Bucket:
    """``burst`` at once, ``per_s`` in the long run."""

    __slots__ = ("_at", "_burst", "_left", "_per_s")

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._at = -math.inf

    def take(self, now: float) -> float:
        """Take one; 0 if there was one, else the seconds until there will be."""
        if self._at > -math.inf:
            self._left = min(self._burst, self._left + max(0.0, now - self._at) * self._per_s)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._per_s


class UserBuckets:
    """A bucket for each of the users seen lately."""

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, user: str, now: float, what: str) -> None:
        """Take one of ``user``'s; raises :class:`LimitReached`, which calls it ``what``."""
        bucket = self._buckets.pop(user, None) or Bucket(self._per_s, self._burst)
        self._buckets[user] = bucket
        if len(self._buckets) > USERS_MAX:
            self._buckets.popitem(last=False)
        wait_s = bucket.take(now)
        if wait_s > 0:
            raise LimitReached(
                f"more than {self._per_s:g} {what} a second",
                where=what,
                hint="Wait, and ask again",
                retry_after_s=wait_s,
            )


class Connections:
    """How many of a user's requests and sockets are open."""

    def __init__(self, per_user_max: int) -> None:
        self._per_user_max = per_user_max
        self._open: dict[str, int] = {}

    def opened(self, user: str) -> None:
        """One more, which :meth:`closed` must be told the end of; raises :class:`LimitReached`."""
        count = self._open.get(user, 0)
        if count >= self._per_user_max:
            raise LimitReached(
                f"{count} connections of one user are open",
                where="connections",
                hint="Close one; a socket carries many streams",
                retry_after_s=5.0,
            )
        self._open[user] = count + 1

    def closed(self, user: str) -> None:
        """One less."""
        left = self._open.pop(user) - 1
        if left:
            self._open[user] = left


@dataclass(slots=True)
class Admission:
    """Which new sockets are let in: at most ``sockets_max`` open, at most ``strangers_max`` of them without a token yet, and
    no faster than ``arrivals`` allows, so that those who come back all at once do not take the loop from those who are here.
    """

    arrivals: Bucket
    sockets_max: int
    strangers_max: int
    open: int = 0
    strangers: int = 0

    def enter(self, now: float, chance: float, *, stranger: bool) -> None:
        """Let one in, which must :meth:`leave` again; raises :class:`LimitReached` with a pause that ``chance`` (0 to 1) spreads
        over a range as wide as itself, so that those who were sent away do not return together."""
        if self.open >= self.sockets_max or (stranger and self.strangers >= self.strangers_max):
            raise self._full(5.0, chance)
        wait_s = self.arrivals.take(now)
        if wait_s > 0:
            raise self._full(wait_s, chance)
        self.open += 1
        self.strangers += stranger

    def leave(self, *, stranger: bool) -> None:
        """It is closed; ``stranger``: it never said who it is."""
        self.open -= 1
        self.strangers -= stranger

    def introduced(self) -> None:
        """One of the strangers said who it is."""
        self.strangers -= 1

    def _full(self, wait_s: float, chance: float) -> LimitReached:
        after_s = min(RETRY_S_MAX, max(1.0, wait_s) * (1 + chance))
        return LimitReached(
            "too many sockets at once", where="sockets", hint="Connect again later", retry_after_s=after_s
        )
