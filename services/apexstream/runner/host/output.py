"""What a plugin process prints, as log lines of the runner: bounded in size and number."""

import asyncio
import os
from collections.abc import Callable

import structlog

LINE_BYTES_MAX = 4_000
LINES_A_SECOND_MAX = 100.0
LINES_AT_ONCE_MAX = 500.0
PAUSE_S = 0.1  # between two readings of a pipe that brings more than may be logged

_log = structlog.get_logger(__name__)


class Output(asyncio.Protocol):
    """Reads the pipe that is a plugin process' standard output and error."""

    _transport: asyncio.ReadTransport

    def __init__(self, plugin: str, monotonic: Callable[[], float]) -> None:
        self.pid = 0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._plugin = plugin
        self._monotonic = monotonic
        self._line = b""
        self._allowed = LINES_AT_ONCE_MAX
        self._counted_at_s = monotonic()
        self._dropped = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop reads the pipe."""
        self._transport = transport  # type: ignore[assignment]  # of a pipe's reading end

    def data_received(self, data: bytes) -> None:
        """Log the lines that are complete, and cut those that do not end."""
        *lines, rest = (self._line + data).split(b"\n")
        for line in lines:
            self._show(line)
        if len(rest) > LINE_BYTES_MAX:
            self._show(rest)
            rest = b""
        self._line = rest
        if self._allowed < 1:  # whoever prints so much is slowed down rather than read for nothing
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(PAUSE_S, self._go_on)

    def connection_lost(self, problem: Exception | None) -> None:  # noqa: ARG002 - the process has ended, others see how
        """Log what came last."""
        if self._line:
            self._show(self._line)
        if self._dropped:
            _log.warning("lines of a plugin were dropped", plugin=self._plugin, pid=self.pid, count=self._dropped)
        self.closed.set_result(None)

    def close(self) -> None:
        """Read no more."""
        self._transport.close()

    def _go_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _show(self, line: bytes) -> None:
        now_s = self._monotonic()
        passed_s, self._counted_at_s = now_s - self._counted_at_s, now_s
        self._allowed = min(LINES_AT_ONCE_MAX, self._allowed + passed_s * LINES_A_SECOND_MAX)
        if self._allowed < 1:
            self._dropped += 1
            return
        self._allowed -= 1
        text = line[:LINE_BYTES_MAX].decode("utf-8", "replace").rstrip()
        if text:
            _log.info(text, plugin=self._plugin, pid=self.pid)


async def capture(plugin: str, monotonic: Callable[[], float]) -> tuple[Output, int]:
    """A pipe whose lines are logged, and the descriptor to hand to the process; close that one then."""
    reading, writing = os.pipe()
    _, output = await asyncio.get_running_loop().connect_read_pipe(
        lambda: Output(plugin, monotonic), os.fdopen(reading, "rb", 0)
    )
    return output, writing
