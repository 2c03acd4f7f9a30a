"""One life of one plugin process: started, described, watched, and ended for sure."""

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from apexstream.core.errors import PluginFailed, Unavailable
from apexstream.core.options import ErrorClass
from apexstream.runner.host.confinement import Confinement, Patience
from apexstream.runner.host.frames import Described, Frame
from apexstream.runner.host.link import Link
from apexstream.runner.host.output import Output, capture
from apexstream.runner.host.remote import RemoteCall

DRAIN_TIMEOUT_S = 0.5  # for what a dead process had written; a program that it left behind may hold the socket open

_BY_FORCE = {
    -signal.SIGKILL,
    -signal.SIGTERM,
    -signal.SIGXCPU,
}  # by whoever guards memory or time: nobody's bug for sure
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """What a process is for: the plugin's name and its entry point, ``module:object``."""

    plugin: str
    entry: str


class Life:
    """A plugin process. :meth:`start` it, then :meth:`run` until it has ended; everything else happens in between."""

    def __init__(self, identity: Identity, confinement: Confinement, patience: Patience) -> None:
        self.described = Described([])
        self._identity = identity
        self._confinement = confinement
        self._patience = patience
        self._link = Link(self._on_broken)
        self._link.closed.add_done_callback(self._on_closed)
        self._process: asyncio.subprocess.Process
        self._output: Output
        self._count = 0
        self._why = ""  # it was ended, if it was
        self._over = False
        self._guilty = False  # whether the plugin's code made it end
        self._killer: asyncio.TimerHandle | None = None
        self._closer: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int:
        """Its process id, which is that of its group and session too."""
        return self._process.pid

    @property
    def ending(self) -> bool:
        """Whether it is about to end: nothing new should begin here."""
        return self._over or bool(self._why)

    @property
    def load(self) -> tuple[bool, int]:
        """What to compare processes by: whether it is late with an answer, and how many calls run in it."""
        return self._link.unanswered > 1, len(self._link.calls)

    async def start(self) -> Described:
        """Spawn the process, and return what it says it is. Raises :class:`PluginFailed` if it ends or takes too long, and
        :class:`Unavailable` if it was killed from outside; it has ended for sure then."""
        ours, theirs = socket.socketpair()
        self._output, writing = await capture(self._identity.plugin, time.monotonic)
        try:
            self._process = await self._spawn(theirs.fileno(), writing)
        except BaseException:
            ours.close()
            self._output.close()
            raise
        finally:
            theirs.close()
            os.close(writing)
        try:
            self._output.pid = self.pid
            await asyncio.get_running_loop().create_unix_connection(lambda: self._link, sock=ours)
            self._link.send(self._confinement.setup(self._identity.plugin, self._identity.entry))
            return await self._introduction()
        except asyncio.CancelledError:
            self._end_at_once("was no longer needed")
            await self._until_ended()
            raise

    async def run(self) -> int:
        """Watch the process until it has ended, and report its calls as lost; the exit status."""
        watching = asyncio.create_task(self._watch(), name="watch a plugin process")
        try:
            return await self._until_ended()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    def begin(self, call: RemoteCall) -> None:
        """Run a call here."""
        self._count += 1
        self._link.calls[self._count] = call
        call.bind(self, self._count)

    def send(self, frame: Frame) -> None:
        """Queue a frame."""
        self._link.send(frame)

    def hold(self, full: bool) -> None:
        """Read nothing while ``full``."""
        self._link.hold(full)

    def kill(self, reason: str) -> None:
        """SIGTERM, and SIGKILL if that does not help in time."""
        if self._killer is None and not self._over:
            self._why = self._why or reason
            _signal_group(self.pid, signal.SIGTERM)
            loop = asyncio.get_running_loop()
            self._killer = loop.call_later(self._patience.term_grace_s, _signal_group, self.pid, signal.SIGKILL)

    async def close(self) -> None:
        """End the process in order: it sees the socket close, and lets its actions clean up. Returns once it has ended."""
        self._why = self._why or "was stopped with the runner"
        self._link.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience.term_grace_s):
                await self._process.wait()
        _signal_group(self.pid, signal.SIGKILL)
        await self._until_ended()

    async def _spawn(self, descriptor: int, output: int) -> asyncio.subprocess.Process:
        # -P and -s with an environment of our own are what -I is, but let us name folders to import from.
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-s", "-X", "utf8", "-m", "apexstream.runner.host.child"),
            *(str(descriptor), str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(descriptor,),
            env=self._confinement.interpreter_environment(),
            start_new_session=True,
        )

    async def _introduction(self) -> Described:
        timeout_s = self._patience.start_timeout_s
        first: set[asyncio.Future[Any]] = {self._link.described, self._link.closed}
        heard, _ = await asyncio.wait(first, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if self._link.described in heard:
            self.described = self._link.described.result()
            return self.described
        if not heard:
            self._end_at_once(f"did not load within {timeout_s:g} s")
        status = await self._until_ended()
        by_force = not self._why and status in _BY_FORCE
        failure = Unavailable if by_force else PluginFailed
        raise failure(f"its process {self._why or _told(status)} while it loaded", where=self._identity.plugin)

    async def _until_ended(self) -> int:
        status = await self._process.wait()
        self._over = True
        for timer in (self._killer, self._closer):
            if timer is not None:
                timer.cancel()
        _signal_group(self.pid, signal.SIGKILL)  # what it started and left behind
        await asyncio.wait({self._link.closed, self._output.closed}, timeout=DRAIN_TIMEOUT_S)
        self._link.close()
        self._output.close()
        self._report_lost(status)
        return status

    def _report_lost(self, status: int) -> None:
        calls, guilty = list(self._link.calls.values()), self._link.guilty
        self._link.calls.clear()
        by_plugin = self._guilty or (not self._why and status not in _BY_FORCE)
        bug = by_plugin and guilty is None and len(calls) == 1  # with several, nobody knows whose
        for call in calls:
            problem = PluginFailed(f"its process {self._why or _told(status)}", where=call.where)
            if call is guilty:
                call.failed(problem, ErrorClass.PLUGIN_BUG)
            else:
                call.lost(problem, ErrorClass.PLUGIN_BUG if bug else ErrorClass.RESOURCE)

    async def _watch(self) -> None:
        """Find out when the process does not answer. Counts signs of life, not time: a runner that was stopped for a while
        must not take itself for the process."""
        patience = self._patience
        missed_max = max(1, round(patience.unresponsive_s / patience.ping_s))
        while True:
            await asyncio.sleep(patience.ping_s)
            if self._link.unanswered >= missed_max:
                self._guilty = True
                self._end_at_once(
                    f"did not answer for {patience.unresponsive_s:g} s and was killed: an action blocks its event loop"
                )
                return
            if self._link.unanswered == 1:
                _log.warning("a plugin process does not answer", plugin=self._identity.plugin, pid=self.pid)
            self._link.ping()

    def _on_broken(self, reason: str) -> None:
        self._guilty = True
        _log.error("a plugin process broke a rule", plugin=self._identity.plugin, pid=self.pid, reason=reason)
        self._end_at_once(f"{reason} and was killed")

    def _on_closed(self, _: "asyncio.Future[None]") -> None:
        """A process that closes its socket is about to end. If it does not, nobody could reach it any more."""
        if not self._over:
            self._closer = asyncio.get_running_loop().call_later(
                self._patience.term_grace_s, self._end_at_once, "closed its socket and was killed"
            )

    def _end_at_once(self, reason: str) -> None:
        self._why = self._why or reason
        _signal_group(self.pid, signal.SIGKILL)


def _told(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _signal_group(pid: int, number: int) -> None:
    """To the process and all that it started, except what made a session of its own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
