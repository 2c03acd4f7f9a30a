"""Sources and functions that fail for a while, and sources that fall silent: retry, retrying, timeout."""

import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from apexstream.core.options import ErrorClass
from apexstream.plugin.errors import RateLimited, classify
from apexstream.plugin.operators.calls import above, at_least, result_of
from apexstream.plugin.operators.clock import LOOP_CLOCK, Timers, sleep_until
from apexstream.plugin.operators.errors import TimedOut
from apexstream.plugin.operators.reading import Readers
from apexstream.plugin.operators.stream import Guard, Source, Stream, opened

T = TypeVar("T")
U = TypeVar("U")

_WORTH_RETRYING = frozenset({ErrorClass.TRANSIENT, ErrorClass.RATE_LIMITED, ErrorClass.RESOURCE})


def worth_retrying(problem: Exception) -> bool:
    """True for what may work in a moment; see :func:`~apexstream.plugin.classify`."""
    return classify(problem) in _WORTH_RETRYING


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How often something is tried (the first time included), and the pauses between: ``first_s``, doubling up to ``max_s``
    seconds, each taken at random from its upper half if ``jitter`` is given. Longer if the error says so.
    """

    tries: int = 3
    first_s: float = 0.1
    max_s: float = 30.0
    jitter: random.Random | None = None

    def __post_init__(self) -> None:
        at_least(1, tries=self.tries)
        at_least(0, first_s=self.first_s, max_s=self.max_s)

    def pause_s(self, failures: int, problem: Exception) -> float:
        """Seconds to wait after so many failures in a row."""
        pause = min(self.max_s, self.first_s * 2.0 ** min(failures - 1, 60))
        if self.jitter is not None:
            pause *= self.jitter.uniform(0.5, 1.0)
        return max(pause, problem.retry_after_s) if isinstance(problem, RateLimited) else pause


@overload
def retrying(
    function: Callable[[T], Awaitable[U]],
    backoff: Backoff | None = ...,
    *,
    when: Callable[[Exception], bool] = ...,
    clock: Timers = ...,
) -> Callable[[T], Awaitable[U]]: ...
@overload
def retrying(
    function: Callable[[T], U],
    backoff: Backoff | None = ...,
    *,
    when: Callable[[Exception], bool] = ...,
    clock: Timers = ...,
) -> Callable[[T], Awaitable[U]]: ...
def retrying(
    function: Callable[[T], Any],
    backoff: Backoff | None = None,
    *,
    when: Callable[[Exception], bool] = worth_retrying,
    clock: Timers = LOOP_CLOCK,
) -> Callable[[T], Awaitable[Any]]:
    """``function``, called again for the same element when it fails; for :func:`map` and others. Its last error is raised."""
    policy = backoff or Backoff()

    async def call(element: T) -> Any:
        failures = 0
        while True:
            try:
                return await result_of(function, element)
            except Exception as problem:
                failures += 1
                if failures >= policy.tries or not when(problem):
                    raise
                pause_s = policy.pause_s(failures, problem)
            await sleep_until(clock, clock.monotonic() + pause_s)

    return call


def retry(
    source: Source[T],
    backoff: Backoff | None = None,
    *,
    when: Callable[[Exception], bool] = worth_retrying,
    skip_seen: bool = True,
    clock: Timers = LOOP_CLOCK,
) -> Stream[T]:
    """Close a source that fails, and open it again. An element sets the count of failures back to 0.

    The source must be one that can be opened again, such as a function. ``skip_seen``: it then gives the same elements again,
    and as many as have gone on already are left out; otherwise it goes on by itself where it was.
    """
    policy = backoff or Backoff()

    async def run(_: Guard | None) -> AsyncGenerator[T, None]:
        failures = seen = 0
        while True:
            left_out = 0
            try:
                async with opened(source) as elements:  # no guard: a failure must reach this operator to be tried again
                    async for element in elements:
                        if skip_seen and left_out < seen:
                            left_out += 1
                            continue
                        failures, seen, left_out = 0, seen + 1, left_out + 1
                        yield element
            except Exception as problem:
                failures += 1
                if failures >= policy.tries or not when(problem):
                    raise
                pause_s = policy.pause_s(failures, problem)
            else:
                return
            await sleep_until(clock, clock.monotonic() + pause_s)

    return Stream(run, source)


def timeout(
    source: Source[T],
    element_s: float | None = None,
    *,
    first_s: float | None = None,
    total_s: float | None = None,
    clock: Timers = LOOP_CLOCK,
) -> Stream[T]:
    """The elements; or :class:`~apexstream.plugin.operators.TimedOut`, and a cancelled source, when waiting for the next one
    takes ``element_s`` seconds (for the first: ``first_s``), or all of it ``total_s`` since the first was asked for.

    The consumer's own time counts for ``total_s`` only. Nothing is read ahead.
    """
    above(0, element_s=element_s, first_s=first_s, total_s=total_s)

    async def run(guard: Guard | None) -> AsyncGenerator[T, None]:
        end = _later(clock, total_s)
        wait_s = element_s if first_s is None else first_s
        async with Readers(clock, guard) as readers:
            inbox = readers.add(source, ahead_max=0)
            while await inbox.arrived(_earlier(_later(clock, wait_s), end)):
                if inbox.over:
                    inbox.finish()
                    return
                wait_s = element_s
                yield inbox.take()
            raise TimedOut("the source gave nothing in time", hint="Allow more, or retry()")

    return Stream(run, source)


def _later(clock: Timers, seconds: float | None) -> float | None:
    return None if seconds is None else clock.monotonic() + seconds


def _earlier(*times: float | None) -> float | None:
    known = [when for when in times if when is not None]
    return min(known) if known else None
