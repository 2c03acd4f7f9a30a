"""When a standby may take over: after the active dispatcher has said nothing for long enough, or has said goodbye. Pure.

This only decides when to try. Who is active is decided by the claims on the assignments (``core.reign``), so a lease that runs
out too early, on a machine that stood still for instance, costs a change of dispatchers and never a task.
"""


class Lease:
    """What was heard of active dispatchers, on this process' own monotonic clock: no two clocks are ever compared."""

    def __init__(self, silent_s_max: float, now_s: float) -> None:
        self.epoch = 0  # the highest that any dispatcher told
        self._silent_s_max = silent_s_max
        self._heard_at_s = now_s

    def heard(self, epoch: int, now_s: float) -> None:
        """The active dispatcher, or one that is about to be, gave a sign of life."""
        if epoch >= self.epoch:
            self.epoch = epoch
            self._heard_at_s = now_s

    def goodbye(self, now_s: float) -> None:
        """The active dispatcher has left, and says so."""
        self._heard_at_s = min(self._heard_at_s, now_s - self._silent_s_max)

    def left_s(self, now_s: float) -> float:
        """How long to wait before trying to take over; 0: now."""
        return max(0.0, self._heard_at_s + self._silent_s_max - now_s)
