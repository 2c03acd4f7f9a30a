"""Keeps one service running: starts it, starts it again when it crashes, gives up on a crash loop, stops it in order."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import structlog

from apexstream.cli.child import Child
from apexstream.cli.exits import ExitCode
from apexstream.cli.restarts import RestartPolicy, Restarts
from apexstream.cli.timings import Timings
from apexstream.core.errors import ApexError, Unavailable
from apexstream.runtime.clock import Clock

_log = structlog.get_logger("apexstream.up")


class Keeper:
    """One service's life. ``environ`` gives what to add to its environment, once that is known.

    ``ready`` is done with the service's own word once it serves for the first time, or fails with why it cannot.
    """

    def __init__(
        self,
        name: str,
        environ: Callable[[], Awaitable[Mapping[str, str]]],
        *,
        policy: RestartPolicy,
        clock: Clock,
        timings: Timings,
    ) -> None:
        self.name = name
        self.ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._environ = environ
        self._restarts = Restarts(policy)
        self._clock = clock
        self._timings = timings
        self._child: Child | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id of the service as it runs now."""
        return None if self._child is None else self._child.process.pid

    async def run(self) -> None:
        """Keep the service running until :meth:`stop`; return early when it is given up."""
        while not self._stopping.is_set():
            status, failure = await self._live_once()
            if self._stopping.is_set() or not await self._may_restart(status, failure):
                return

    def stop(self) -> None:
        """Ask the service to stop in order; :meth:`run` returns once it has."""
        self._stopping.set()
        if self._child is not None:
            self._child.stop()

    def kill(self) -> None:
        """End the service at once."""
        self._stopping.set()
        if self._child is not None:
            self._child.kill()

    async def _live_once(self) -> tuple[int, ApexError | None]:
        child = self._child = await Child.start(self.name)
        if self._stopping.is_set():  # asked while it was being started
            child.stop()
        try:
            with suppress(ApexError):  # kept in the child; its end says the rest
                await self._bring_up(child)
            return await child.ended(), child.failure
        finally:
            self._child = None
            if child.process.returncode is None:
                child.kill()

    async def _bring_up(self, child: Child) -> None:
        await child.loaded()
        self._timings.mark(f"{self.name} loaded")
        await child.order(await self._environ())  # one that ends meanwhile is noticed right after this
        detail = await child.ready()
        self._timings.mark(f"{self.name} ready")
        if self.ready.done():
            _log.info("the service is back", of=self.name, detail=detail)
        else:
            self.ready.set_result(detail)

    async def _may_restart(self, status: int, failure: ApexError | None) -> bool:
        problem = failure or Unavailable(f"ended with status {status}", where=self.name, hint="See its log above")
        if status == ExitCode.USAGE and not self.ready.done():
            self.ready.set_exception(problem)
            return False
        delay_s = self._restarts.crashed(self._clock.monotonic())
        if delay_s is None:
            self._give_up(problem)
            return False
        _log.error("a service ended, starting it again", of=self.name, status=status, error=str(problem), in_s=delay_s)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay_s)
        return not self._stopping.is_set()

    def _give_up(self, problem: ApexError) -> None:
        policy = self._restarts.policy
        what = f"ended {policy.crashes_max + 1} times within {policy.window_s:g} s; it is not started again ({problem})"
        hint = "Mend the cause and start `apexstream up` again"
        if self.ready.done():
            _log.error("crash loop: the other services go on without it", of=self.name, error=what, hint=hint)
        else:
            self.ready.set_exception(Unavailable(what, where=self.name, hint=hint))
