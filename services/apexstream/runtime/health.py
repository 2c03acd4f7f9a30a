"""Whether this process is alive (its event loop runs) and ready (it can do its work now), and why not.

The parts of a service say it themselves: what can go wrong registers a check for as long as it exists. Checks are asked from
another thread, because a loop that is stuck cannot answer.
"""

import asyncio
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from apexstream.runtime import meters

BEAT_S = 0.25  # how often the event loop says that it runs
STUCK_S = 10.0  # silent for longer, it is stuck: only a restart helps
UNREADY_S = 3.0  # silent for longer, it can do no work now

Check = Callable[[], str]
"""What is wrong, in one line; empty while nothing is. Called from another thread: quick, changes nothing."""


@dataclass(frozen=True, slots=True)
class Report:
    """The answer to a probe: whether all is well, and what each check says (``ok`` or the trouble)."""

    well: bool
    checks: dict[str, str]


class Health:
    """What a process knows about itself. ``monotonic`` is a clock in seconds."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._checks: dict[int, tuple[str, Check]] = {}
        self._next = 0
        self._beat_at: float | None = None  # None: no loop runs here
        self._beat: asyncio.TimerHandle | None = None
        self._loop_thread = 0
        self._serving = False

    def check(self, name: str, check: Check) -> Callable[[], None]:
        """Ask ``check`` at every readiness probe, until what this returns is called."""
        number, self._next = self._next, self._next + 1
        self._checks[number] = name, check
        return lambda: self._checks.pop(number, None) and None

    def begin(self) -> None:
        """The loop that this is called from is the process' loop: watch that it runs."""
        import threading

        self._loop_thread = threading.get_ident()
        self._beat_at = self._monotonic()
        self._tick()

    def serving(self) -> None:
        """The service has said that it is ready for work."""
        self._serving = True

    def end(self) -> None:
        """The service is about to stop: not ready any more."""
        self._serving = False

    def close(self) -> None:
        """The loop ends; it is not watched any more."""
        if self._beat is not None:
            self._beat.cancel()
        self._beat_at = None

    def live(self) -> Report:
        """Whether the event loop runs. Safe from any thread."""
        silent_s = self.silent_s()
        stuck = silent_s > STUCK_S
        return Report(not stuck, {"loop": self._loop_trouble(silent_s) if stuck else "ok"})

    def ready(self) -> Report:
        """Whether the service can do its work now. Safe from any thread."""
        silent_s = self.silent_s()
        troubles = {"loop": self._loop_trouble(silent_s) if silent_s > UNREADY_S else ""}
        troubles["service"] = "" if self._serving else "not serving: it starts, or stops"
        for name, check in list(self._checks.values()):
            troubles[name] = troubles.get(name) or _asked(check)
        return Report(not any(troubles.values()), {name: trouble or "ok" for name, trouble in troubles.items()})

    def silent_s(self) -> float:
        """How long ago the loop said that it runs; 0 where none is watched."""
        return 0.0 if self._beat_at is None else self._monotonic() - self._beat_at

    def _tick(self) -> None:
        now = self._monotonic()
        late_s = now - (self._beat_at or now) - (BEAT_S if self._beat is not None else 0)
        meters.LOOP_DELAY.of().observe(max(0.0, late_s))
        self._beat_at = now
        self._beat = asyncio.get_running_loop().call_later(BEAT_S, self._tick)

    def _loop_trouble(self, silent_s: float) -> str:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the documented way to see another thread
        stack = traceback.extract_stack(frame)[-1:] if frame is not None else []
        where = f", in {stack[0].name} ({stack[0].filename}:{stack[0].lineno})" if stack else ""
        return f"the event loop has not run for {silent_s:.1f} s{where}"


def _asked(check: Check) -> str:
    try:
        return check()
    except Exception as problem:
        return f"cannot tell: {problem!r}"


HEALTH = Health()
"""This process': a process runs one service. Embedders and tests may run several, whose checks then come together."""
