"""Runs actions in this process: for tests, and for plugins that their operator trusts. No sandbox at all: an action that
blocks its event loop blocks the runner."""

import asyncio
from collections.abc import Callable

import structlog

from apexstream.core.errors import PluginFailed
from apexstream.core.options import ErrorClass
from apexstream.plugin import PluginManager
from apexstream.runner.host.catalogue import Catalogue, catalogue_of
from apexstream.runner.host.engine import Execution
from apexstream.runner.host.frames import Batch
from apexstream.runner.host.port import Call, CallOutcome, Ending, Sink
from apexstream.runner.host.receiver import Receiver
from apexstream.runtime.clock import Clock

CLOSE_GRACE_S = 5.0

_log = structlog.get_logger(__name__)


class LocalHost:
    """An :class:`~apexstream.runner.host.port.ActionHost` over plugins that are loaded here."""

    def __init__(self, plugins: PluginManager, clock: Clock) -> None:
        self._plugins = plugins
        self._clock = clock
        self._calls: set[LocalCall] = set()
        self._full = False

    def describe(self) -> Catalogue:
        """What this host can run."""
        return catalogue_of(self._plugins)

    def start(self, call: Call, sink: Sink) -> "LocalCall":
        """Begin a call. Needs a running event loop."""
        running = LocalCall(self._plugins, call, sink, self._clock, self._calls, full=lambda: self._full)
        self._calls.add(running)
        return running

    def hold(self, full: bool) -> None:
        """While ``full`` each action stops after the batch that it is filling."""
        self._full = full
        if not full:
            for call in self._calls:
                call.go_on()

    async def close(self) -> None:
        """Break off every call; each is reported as lost."""
        calls = list(self._calls)
        for call in calls:
            call.kill()
        stopping = [call.stopped() for call in calls]
        _, late = await asyncio.wait(stopping, timeout=CLOSE_GRACE_S) if stopping else ((), ())
        if late:
            _log.error("actions did not stop and are left behind", count=len(late))


class LocalCall:
    """A running call; see :class:`~apexstream.runner.host.port.RunningCall`."""

    def __init__(
        self,
        plugins: PluginManager,
        call: Call,
        sink: Sink,
        clock: Clock,
        among: "set[LocalCall]",
        *,
        full: Callable[[], bool],
    ) -> None:
        self._call = call
        self._among = among
        self._full = full
        self._receiver = Receiver(sink)
        self._execution = Execution(plugins, call, self, clock.now_us)
        self._execution.begin()

    def credit(self, size_bytes: int) -> None:
        """So many payload bytes were taken."""
        self._execution.credit(self._receiver.window.take(size_bytes))

    def cancel(self, reason: str) -> None:
        """Set the token."""
        self._execution.cancel(reason)

    def interrupt(self) -> None:
        """Cancel the action's task."""
        self._execution.interrupt()

    def park(self) -> None:
        """Stop at the next yield."""
        self._execution.park()

    def pause(self, paused: bool) -> None:
        """Hold at the next yield, or go on."""
        self._execution.pause(paused)

    def pace(self, rate: float) -> None:
        """Yield at most so many chunks a second."""
        self._execution.pace(rate)

    def answer(self, number: int, answer: bytes) -> None:
        """What a question comes to."""
        self._execution.answer(number, answer)

    def kill(self) -> None:
        """Report the call as lost and leave the action behind, cancelled: nothing in a process can do more to a part of it."""
        if self._receiver.over:
            return
        self._execution.abandon()
        where = f"{self._call.plugin}.{self._call.action}"
        problem = PluginFailed("was broken off on request", where=where)
        outcome = CallOutcome(ending=Ending.LOST, error=problem.as_dict(), error_class=ErrorClass.RESOURCE)
        asyncio.get_running_loop().call_soon(self.ended, 0, outcome)

    def stopped(self) -> "asyncio.Future[None]":
        """Done once the action's code runs no more."""
        return self._execution.task

    def go_on(self) -> None:
        """There is room again."""
        self._execution.go_on()

    def batch(self, batch: Batch) -> bool:
        """What the execution yields; False: it shall wait for :meth:`go_on`."""
        if not self._receiver.batch(batch, batch.payload_bytes):
            self._execution.interrupt()
        return not self._full()

    def asked(self, number: int, question: int, data: bytes) -> None:  # noqa: ARG002 - a process has many, this is one
        """The execution asks something of other tasks."""
        self._receiver.asked(question, data)

    def ended(self, number: int, outcome: CallOutcome) -> None:  # noqa: ARG002 - a process has many, this is one
        """The execution is over."""
        self._among.discard(self)
        self._receiver.ended(outcome)
