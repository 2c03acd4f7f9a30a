"""The author's view of what survives a crash: the state that travels with chunks, and where an action goes on.

A checkpoint is written in the same record as its chunk, so that no crash can part them. An action declared
``resume="checkpointed"`` gets it back from :meth:`StreamPersistence.restored` when another attempt goes on.
"""

import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Any, Final, TypeVar

import msgspec

from apexstream.core.chunk import CHECKPOINT_BYTES_MAX
from apexstream.core.errors import InvalidChunk
from apexstream.plugin.errors import PermanentError

State = TypeVar("State")

_NOTHING: Final = object()
_encoder = msgspec.msgpack.Encoder()
_current: ContextVar["StreamPersistence"] = ContextVar("apexstream.persistence")


class StreamPersistence:
    """Checkpoints of one attempt. ``ctx.persistence`` in a decorated action, :meth:`current` in any other.

    Either hand the state over with a chunk, ``yield Chunk(value, checkpoint=state)``, or assign :attr:`state` before every
    yield and say with :meth:`every` how often it is worth writing. Both may be mixed. Used by one action at a time.
    """

    __slots__ = (
        "_checkpoint",
        "_chunks",
        "_due_at_s",
        "_due_seq",
        "_monotonic",
        "_refused",
        "_seconds",
        "_state",
        "attempt",
        "data_seq",
        "has_state",
        "task_id",
        "traceparent",
    )

    def __init__(
        self,
        *,
        task_id: str = "",
        attempt: int = 1,
        traceparent: str = "",
        checkpoint: bytes | None = None,
        data_seq: int = 0,
        refused: str = "",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``data_seq`` data chunks come before this attempt's first one. ``refused``: why no checkpoint can be written."""
        self.task_id = task_id
        self.attempt = attempt
        self.traceparent = traceparent  # W3C trace context of the attempt, for calls that the action makes
        self.data_seq = data_seq  # of the data chunk that is yielded next, counted from 0 over the whole stream
        self.has_state = False  # whether a state waits for the next chunk
        self._checkpoint = checkpoint
        self._refused = refused
        self._monotonic = monotonic
        self._state: Any = _NOTHING
        self._chunks: int | None = None
        self._seconds: float | None = None
        self._due_seq: float = 0
        self._due_at_s = 0.0

    @classmethod
    def current(cls) -> "StreamPersistence":
        """That of the action which runs here; outside of one, a new one that keeps nothing."""
        found = _current.get(None)
        return cls() if found is None else found

    def restored(self, kind: type[State]) -> State | None:
        """The state that the stream goes on from, as ``kind`` (``bytes`` if bytes were stored); None on a fresh start.

        Raises :class:`PermanentError` if the stored state does not fit ``kind``, as after an incompatible change of it.
        """
        if self._checkpoint is None:
            return None
        if kind is bytes:
            return self._checkpoint  # type: ignore[return-value]  # State is bytes here
        try:
            return msgspec.msgpack.decode(self._checkpoint, type=kind)
        except (msgspec.DecodeError, RecursionError) as problem:
            raise PermanentError(
                f"the stored checkpoint is no {getattr(kind, '__name__', kind)}: {problem}",
                where=self.task_id,
                hint="Give new fields of a state defaults, so that streams which run already can go on",
            ) from problem

    def every(self, *, chunks: int | None = None, seconds: float | None = None) -> None:
        """Write the assigned state with a chunk only when this many chunks or seconds have passed since the last one,
        whichever comes first. Without a call, every chunk with a state is a checkpoint."""
        if (chunks is not None and chunks < 1) or (seconds is not None and seconds <= 0):
            raise ValueError("every() takes at least one chunk, and more than 0 seconds")
        self._chunks, self._seconds = chunks, seconds
        self._plan()

    @property
    def state(self) -> Any:
        """Assign what the action needs to go on after the chunk that it yields next. It belongs to that chunk alone: if
        none is due it is dropped, and later chunks need a new assignment. None: no checkpoint."""
        return None if self._state is _NOTHING else self._state

    @state.setter
    def state(self, state: Any) -> None:
        if state is not None and self._refused:
            raise InvalidChunk(self._refused, where="checkpoint", hint='Declare the action resume="checkpointed"')
        self._state = state
        self.has_state = state is not None

    @property
    def due(self) -> bool:
        """Whether a state assigned now is written with the next chunk: ask first where making one is expensive."""
        if self.data_seq >= self._due_seq:
            return True
        return self._seconds is not None and self._monotonic() >= self._due_at_s

    def idempotency_key(self, seq_of_data: int | None = None) -> str:
        """A key for a side effect that belongs to a data chunk (default: the one that is yielded next): the same in every
        attempt that gives this chunk, so that whoever gets the effect twice can tell."""
        return f"{self.task_id}/{self.data_seq if seq_of_data is None else seq_of_data}"

    def demand(self) -> None:
        """For the platform: make the next state due, because the action is about to be stopped at a yield."""
        self._due_seq = 0

    def take(self, explicit: Any = None) -> bytes | None:
        """For the platform: the checkpoint of the data chunk that was just yielded, encoded, if it has one.

        ``explicit`` is the chunk's own, which is always written. Raises :class:`InvalidChunk`.
        """
        state, self._state, self.has_state = self._state, _NOTHING, False
        if explicit is not None:
            if self._refused:
                raise InvalidChunk(self._refused, where="checkpoint", hint='Declare the action resume="checkpointed"')
            state = explicit
        elif state is _NOTHING or state is None or not self.due:
            return None
        encoded = encode_state(state)
        self._plan(after=1)
        return encoded

    def _plan(self, after: int = 0) -> None:
        """Note when the next checkpoint is due, counted from the chunk ``after`` the present one."""
        if self._chunks is None and self._seconds is None:
            self._due_seq = 0
            return
        self._due_seq = float("inf") if self._chunks is None else self.data_seq + after + self._chunks - 1
        if self._seconds is not None:
            self._due_at_s = self._monotonic() + self._seconds


def encode_state(state: Any) -> bytes:
    """The stored form of a checkpoint: ``bytes`` as they are, anything else as msgpack.

    Raises :class:`InvalidChunk` for what msgpack cannot carry and for more than ``CHECKPOINT_BYTES_MAX`` bytes.
    """
    if isinstance(state, bytes | bytearray | memoryview):
        encoded = bytes(state)
    else:
        try:
            encoded = _encoder.encode(state)
        except (TypeError, ValueError, RecursionError, OverflowError) as problem:
            raise InvalidChunk(
                f"a {type(state).__name__} cannot be a checkpoint: {problem}",
                where="checkpoint",
                hint="Use bytes, JSON-able values, dataclasses or msgspec structs",
            ) from problem
    if len(encoded) > CHECKPOINT_BYTES_MAX:
        raise InvalidChunk(
            f"the checkpoint has {len(encoded)} bytes, more than the {CHECKPOINT_BYTES_MAX} allowed",
            where="checkpoint",
            hint="Keep what is large elsewhere, and its name in the checkpoint",
        )
    return encoded


def enter(persistence: StreamPersistence) -> Token[StreamPersistence]:
    """For the platform: make ``persistence`` the current one of this context, that is of the task which runs an action."""
    return _current.set(persistence)
