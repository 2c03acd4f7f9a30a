"""Pulls a plain generator in its own thread: many steps for one change of threads, and nothing waits for a slow step."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from apexstream.core.chunk import RUN_BYTES_MAX, RUN_CHUNKS_MAX
from apexstream.runner.host.batching import BATCH_AGE_US, SLOW_STEP_US

Encode = Callable[[Any], tuple[bytes, str, bytes | None]]
"""From a yielded value to payload, content type and checkpoint; raises what ends the action."""

_END = object()


@dataclass(frozen=True, slots=True)
class Yielded:
    """A data chunk as it came from the generator."""

    payload: bytes
    content_type: str
    checkpoint: bytes | None
    time_us: int


@dataclass(frozen=True, slots=True)
class Reported:
    """Progress that the generator reported between two yields."""

    payload: bytes
    time_us: int


@dataclass(frozen=True, slots=True)
class Pulled:
    """How a pull ended: by what the generator raised, because there is no more, or to be gone on with."""

    ended: bool = False
    problem: BaseException | None = None


class Puller:
    """:meth:`pull` runs in the generator's thread, everything else in the event loop's. What was pulled waits in ``items``,
    in order; ``notify`` is called, from the thread, when there is something after nothing was."""

    def __init__(
        self, encode: Encode, now_us: Callable[[], int], notify: Callable[[], None], stopping: Callable[[], bool]
    ) -> None:
        """``stopping`` is asked after every step whether to return."""
        self.items: deque[Yielded | Reported] = deque()
        self._encode = encode
        self._now_us = now_us
        self._notify = notify
        self._stopping = stopping
        self._thread = 0

    @property
    def is_here(self) -> bool:
        """Whether this is the generator's thread, in the midst of a step."""
        return self._thread == threading.get_ident()

    def report(self, payload: bytes) -> None:
        """Progress, from within a step."""
        self._append(Reported(payload, self._now_us()))

    def pull(self, steps: Iterator[Any]) -> Pulled:
        """Take steps until a batch is full, or as old as one may become, or a step was slow."""
        self._thread = threading.get_ident()
        try:
            return Pulled(ended=self._pull(steps))
        except BaseException as problem:  # futures do not carry all of them, and none of it may end the thread unseen
            return Pulled(problem=problem)
        finally:
            self._thread = 0

    def skip(self, steps: Iterator[Any], count_max: int) -> tuple[int, bool]:
        """Take steps for nothing: how many, and whether there are no more."""
        for skipped in range(count_max):
            if self._stopping():
                return skipped, False
            if next(steps, _END) is _END:
                return skipped, True
        return count_max, False

    def _pull(self, steps: Iterator[Any]) -> bool:
        began_us = last_us = self._now_us()
        count = size = 0
        while True:
            value = next(steps, _END)
            if value is _END:
                return True
            now_us = self._now_us()
            payload, content_type, checkpoint = self._encode(value)
            self._append(Yielded(payload, content_type, checkpoint, now_us))
            count, size = count + 1, size + len(payload)
            slow = now_us - last_us >= SLOW_STEP_US or now_us - began_us >= BATCH_AGE_US
            if slow or count >= RUN_CHUNKS_MAX or size >= RUN_BYTES_MAX or self._stopping():
                return False
            last_us = now_us

    def _append(self, item: Yielded | Reported) -> None:
        self.items.append(item)
        if len(self.items) == 1:
            self._notify()
