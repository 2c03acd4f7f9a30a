"""A plugin process: loads one plugin, and runs its actions for the runner at the other end of a socket.

Started as ``python -m apexstream.runner.host.child <descriptor> <pid of the runner>``; everything else it is told in
frames. It has no Kafka credentials, and ends when the socket closes.
"""

import asyncio
import faulthandler
import gc
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import NoReturn

import msgspec

from apexstream.plugin.manager import ENTRY_POINT_GROUP, PluginManager
from apexstream.runner.host import frames
from apexstream.runner.host.confine import EXIT_GRACE_S, confine, tie_to, watch
from apexstream.runner.host.engine import Execution
from apexstream.runner.host.frames import (
    Answered,
    Asked,
    Batch,
    BrokenFrame,
    Cancel,
    Credit,
    Described,
    Ended,
    Frame,
    Frames,
    Interrupt,
    OfferedAction,
    Pace,
    Park,
    Pause,
    Ping,
    Pong,
    Problem,
    Setup,
    Start,
    ToChild,
    encode,
)
from apexstream.runner.host.port import Call, CallOutcome, Resume
from apexstream.runtime.clock import SystemClock

WRITE_BYTES = 64 * 1024  # written at once; less waits for the end of the turn of the event loop
BROKEN_STATUS = 78  # EX_CONFIG: the plugin could not be loaded


def main() -> NoReturn:
    """Serve one plugin until the runner closes the socket."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    tie_to(parent)
    faulthandler.enable()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what is printed is wanted now, not at the end
    link = socket.socket(fileno=descriptor)
    link.set_inheritable(False)  # a program that the plugin starts must not keep the socket open
    watch(descriptor)
    setup = _read_setup(link)
    confine(setup)
    plugins = PluginManager([EntryPoint(setup.plugin, setup.entry, ENTRY_POINT_GROUP)])
    described = _describe(setup.plugin, plugins)
    link.sendall(encode(described))
    if not described.broken:
        gc.freeze()  # what is loaded now stays
        with asyncio.Runner(loop_factory=_fast_loop()) as runner:
            runner.run(_serve(setup.plugin, plugins, link))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(BROKEN_STATUS if described.broken else 0)  # a thread that a plugin left behind must not keep the process


async def _serve(plugin: str, plugins: PluginManager, link: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    served = _Link(plugin, plugins)
    await loop.create_unix_connection(lambda: served, sock=link)
    await served.closed.wait()
    await served.stop()


class _Link(asyncio.Protocol):
    """The child's end of the socket, and the calls that run here."""

    transport: asyncio.Transport

    def __init__(self, plugin: str, plugins: PluginManager) -> None:
        self.closed = asyncio.Event()
        self._plugin = plugin
        self._plugins = plugins
        self._frames: Frames[ToChild] = Frames(frames.to_child_decoder)
        self._calls: dict[int, Execution] = {}
        self._now_us = SystemClock().now_us
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytearray] = []
        self._unsent_bytes = 0
        self._full = False
        self._queue: deque[int] = deque()  # calls that wait for room

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop has taken the socket over."""
        self.transport = transport  # type: ignore[assignment]  # of a stream socket

    def data_received(self, data: bytes) -> None:
        """What the runner wants."""
        try:
            for frame in self._frames.feed(data):
                self._obey(frame)
        except BrokenFrame as problem:
            sys.stderr.write(f"the runner sent {problem}\n")
            self.transport.abort()

    def pause_writing(self) -> None:
        """The socket and the buffer before it are full."""
        self._full = True

    def resume_writing(self) -> None:
        """There is room again: one execution after the other may send, until there is none."""
        self._full = False
        self._admit()

    def connection_lost(self, problem: Exception | None) -> None:  # noqa: ARG002 - whatever it was, the runner is gone
        """The end."""
        self.closed.set()

    async def stop(self) -> None:
        """Interrupt what still runs, and give it a moment to clean up."""
        running = [execution.task for execution in self._calls.values()]
        for execution in list(self._calls.values()):
            execution.abandon()
        if running:
            await asyncio.wait(running, timeout=EXIT_GRACE_S)

    def batch(self, batch: Batch) -> bool:
        """What an execution yields. Without room it has to queue, so that a slow stream need not wait behind all that fast
        ones could have sent."""
        self._send(batch)
        if self._full:
            self._queue.append(batch.call)
        return not self._full

    def asked(self, number: int, question: int, data: bytes) -> None:
        """An execution asks something of other tasks."""
        self._send(Asked(number, question, data))

    def ended(self, number: int, outcome: CallOutcome) -> None:
        """An execution is over."""
        del self._calls[number]
        error = None if outcome.error is None else msgspec.convert(outcome.error, Problem)
        self._send(Ended(number, outcome.ending, error, outcome.error_class))

    def _send(self, frame: Frame) -> None:
        """Send with all other frames of this turn of the loop: a write costs more than all that came before it."""
        if not self._unsent:
            self._loop.call_soon(self._write)
        encoded = encode(frame)
        self._unsent.append(encoded)
        self._unsent_bytes += len(encoded)
        if self._unsent_bytes >= WRITE_BYTES:
            self._write()

    def _write(self) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if unsent and not self.closed.is_set():
            self.transport.writelines(unsent)

    def _admit(self) -> None:
        while self._queue and not self._full:
            execution = self._calls.get(self._queue.popleft())
            if execution is not None:
                execution.go_on()
                self._loop.call_soon(self._admit)  # after what it sends now
                return

    def _obey(self, frame: ToChild) -> None:
        if isinstance(frame, Ping):
            self._send(Pong(frame.number))
        elif isinstance(frame, Start):
            self._start(frame)
        elif not isinstance(frame, Setup):
            execution = self._calls.get(frame.call)
            if execution is not None:  # else it has just ended
                _control(execution, frame)

    def _start(self, start: Start) -> None:
        call = Call(
            task_id=start.task_id,
            attempt=start.attempt,
            plugin=self._plugin,
            action=start.action,
            params=start.params,
            resume=Resume(next_seq=start.next_seq, data_count=start.data_count, checkpoint=start.checkpoint),
            traceparent=start.traceparent,
        )
        execution = Execution(self._plugins, call, self, self._now_us, number=start.call, credit=start.credit)
        self._calls[start.call] = execution
        execution.begin()


def _control(execution: Execution, frame: Credit | Cancel | Interrupt | Park | Pause | Answered | Pace) -> None:
    match frame:
        case Credit():
            execution.credit(frame.amount)
        case Cancel():
            execution.cancel(frame.reason)
        case Interrupt():
            execution.interrupt()
        case Park():
            execution.park()
        case Pause():
            execution.pause(frame.paused)
        case Pace():
            execution.pace(frame.rate)
        case Answered():
            execution.answer(frame.number, frame.answer)


def _describe(name: str, plugins: PluginManager) -> Described:
    if name in plugins.broken:
        return Described([], frames.shortened(plugins.broken[name]))
    return Described([OfferedAction(spec, plugins.streams(name, spec.name)) for _, spec in plugins.actions()])


def _read_setup(link: socket.socket) -> Setup:
    (length,) = struct.unpack("<I", _read_exactly(link, 4))
    setup = frames.to_child_decoder.decode(_read_exactly(link, length))
    if not isinstance(setup, Setup):
        raise BrokenFrame("the first frame is no setup")
    return setup


def _read_exactly(link: socket.socket, size: int) -> bytes:
    data = link.recv(size, socket.MSG_WAITALL)
    if len(data) != size:
        raise EOFError("the runner is gone")
    return data


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    main()
