"""The socket between ``apexstream up`` and each service that it starts, as the service holds it.

It carries JSON lines: the supervisor sends the environment to serve with, the service says that it is loaded, ready or
why it failed. When the supervisor's end closes, however it died, the service stops.
"""

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

import msgspec

from apexstream.core.errors import ApexError, Unavailable

LINE_BYTES_MAX = 1024 * 1024


class Orders(msgspec.Struct, frozen=True):
    """What the supervisor sends once the service may start: environment variables to add."""

    environ: dict[str, str]


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a service sends: ``loaded`` (imports done), ``ready`` (the detail, once serving), or ``failed`` (the error)."""

    loaded: bool = False
    ready: str | None = None
    failed: dict[str, str] | None = None


class Leash:
    """The service's end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lines = end.makefile("rb")

    @classmethod
    def adopt(cls, descriptor: int) -> Self:
        """Take the inherited descriptor; it is not passed on to this process' own children."""
        try:
            end = socket.socket(fileno=descriptor)
        except OSError as problem:
            raise ApexError(f"not an open socket: {problem.strerror}", where="--supervisor-fd") from None
        end.set_inheritable(False)
        return cls(end)

    def wait_for_orders(self) -> Orders:
        """Say that everything is loaded, and block until the supervisor sends its orders."""
        self.report(Report(loaded=True))
        line = self._lines.readline(LINE_BYTES_MAX)
        if not line:
            raise Unavailable("the supervisor is gone", where="apexstream up")
        return msgspec.json.decode(line, type=Orders)

    def report(self, report: Report) -> None:
        """Tell the supervisor; one that is gone is noticed by :meth:`hold`."""
        try:
            self._end.sendall(msgspec.json.encode(report) + b"\n")
        except OSError:
            return

    def hold(self, stop: Callable[[], None], *, give_up_s: float) -> None:
        """Call ``stop`` when the supervisor's end closes, from a thread, so that a blocked event loop cannot miss it.

        If the process still lives ``give_up_s`` later, it is ended at once.
        """

        def watch() -> None:
            self._lines.read()  # returns at end of file: nothing more is ever sent
            stop()
            time.sleep(give_up_s)
            os._exit(os.EX_TEMPFAIL)

        threading.Thread(target=watch, name="leash", daemon=True).start()
