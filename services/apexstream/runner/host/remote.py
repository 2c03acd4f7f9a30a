"""A call that runs in a plugin process, as an attempt holds it: from before it has a process until it has ended."""

import asyncio
from typing import Protocol

import msgspec

from apexstream.core.coordination import ASKED_MAX
from apexstream.core.errors import ApexError, PluginFailed
from apexstream.core.options import ErrorClass
from apexstream.runner.host.frames import (
    Answered,
    Asked,
    Batch,
    BrokenFrame,
    Cancel,
    Credit,
    Ended,
    Frame,
    Interrupt,
    Pace,
    Park,
    Pause,
    Start,
)
from apexstream.runner.host.port import CREDIT_BYTES, Call, CallOutcome, Ending, Sink
from apexstream.runner.host.receiver import Receiver

CREDIT_STEP_BYTES = CREDIT_BYTES // 4  # credit is handed back in steps, not in a frame for every chunk taken

_CLASSES = frozenset(ErrorClass)


class Process(Protocol):
    """What a call needs of the process that runs it."""

    def send(self, frame: Frame) -> None:
        """Queue a frame for the process."""

    def kill(self, reason: str) -> None:
        """End the process and all its calls."""


class RemoteCall:
    """See :class:`~apexstream.runner.host.port.RunningCall`. All methods are for the runner's event loop."""

    __slots__ = ("_allowed", "_asked", "_call", "_owed", "_paused", "_process", "_rate", "_receiver", "number")

    def __init__(self, call: Call, sink: Sink) -> None:
        self.number = 0
        self._call = call
        self._receiver: Receiver | None = Receiver(sink)
        self._process: Process | None = None
        self._allowed = {Ending.COMPLETED, Ending.FAILED}  # how its process may say that it ended
        self._paused = False
        self._rate = 0.0
        self._owed = 0  # credit not yet handed back
        self._asked: set[int] = set()  # questions without an answer yet

    @property
    def where(self) -> str:
        """Plugin and action, as errors name them."""
        return f"{self._call.plugin}.{self._call.action}"

    @property
    def over(self) -> bool:
        """Whether its end was reported, or is about to be."""
        return self._receiver is None

    def bind(self, process: Process, number: int) -> None:
        """Start it in ``process`` as ``number``."""
        call, resume = self._call, self._call.resume
        self._process, self.number = process, number
        process.send(
            Start(
                number,
                call.task_id,
                call.attempt,
                call.action,
                call.params,
                resume.data_count,
                resume.next_seq,
                resume.checkpoint,
                CREDIT_BYTES,
                call.traceparent,
            )
        )
        if self._paused:
            process.send(Pause(number, paused=True))
        if self._rate:
            process.send(Pace(number, self._rate))

    # What the attempt asks:

    def credit(self, size_bytes: int) -> None:
        """So many payload bytes were taken."""
        if self._receiver is None:
            return
        self._owed += self._receiver.window.take(size_bytes)
        if self._owed >= CREDIT_STEP_BYTES:
            self._send(Credit(self.number, self._owed))
            self._owed = 0

    def cancel(self, reason: str) -> None:
        """Set the token there."""
        self._ask(Cancel(self.number, reason), Ending.CANCELLED)

    def interrupt(self) -> None:
        """Cancel the action's task there."""
        self._ask(Interrupt(self.number), Ending.CANCELLED)

    def park(self) -> None:
        """Stop at the next yield."""
        self._ask(Park(self.number), Ending.PARKED)

    def pause(self, paused: bool) -> None:
        """Hold at the next yield, or go on."""
        self._paused = paused
        self._send(Pause(self.number, paused))

    def pace(self, rate: float) -> None:
        """Yield at most so many chunks a second."""
        self._rate = rate
        self._send(Pace(self.number, rate))

    def answer(self, number: int, answer: bytes) -> None:
        """Hand an answer over."""
        if number in self._asked:
            self._asked.remove(number)
            self._send(Answered(self.number, number, answer))

    def kill(self) -> None:
        """End the process, and all its calls with it."""
        if self._process is None:
            self.lost(PluginFailed("was broken off before it had a process", where=self.where), ErrorClass.RESOURCE)
        elif not self.over:
            self._process.kill(f"{self.where} was killed on request")

    # What its process tells:

    def batch(self, batch: Batch) -> None:
        """Judge and deliver; raises :class:`BrokenFrame`."""
        receiver, payload_bytes = self._receiver, batch.payload_bytes
        batch.check(payload_bytes)
        if receiver is None:
            return
        if receiver.window.available <= 0:
            raise BrokenFrame("chunks without credit")
        if not receiver.batch(batch, payload_bytes):
            self.interrupt()

    def asked(self, frame: Asked) -> None:
        """It asks something of other tasks; raises :class:`BrokenFrame`."""
        if frame.number in self._asked or len(self._asked) >= ASKED_MAX:
            raise BrokenFrame("more questions than it may ask at once")
        if self._receiver is not None:
            self._asked.add(frame.number)
            self._receiver.asked(frame.number, frame.question)

    def ended(self, frame: Ended) -> None:
        """Its process says that it is over; raises :class:`BrokenFrame`."""
        failed = frame.ending == Ending.FAILED
        if frame.ending not in self._allowed or failed is (frame.error is None):
            raise BrokenFrame(f"an end that cannot be: {frame.ending}")
        if frame.error_class not in (_CLASSES if failed else {""}):
            raise BrokenFrame(f"an unknown class of errors: {frame.error_class}")
        error = None if frame.error is None else msgspec.to_builtins(frame.error)
        self._end(CallOutcome(ending=Ending(frame.ending), error=error, error_class=frame.error_class))

    def failed(self, problem: ApexError, error_class: ErrorClass) -> None:
        """It cannot run, or broke a rule."""
        self._end(CallOutcome(ending=Ending.FAILED, error=problem.as_dict(), error_class=error_class))

    def lost(self, problem: ApexError, error_class: ErrorClass) -> None:
        """Its process is gone, or it never got one."""
        self._end(CallOutcome(ending=Ending.LOST, error=problem.as_dict(), error_class=error_class))

    def _ask(self, frame: Frame, ending: Ending) -> None:
        self._allowed.add(ending)
        if self._process is None:
            self._end(CallOutcome(ending=ending))
        else:
            self._send(frame)

    def _send(self, frame: Frame) -> None:
        if self._process is not None and self._receiver is not None:
            self._process.send(frame)

    def _end(self, outcome: CallOutcome) -> None:
        """Report the end in another turn of the loop: the attempt may stand in the midst of asking for it."""
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            asyncio.get_running_loop().call_soon(receiver.ended, outcome)
