"""What a submission may ask of a task's life: how long it may take, how often it is tried, how long its stream is kept.

An action declares defaults; a task overrides them field by field.
"""

import math
from enum import StrEnum
from typing import Annotated

import msgspec

from apexstream.core.throttle import RATE_MIN, Bounds

Seconds = Annotated[float, msgspec.Meta(gt=0, le=31_536_000)]


class ErrorClass(StrEnum):
    """Why an attempt failed, which decides whether another one makes sense."""

    TRANSIENT = "transient"  # network, timeouts, anything that may work in a moment: retried
    RATE_LIMITED = "rate_limited"  # somebody asked for patience: retried after at least the time they named
    RESOURCE = "resource"  # memory, file descriptors, a killed process: retried, elsewhere if possible
    PLUGIN_BUG = "plugin_bug"  # an exception that nobody classified: retried once
    PERMANENT = "permanent"  # bad input, missing rights: never retried

    @property
    def tries_max(self) -> int | None:
        """Attempts that make sense, whatever the task allows; None: as many as the task allows."""
        return {ErrorClass.PERMANENT: 1, ErrorClass.PLUGIN_BUG: 2}.get(self)


class TaskOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """All optional; None means no limit, and for a task's own options: as the action declares."""

    first_chunk_timeout_s: Seconds | None = None
    idle_timeout_s: Seconds | None = None  # between two chunks
    total_timeout_s: Seconds | None = None  # of one attempt
    max_attempts: Annotated[int, msgspec.Meta(ge=1, le=100)] | None = None
    backoff_s: Seconds | None = None  # before the second attempt; doubles from there
    backoff_max_s: Seconds | None = None
    ttl_s: Seconds | None = None  # the stream is kept this long after its end
    bytes_max: Annotated[int, msgspec.Meta(ge=1)] | None = None  # payload bytes; a stream that grows larger fails
    keep: bool | None = None  # keep the stream until it is erased on purpose
    adaptive: bool | None = None  # its rate follows what its pipelines and viewers can take
    rate_min: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None  # chunks a second, however far they are behind
    rate_max: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None  # chunks a second, even if nobody is behind

    @property
    def bounds(self) -> Bounds:
        """Of an adaptive stream's rate."""
        return Bounds(self.rate_min or RATE_MIN, math.inf if self.rate_max is None else self.rate_max)

    def over(self, defaults: "TaskOptions") -> "TaskOptions":
        """These options, with ``defaults`` where they say nothing."""
        own = {name: value for name in self.__struct_fields__ if (value := getattr(self, name)) is not None}
        return msgspec.structs.replace(defaults, **own)


DEFAULT_MAX_ATTEMPTS = 5
DEFAULT_BACKOFF_S = 0.5
DEFAULT_BACKOFF_MAX_S = 60.0
