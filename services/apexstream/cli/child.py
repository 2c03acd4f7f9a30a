"""One service as a process of its own, as the supervisor sees it."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Self

import msgspec

from apexstream.cli.leash import LINE_BYTES_MAX, Orders, Report
from apexstream.client.problems import Problem
from apexstream.core.errors import ApexError, Unavailable


class Child:
    """A started service. It dies with this process, because the socket between them closes then."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.name = name
        self.process = process
        self.failure: ApexError | None = None
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, name: str) -> Self:
        """Start the service ``name``; it loads its code and waits for :meth:`order`. Its output goes to standard error."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "apexstream", "serve", name, "--supervisor-fd", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # a Ctrl-C in the terminal reaches the supervisor alone, which stops in order
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES_MAX)
        return cls(name, process, reader, writer)

    async def loaded(self) -> None:
        """Return once the service has loaded its code."""
        await self._report()

    async def order(self, environ: Mapping[str, str]) -> None:
        """Let the service start, with ``environ`` added to its environment."""
        with suppress(ConnectionError):  # it has ended; whoever waits for it will see how
            self._writer.write(msgspec.json.encode(Orders(dict(environ))) + b"\n")
            await self._writer.drain()

    async def ready(self) -> str:
        """Return the detail that the service reports once it serves; raises its error if it ends before."""
        while True:
            report = await self._report()
            if report.ready is not None:
                return report.ready

    async def ended(self) -> int:
        """Return the exit status once the process has ended; :attr:`failure` then says why, if it could."""
        with suppress(ApexError):
            while True:  # what it reports last
                await self._report()
        status = await self.process.wait()
        self._writer.close()
        return status

    def stop(self) -> None:
        """Ask the service to stop in order."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the service, and whatever it started in its session, at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def _report(self) -> Report:
        """The next report; raises the service's error, also when it has ended without one."""
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError) as problem:
            line = b""
            self.failure = self.failure or Unavailable(str(problem), where=self.name)
        if not line:
            raise self.failure or Unavailable("ended before it was ready", where=self.name, hint="See its log above")
        report = msgspec.json.decode(line, type=Report)
        if report.failed is not None:
            self.failure = msgspec.convert(report.failed, Problem).exception()
            raise self.failure
        return report
