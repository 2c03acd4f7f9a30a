"""What a runner holds of all its streams until the log has it, and the bound on that."""

from collections.abc import Callable

CHUNK_OVERHEAD_BYTES = 128  # what it takes to hold a chunk, however small its payload is


class Buffer:
    """Counts bytes that wait for the log, over all attempts. At ``bytes_max`` it calls ``hold(True)``, so that no action
    yields any more, and ``hold(False)`` once half of that is free again.

    Credit bounds each action alone; a thousand of them with a window each would still be more than a runner should hold
    while its broker stalls. What was on its way when the hold began comes on top: at most the credit windows of the actions
    that were in the midst of sending.
    """

    __slots__ = ("_bytes_max", "_full", "_hold", "held_bytes")

    def __init__(self, bytes_max: int, hold: Callable[[bool], None]) -> None:
        self.held_bytes = 0
        self._bytes_max = bytes_max
        self._hold = hold
        self._full = False

    def fill(self, size_bytes: int) -> None:
        """So much more waits."""
        self.held_bytes += size_bytes
        if not self._full and self.held_bytes >= self._bytes_max:
            self._full = True
            self._hold(True)

    def free(self, size_bytes: int) -> None:
        """So much waits no more: the log has it, or its attempt is over."""
        self.held_bytes -= size_bytes
        if self._full and self.held_bytes <= self._bytes_max // 2:
            self._full = False
            self._hold(False)
