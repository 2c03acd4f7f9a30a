"""The contract between an attempt and whatever runs its action.

A host runs calls and reports to a sink, always from the runner's event loop. It knows nothing of Kafka, attempts of other
tasks or the fold; an attempt knows nothing of processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from apexstream.core.chunk import Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Where a call goes on. All zero and no checkpoint: from the start."""

    next_seq: int = 0  # of the stream
    data_count: int = 0  # data chunks before that; a deterministic action skips as many
    checkpoint: bytes | None = None  # state of a checkpointed action after its last checkpointed chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One run of an action. ``params`` is a JSON object."""

    task_id: str
    attempt: int
    plugin: str
    action: str
    params: bytes
    resume: Resume = Resume()
    traceparent: str = ""


class Ending(StrEnum):
    """How a call ended."""

    COMPLETED = "completed"
    FAILED = "failed"  # the action raised, or broke a rule
    CANCELLED = "cancelled"  # it stopped because it was asked to
    PARKED = "parked"  # it stopped at a yield, to be resumed by another attempt
    LOST = "lost"  # its process died


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOutcome:
    """``error`` is the JSON form of an :class:`~apexstream.core.errors.ApexError`; ``error_class`` one of
    ``core.options.ErrorClass`` (empty unless failed or lost)."""

    ending: Ending
    error: dict[str, Any] | None = None
    error_class: str = ""


class Sink(Protocol):
    """What an attempt takes from a running call. Nothing is reported after ``ended``."""

    def chunks(self, chunks: Sequence[Chunk], checkpoint: bytes | None) -> None:
        """The next chunks, in order. ``checkpoint`` is the action's state after the last of them."""

    def asked(self, number: int, question: bytes) -> None:
        """The action asks something of other tasks (``core.coordination.Question`` as msgpack); it is to be answered, some time,
        with :meth:`RunningCall.answer`."""

    def ended(self, outcome: CallOutcome) -> None:
        """The call is over."""


class RunningCall(Protocol):
    """The attempt's handle on a running call."""

    def credit(self, size_bytes: int) -> None:
        """That many payload bytes were taken; the action may yield as many more. A call begins with ``CREDIT_BYTES``."""

    def cancel(self, reason: str) -> None:
        """Set the action's cancellation token."""

    def interrupt(self) -> None:
        """Cancel the action's task: it gets :class:`asyncio.CancelledError` where it stands."""

    def park(self) -> None:
        """Stop at the next yield; ends as ``PARKED``."""

    def pause(self, paused: bool) -> None:
        """Hold the action at its next yield (True), or let it go on (False)."""

    def pace(self, rate: float) -> None:
        """Let the action yield at most so many chunks a second; 0: as many as it can."""

    def answer(self, number: int, answer: bytes) -> None:
        """What the question ``number`` comes to (``core.coordination.Answer`` as msgpack)."""

    def kill(self) -> None:
        """End it whatever it takes: terminates its process, and kills it if that does not help. Ends as ``LOST`` (other
        calls of the same process too)."""


class ActionHost(Protocol):
    """Runs actions."""

    def start(self, call: Call, sink: Sink) -> RunningCall:
        """Begin a call; everything it does is reported to ``sink`` later, never inside this method."""


CREDIT_BYTES = 256 * 1024  # payload bytes that a call may have yielded beyond what the attempt has taken
