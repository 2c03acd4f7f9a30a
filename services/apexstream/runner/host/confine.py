"""What a plugin process does to itself before any plugin code runs: limits, an empty environment, a tie to its parent.

This contains accidents, not attackers: it is one user's process among others. It can read what that user may read, the
runner's ``/proc`` entry included, use the network, and escape its process group (see :mod:`process`).
"""

import ctypes
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Mapping

from apexstream.runner.host.frames import Setup

EXIT_GRACE_S = 1.0  # for actions to clean up once the runner has closed the socket, or died
ORPHANED_STATUS = 75

_PR_SET_PDEATHSIG = 1


def tie_to(parent: int) -> None:
    """Let the kernel kill this process when ``parent`` dies, even by SIGKILL, and even if a plugin blocks everything here.

    The kernel means the parent's *thread* that started us: it must live as long as the runner's event loop, which it runs.
    A parent that died before this call is noticed by its number.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(ORPHANED_STATUS)


def watch(descriptor: int) -> None:
    """End this process when the other end of the socket ``descriptor`` closes, from a thread, so that a blocked event loop
    cannot miss it; the loop itself has ``EXIT_GRACE_S`` to end in order."""

    def wait() -> None:
        poll = select.poll()
        poll.register(descriptor, select.POLLRDHUP)
        poll.poll()
        time.sleep(EXIT_GRACE_S)
        os._exit(ORPHANED_STATUS)

    threading.Thread(target=wait, name="apexstream-parent-watch", daemon=True).start()


def confine(setup: Setup) -> None:
    """Apply the limits, for good, and leave exactly the environment that was named."""
    _limit(resource.RLIMIT_CORE, 0)
    for kind, value in (
        (resource.RLIMIT_AS, setup.memory_bytes),
        (resource.RLIMIT_CPU, setup.cpu_s),
        (resource.RLIMIT_NOFILE, setup.open_files),
        (resource.RLIMIT_FSIZE, setup.file_bytes),
        (resource.RLIMIT_NPROC, setup.processes),
    ):
        if value is not None:
            _limit(kind, value)
    _replace_environment(setup.environment)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (allowed, allowed))


def _replace_environment(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
