"""The life of a service process: its loop, its signals, its orderly end within a bound, its tie to a supervisor.

:func:`run_service` is the process; the loops inside it are :mod:`apexstream.runtime.supervise`'s. What an end means for
the exit status is the command line's business.
"""

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from apexstream.core.errors import ApexError
from apexstream.runtime.health import HEALTH
from apexstream.runtime.settings import Settings

GC_THRESHOLDS = (
    20_000,
    20,
    50,
)  # chunks come and go by the thousand and make no cycles: looking for some took 11 % of a gateway
ABANDON_GRACE_S = 5.0  # between cancelling what did not stop in time, and leaving it behind
ABANDONED_STATUS = 75  # EX_TEMPFAIL: the process left while its work would not stop


class StopTimedOut(ApexError):
    """A service was asked to stop and did not within ``drain_timeout_s``; its work was cancelled."""

    code = "stop_timeout"


class StoppedByItself(ApexError):
    """A service returned although nothing asked it to stop."""

    code = "stopped_by_itself"


class Serve(Protocol):
    """What every service's ``build.py`` offers."""

    async def __call__(self, settings: Settings, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; call ``ready(detail)`` once really serving."""
        ...


def run_service(
    serve: Serve,
    settings: Settings,
    *,
    ready: Callable[[str], None],
    tie: Callable[[Callable[[], None]], None] | None = None,
) -> None:
    """Run ``serve`` in this process until SIGTERM or SIGINT asks for its end, and return once it has ended in order.

    ``tie`` is called with a thread-safe "stop now" that a supervisor's death may call too. A second signal cancels at
    once. Raises what ``serve`` raises, and :class:`StopTimedOut` when it had to be cancelled. If even that does not
    end it, the process exits with ``ABANDONED_STATUS``.
    """
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        runner.run(_supervised(serve, settings, ready, tie))


async def _supervised(
    serve: Serve, settings: Settings, ready: Callable[[str], None], tie: Callable[[Callable[[], None]], None] | None
) -> None:
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()
    if tie is not None:
        tie(lambda: _from_thread(loop, stop.set))
    with _signals(loop, stop, hurry, settings.drain_timeout_s + ABANDON_GRACE_S):
        HEALTH.begin()
        gc.freeze()  # what is loaded by now stays
        gc.set_threshold(*GC_THRESHOLDS)
        serving: asyncio.Future[Any] = asyncio.ensure_future(serve(settings, ready=_told(ready), stop=stop))
        stopping: asyncio.Future[Any] = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            HEALTH.end()
            if not serving.done():
                await _drain(serving, hurry, settings.drain_timeout_s)
        finally:
            await _cancel_and_wait(serving, stopping)
            HEALTH.close()
    if not serving.cancelled():
        serving.result()
    if not stop.is_set():
        raise StoppedByItself("ended without being asked to", hint="This is a defect: please report it with the log")


def _told(ready: Callable[[str], None]) -> Callable[[str], None]:
    def tell(detail: str) -> None:
        HEALTH.serving()
        ready(detail)

    return tell


async def _drain(serving: asyncio.Future[Any], hurry: asyncio.Event, timeout_s: float) -> None:
    hurried: asyncio.Future[Any] = asyncio.ensure_future(hurry.wait())
    try:
        await asyncio.wait({serving, hurried}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            return
        await _cancel_and_wait(serving)
        if not hurried.done():
            raise StopTimedOut(
                f"did not stop within {timeout_s:g} s and was cancelled",
                hint="Nothing acknowledged is lost; raise APEX_DRAIN_TIMEOUT_S if its work needs longer",
            )
    finally:
        await _cancel_and_wait(hurried)


async def _cancel_and_wait(*tasks: asyncio.Future[Any]) -> None:
    """Cancel the tasks that still run, and return once each has ended; what they raise stays in them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _signals(
    loop: asyncio.AbstractEventLoop, stop: asyncio.Event, hurry: asyncio.Event, abandon_s: float
) -> Iterator[None]:
    """SIGINT and SIGTERM set ``stop``, a second one ``hurry``; ``abandon_s`` after the first the process is left.

    The interpreter's own handlers, not the loop's: work that blocks the loop must not be able to keep the process.
    """
    last_resort = threading.Timer(abandon_s, os._exit, [ABANDONED_STATUS])
    last_resort.daemon = True

    def on_signal(_: int, __: object) -> None:
        if not last_resort.is_alive():
            last_resort.start()
            _from_thread(loop, stop.set)
        else:
            _from_thread(loop, hurry.set)

    before = {kind: signal.signal(kind, on_signal) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        last_resort.cancel()
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _from_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return  # the loop is closed: the service has ended already


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
