"""``python -m tests.faults.serve_with_fault <service>``: ``apexstream serve``, hurt on purpose as the environment says.

So the product itself holds no test code. ``FAULT_POINT``: see :mod:`points`. ``FAULT_MUTATION``: see :mod:`mutations`.
``FAULT_CLOCK_SKEW_S``: how far this
process' clock is off. ``FAULT_POLL_MS``: how long the group lets this member be busy. ``FAULT_SLEEPLESS``: a runner that did not
run for long goes on, as a zombie, instead of starting over.
"""

import math
import os
import sys
import time
from typing import Any


def main() -> None:
    """Patch what is asked for, then be the service."""
    for name, install in _HURTS.items():
        if value := os.environ.get(name):
            install(value)
    from apexstream.__main__ import main as serve

    sys.argv = ["apexstream", "serve", *sys.argv[1:]]
    serve()


def _at_point(text: str) -> None:
    from tests.faults.points import Point, install

    install(Point.parse(text))


def _mutated(name: str) -> None:
    from tests.faults.mutations import MUTATIONS

    MUTATIONS[name]()


def _group_setting(**settings: int) -> None:
    import apexstream.log.group

    make = apexstream.log.group.group_consumer

    def consumer(*args: Any, **named: Any) -> Any:
        return make(*args, **{**named, **settings})

    apexstream.log.group.group_consumer = consumer


def _poll(milliseconds: str) -> None:
    _group_setting(max_poll_interval_ms=int(milliseconds))


def _sleepless(_: str) -> None:
    from apexstream.log.group import GroupReader

    make = GroupReader.__init__

    def made(self: GroupReader, *args: Any, **named: Any) -> None:
        make(self, *args, **named)
        self._stall_s_max = math.inf

    GroupReader.__init__ = made  # type: ignore[method-assign]


def _skewed(seconds: str) -> None:
    """Every clock that tells the time of day; monotonic ones are not touched, as on a machine whose clock is wrong."""
    from apexstream.runtime.clock import SystemClock

    skew_s, now, now_ns = float(seconds), time.time, time.time_ns
    SystemClock.now_us = lambda self: now_ns() // 1000 + int(skew_s * 1e6)  # type: ignore[method-assign]
    time.time = lambda: now() + skew_s
    time.time_ns = lambda: now_ns() + int(skew_s * 1e9)


_HURTS = {
    "FAULT_CLOCK_SKEW_S": _skewed,
    "FAULT_POLL_MS": _poll,
    "FAULT_SLEEPLESS": _sleepless,
    "FAULT_MUTATION": _mutated,
    "FAULT_POINT": _at_point,
}

if __name__ == "__main__":
    main()
