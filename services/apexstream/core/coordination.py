"""What tasks tell each other: signals, barriers and shared values of a scope, folded from its events. Pure.

Whatever an attempt asks is named by its place in the action (``op``), the same in every attempt. An event of a place that has
been answered changes nothing, and what is answered is decided by the order of the log alone: so another attempt sees what the
one before saw, whoever wrote what twice.
"""

from dataclasses import dataclass, field
from typing import Annotated, Final, TypeAlias

import msgspec

from apexstream.core.errors import InvalidRequest
from apexstream.core.events import CoordinationAct, CoordinationEvent
from apexstream.core.ids import check_id

VALUE_BYTES_MAX: Final = 64 * 1024
BARRIER_BYTES_MAX: Final = 128 * 1024  # of the values of all parties, which come in one answer
SCOPE_BYTES_MAX: Final = 16 * 1024 * 1024  # of all values that were ever given in it
SCOPE_EVENTS_MAX: Final = 100_000
PARTIES_MAX: Final = 1_000
WAIT_S_MAX: Final = 7 * 86_400.0
ASKED_MAX: Final = 64  # questions of one call that wait for an answer
ANY_VERSION: Final = -1
NOTHING: Final = b"null"

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Scope = Annotated[str, msgspec.Meta(max_length=128)]
_Op = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Value = Annotated[bytes, msgspec.Meta(max_length=VALUE_BYTES_MAX)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=WAIT_S_MAX)]


class _Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="ask"):
    """``scope`` empty: that of the task's graph."""

    scope: _Scope
    name: _Name
    op: _Op


class Signal(_Question, frozen=True, kw_only=True, tag="signal"):
    """Say that ``name`` has happened. The first to say so decides the value."""

    value: _Value


class Await(_Question, frozen=True, kw_only=True, tag="await"):
    """The value of a signal, once it is there."""

    timeout_s: _Seconds


class Arrive(_Question, frozen=True, kw_only=True, tag="arrive"):
    """Be at a barrier, and wait until ``parties`` tasks are."""

    parties: Annotated[int, msgspec.Meta(ge=1, le=PARTIES_MAX)]
    value: _Value
    timeout_s: _Seconds


class Read(_Question, frozen=True, kw_only=True, tag="read"):
    """The shared value."""


class Put(_Question, frozen=True, kw_only=True, tag="put"):
    """Change the shared value, if its version is ``version``."""

    value: _Value
    version: Annotated[int, msgspec.Meta(ge=ANY_VERSION, le=1 << 62)]


Question: TypeAlias = Signal | Await | Arrive | Read | Put
_questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """``value`` is JSON: of a signal, a shared value, or {task: value} of a barrier. ``version`` is a shared value's (0: it was
    never put); ``taken`` False: a put found another one. ``code`` is an error's; empty: there was none."""

    value: bytes = NOTHING
    version: int = 0
    taken: bool = True
    code: str = ""
    message: str = ""
    hint: str = ""


def read_question(data: bytes) -> Question:
    """The question in ``data``; raises :class:`InvalidRequest`."""
    try:
        question = _questions.decode(data)
    except (msgspec.DecodeError, RecursionError) as problem:
        raise InvalidRequest(str(problem), where="coordination") from None
    check_id(question.name, "name")
    if isinstance(question, Arrive) and len(question.value) > BARRIER_BYTES_MAX // question.parties:
        raise InvalidRequest(
            f"{question.parties} values of this size are too much for one barrier", where="coordination"
        )
    if question.scope:
        check_id(question.scope, "scope")
    return question


def scope_key(tenant: str, graph: str, scope: str) -> str:
    """The key of a scope's events: that which the task named, else its graph's. Raises :class:`InvalidRequest` for a task that
    has neither. Tenants never meet."""
    if scope:
        return f"{tenant}/scope/{scope}"
    if graph:
        return f"{tenant}/graph/{graph}"
    raise InvalidRequest(
        "the task is in no graph, and names no scope",
        where="coordination",
        hint='Submit a graph, or name one: scope="…"',
    )


def refused(code: str, message: str, hint: str = "") -> Answer:
    """An answer that is an error."""
    return Answer(code=code, message=message, hint=hint)


@dataclass(slots=True)
class _Barrier:
    parties: int
    arrived: dict[str, bytes] = field(default_factory=dict)  # by task
    broken_by: str = ""

    @property
    def is_open(self) -> bool:
        return len(self.arrived) >= self.parties


