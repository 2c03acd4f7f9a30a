"""When each phase of a start ended."""

import time
from collections.abc import Callable


class Timings:
    """Marks, in seconds since this object was made; the first mark of a name counts."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._began = monotonic()
        self._marks: dict[str, float] = {}

    def mark(self, phase: str) -> None:
        """``phase`` has ended now."""
        self._marks.setdefault(phase, self._monotonic() - self._began)

    def seconds(self) -> dict[str, float]:
        """All marks in the order they were made, to the millisecond."""
        return {phase: round(at, 3) for phase, at in self._marks.items()}
