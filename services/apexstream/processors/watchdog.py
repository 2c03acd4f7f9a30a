"""Notices an agent that has stopped consuming, as Faust's can after a rebalance without a word. Pure.

In a partition that this process owns there is work that came after it took over, and for ``STALL_S`` none of it was taken. What
keeps an agent busy does not count, because taking a record is all that it does.
"""

from collections.abc import Mapping

from apexstream.core.errors import Unavailable

STALL_S = 30.0
RECOVERY_STALL_S = 120.0  # a rebalance waits 60 s for a member that says nothing, and rows are read after it
LOOK_S = 5.0
RESTARTS_MAX = 3  # in a row without anything taken; then the process ends, and whoever started it starts it again


class Stalled(Unavailable):
    """The agent had stopped consuming."""


class Watchdog:
    """One process' consumption. ``now`` is seconds of a clock that does not jump. :attr:`trouble` is what readiness says."""

    def __init__(self) -> None:
        self.trouble = ""
        self.restarts = 0  # since something was taken
        self.owned: frozenset[int] | None = None  # None: some are assigned, and their rows are recovered
        self._since = 0.0  # when that began, or a row was last recovered
        self._recovered = 0
        self._seen: dict[int, int] = {}  # the offset after what was there at first, or was taken
        self._behind_since: dict[int, float] = {}

    def own(self, partitions: frozenset[int] | None, now: float) -> None:
        """These are consumed from now on; None: a rebalance goes on."""
        self.owned, self._since = partitions, now
        self._seen.clear()
        self._behind_since.clear()

    def took(self, partition: int, offset: int) -> None:
        """A record was taken."""
        self._seen[partition] = max(self._seen.get(partition, 0), offset + 1)
        self._behind_since.pop(partition, None)
        self.restarts = 0
        self.trouble = ""

    def recovered(self, rows: int, now: float) -> None:
        """So many rows were recovered so far, since any moment: a long recovery that goes on is no stall."""
        if rows != self._recovered:
            self._recovered, self._since = rows, now

    def look(self, ends: Mapping[int, int], now: float) -> bool:
        """True if the agent is to be started again. ``ends``: where each owned partition's log ends."""
        if self.owned is None:
            stalled = now - self._since >= RECOVERY_STALL_S
            self.trouble = f"no row was recovered for {now - self._since:.0f} s" if stalled else self.trouble
            return stalled
        for partition in self.owned & ends.keys():
            if ends[partition] > self._seen.setdefault(partition, ends[partition]):
                self._behind_since.setdefault(partition, now)
            else:
                self._behind_since.pop(partition, None)
        late = {p: since for p, since in self._behind_since.items() if now - since >= STALL_S}
        if late:
            partition, since = min(late.items(), key=lambda each: each[1])
            self.trouble = f"nothing of partition {partition} was taken for {now - since:.0f} s although there is work"
        elif not self._behind_since:
            self.trouble = ""
        return bool(late)