class Scope:
    """The fold of a scope's events: :meth:`apply` them in the log's order; :meth:`answer` says what is decided."""

    def __init__(self) -> None:
        self._signals: dict[str, bytes] = {}
        self._barriers: dict[str, _Barrier] = {}
        self._shared: dict[str, tuple[int, bytes]] = {}
        self._decided: dict[tuple[str, str], Answer] = {}
        self._events = 0
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        """True when it remembers as much as it may: what comes is not applied any more, and refused."""
        return self._events >= SCOPE_EVENTS_MAX or self._bytes >= SCOPE_BYTES_MAX

    def apply(self, event: CoordinationEvent) -> None:
        """Take the next event."""
        if self.is_full or (event.task_id, event.op) in self._decided:
            return
        self._events += 1
        self._bytes += len(event.value)
        match event.act:
            case CoordinationAct.SIGNAL:
                self._signals.setdefault(event.name, event.value)
            case CoordinationAct.GIVE_UP:
                self._give_up(event)
            case CoordinationAct.ARRIVE:
                self._arrive(event)
            case CoordinationAct.LEAVE:
                barrier = self._barriers.get(event.name)
                if barrier is not None and not barrier.is_open:
                    barrier.broken_by = barrier.broken_by or event.task_id
            case CoordinationAct.READ:
                self._decided[event.task_id, event.op] = self._value(event.name)
            case CoordinationAct.PUT:
                self._put(event)

    def answer(self, task_id: str, question: Question) -> Answer | None:
        """What is decided of a question of ``task_id``; None: nothing yet."""
        decided = self._decided.get((task_id, question.op))
        if decided is not None:
            return decided
        match question:
            case Signal() | Await():
                value = self._signals.get(question.name)
                found = None if value is None else Answer(value=value)
            case Arrive():
                found = self._at_barrier(task_id, question)
            case _:
                found = None
        if found is None and self.is_full:
            return refused(
                "coordination_full", "the scope remembers as much as it may", "Use more scopes, or smaller values"
            )
        return found

    def arrived(self, task_id: str, name: str) -> bool:
        """Whether the task's arrival is known."""
        barrier = self._barriers.get(name)
        return barrier is not None and task_id in barrier.arrived

    def _give_up(self, event: CoordinationEvent) -> None:
        if event.name not in self._signals:
            self._decided[event.task_id, event.op] = refused(
                "coordination_timeout", f"nobody signalled {event.name!r} in time", "Every attempt is told the same"
            )

    def _arrive(self, event: CoordinationEvent) -> None:
        barrier = self._barriers.setdefault(event.name, _Barrier(event.parties))
        if event.task_id in barrier.arrived or barrier.broken_by:
            return
        if barrier.parties != event.parties:
            what = f"the barrier {event.name!r} is for {barrier.parties} tasks, not for {event.parties}"
            self._decided[event.task_id, event.op] = refused("barrier_mismatch", what, "All must say the same number")
        elif barrier.is_open:
            what = f"the barrier {event.name!r} has opened for {barrier.parties} others"
            self._decided[event.task_id, event.op] = refused("barrier_full", what, "Name each round of a barrier")
        else:
            barrier.arrived[event.task_id] = event.value

    def _at_barrier(self, task_id: str, question: Arrive) -> Answer | None:
        barrier = self._barriers.get(question.name)
        if barrier is None:
            return None
        if barrier.is_open and task_id in barrier.arrived:
            given = {task: msgspec.Raw(value) for task, value in barrier.arrived.items()}
            return Answer(value=msgspec.json.encode(given))
        if barrier.broken_by:
            what = f"the barrier {question.name!r} was broken: {barrier.broken_by} waited too long"
            return refused("barrier_broken", what, "Name a new one")
        return None

    def _value(self, name: str) -> Answer:
        version, value = self._shared.get(name, (0, NOTHING))
        return Answer(value=value, version=version)

    def _put(self, event: CoordinationEvent) -> None:
        version, value = self._shared.get(event.name, (0, NOTHING))
        if event.version in {ANY_VERSION, version}:
            self._shared[event.name] = version + 1, event.value
            answer = Answer(value=event.value, version=version + 1)
        else:
            answer = Answer(value=value, version=version, taken=False)
        self._decided[event.task_id, event.op] = answer
