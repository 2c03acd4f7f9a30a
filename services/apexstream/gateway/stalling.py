"""Notices a client that has stopped reading: it takes nothing of what waits for it, for as long as nobody should wait."""

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable

STALLED_S = 5.0  # a client that takes nothing of what waits for it for so long is gone
_CHECK_S = 1.0


def waiting_bytes(transport: asyncio.Transport) -> int:
    """What the client has yet to take of what was written: in this process, and what the kernel keeps until it is acknowledged.

    A slow link takes from the kernel all the time, and the kernel from here only when a third of its buffer is free."""
    try:
        told = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, AttributeError):  # a closed socket, or a system that does not tell
        return transport.get_write_buffer_size()
    return transport.get_write_buffer_size() + int(struct.unpack("i", told)[0])


class StallWatch:
    """Runs between :meth:`start` and :meth:`stop`. ``taken`` tells how many bytes the client has taken so far, from any
    number on; ``on_stalled`` is called once if that stays the same."""

    __slots__ = ("_check", "_loop", "_on_stalled", "_since", "_taken", "_taken_before")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, taken: Callable[[], int], on_stalled: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._taken = taken
        self._on_stalled = on_stalled
        self._taken_before = 0
        self._since = 0.0
        self._check: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Something waits for the client."""
        self._taken_before, self._since = self._taken(), self._loop.time()
        if self._check is None:
            self._check = self._loop.call_later(_CHECK_S, self._look)

    def stop(self) -> None:
        """The client takes it, or is gone."""
        if self._check is not None:
            self._check.cancel()
            self._check = None

    def _look(self) -> None:
        taken, now = self._taken(), self._loop.time()
        if taken != self._taken_before:
            self._taken_before, self._since = taken, now
        if now - self._since < STALLED_S:
            self._check = self._loop.call_later(_CHECK_S, self._look)
            return
        self._check = None
        self._on_stalled()
