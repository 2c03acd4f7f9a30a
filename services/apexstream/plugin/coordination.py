"""What an action tells other tasks, and hears of them: signals, barriers, shared values. See docs/coordination.md.

Each question is named by its place in the action: between which data chunks it is asked, what, and the how manieth of its kind
there. Another attempt asks the same at the same place and is told what the first was told.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from apexstream.core import coordination as words
from apexstream.core.coordination import (
    ANY_VERSION,
    BARRIER_BYTES_MAX,
    PARTIES_MAX,
    VALUE_BYTES_MAX,
    WAIT_S_MAX,
    Answer,
    Question,
)
from apexstream.core.errors import InvalidRequest
from apexstream.core.ids import check_id
from apexstream.plugin.errors import PermanentError, TransientError
from apexstream.plugin.persistence import StreamPersistence

WAIT_S = 60.0
UPDATES_MAX = 100  # tries to change a shared value that others change at the same time

T = TypeVar("T")
Ask = Callable[[bytes], Awaitable[bytes]]
"""Takes a question as msgpack to whoever keeps the scope, and gives the answer."""

_current: ContextVar["Coordination"] = ContextVar("apexstream.coordination")
_answers = msgspec.msgpack.Decoder(Answer)


class NotCoordinated(PermanentError):
    """Others did not do their part, or the question cannot be: ``code`` says which. Another attempt would be told the same."""

    def __init__(self, code: str, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what, where=where, hint=hint)
        self.code = code  # type: ignore[misc]  # one class: whoever handles one handles them all, or looks at the code


@dataclass(frozen=True, slots=True)
class SharedValue:
    """A shared value and its version: 0 and None if it was never put."""

    value: Any
    version: int


async def _nowhere(_: bytes) -> bytes:
    raise PermanentError(
        "there is nobody to meet", where="coordination", hint="Tasks meet on the platform: submit the action there"
    )


class Coordination:
    """One attempt's part in its scopes. ``ctx.signal`` and so on in a decorated action, :meth:`current` in any other.

    ``scope`` is the task's graph if it is empty, else any name; those who use it meet, if they are of one tenant. Values are
    what JSON can carry, at most 64 KiB. Raises :class:`NotCoordinated`.
    """

    def __init__(self, ask: Ask = _nowhere, persistence: StreamPersistence | None = None) -> None:
        self._ask_platform = ask
        self._persistence = persistence or StreamPersistence()
        self._seq = -1
        self._asked: Counter[tuple[str, str, str]] = Counter()  # since the last data chunk

    @classmethod
    def current(cls) -> "Coordination":
        """That of the action which runs here; outside of one, one that meets nobody."""
        found = _current.get(None)
        return cls() if found is None else found

    async def signal(self, name: str, value: Any = None, *, scope: str = "") -> Any:
        """Say that ``name`` has happened, with ``value``. The first in the scope to say so decides; gives the value that
        counts."""
        question = words.Signal(scope=scope, name=name, op=self._op("signal", scope, name), value=_encoded(value))
        return _decoded(await self._ask(question))

    async def wait_for(self, name: str, *, timeout_s: float = WAIT_S, scope: str = "") -> Any:
        """The value of the signal ``name``, once it is there. ``coordination_timeout`` after ``timeout_s``, then for good."""
        question = words.Await(
            scope=scope, name=name, op=self._op("await", scope, name), timeout_s=_bounded(timeout_s, "timeout_s")
        )
        return _decoded(await self._ask(question))

    async def barrier(
        self, name: str, parties: int, value: Any = None, *, timeout_s: float = WAIT_S, scope: str = ""
    ) -> dict[str, Any]:
        """Wait until ``parties`` tasks are here, each counted once whatever its attempts. Gives their values by task, in the
        order in which they came. After ``timeout_s`` the barrier is broken for all (``barrier_broken``); a task too many is
        told ``barrier_full``, and another number of parties ``barrier_mismatch``. All values together have 128 KiB."""
        if not 1 <= parties <= PARTIES_MAX:
            raise InvalidRequest(f"{parties} parties", where="barrier", hint=f"1 to {PARTIES_MAX}")
        question = words.Arrive(
            scope=scope,
            name=name,
            op=self._op("arrive", scope, name),
            parties=parties,
            value=_encoded(value, BARRIER_BYTES_MAX // parties),
            timeout_s=_bounded(timeout_s, "timeout_s"),
        )
        return dict(_decoded(await self._ask(question)))

    async def get(self, name: str, *, scope: str = "") -> SharedValue:
        """The shared value ``name`` as it stands now; for another attempt, as it stood then."""
        answer = await self._ask(words.Read(scope=scope, name=name, op=self._op("read", scope, name)))
        return SharedValue(_decoded(answer), answer.version)

    async def put(self, name: str, value: Any, *, version: int | None = None, scope: str = "") -> SharedValue | None:
        """Change the shared value; with ``version`` only if that is still its version. None: it was not."""
        question = words.Put(
            scope=scope,
            name=name,
            op=self._op("put", scope, name),
            value=_encoded(value),
            version=ANY_VERSION if version is None else version,
        )
        answer = await self._ask(question)
        return SharedValue(_decoded(answer), answer.version) if answer.taken else None

    async def update(self, name: str, change: Callable[[Any], Any], *, scope: str = "") -> SharedValue:
        """Change the shared value to ``change`` of what it is, whoever else changes it at the same time."""
        for _ in range(UPDATES_MAX):
            found = await self.get(name, scope=scope)
            done = await self.put(name, change(found.value), version=found.version, scope=scope)
            if done is not None:
                return done
        raise TransientError(f"{name!r} was changed by others {UPDATES_MAX} times", where="coordination")

    def _op(self, what: str, scope: str, name: str) -> str:
        check_id(name, "name")
        if scope:
            check_id(scope, "scope")
        seq = self._persistence.data_seq
        if seq != self._seq:
            self._seq = seq
            self._asked.clear()
        place = what, scope, name
        nth = self._asked[place]
        self._asked[place] += 1
        return f"{seq}/{what}/{nth}/{name}"

    async def _ask(self, question: Question) -> Answer:
        answer = _answers.decode(await self._ask_platform(msgspec.msgpack.encode(question)))
        if answer.code in {"unavailable", "outcome_unknown"}:
            raise TransientError(answer.message, where="coordination", hint=answer.hint)
        if answer.code:
            raise NotCoordinated(answer.code, answer.message, where="coordination", hint=answer.hint)
        return answer


def _encoded(value: Any, bytes_max: int = VALUE_BYTES_MAX) -> bytes:
    try:
        data = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as problem:
        raise InvalidRequest(f"a value that JSON cannot carry: {problem}", where="coordination") from None
    if len(data) > (most := min(bytes_max, VALUE_BYTES_MAX)):
        what = f"a value of {len(data)} bytes, more than {most}"
        raise InvalidRequest(what, where="coordination", hint="Put it into a chunk")
    return data


def _decoded(answer: Answer) -> Any:
    return msgspec.json.decode(answer.value)


def _bounded(seconds: float, name: str) -> float:
    if not 0 <= seconds <= WAIT_S_MAX:
        raise InvalidRequest(f"{name}={seconds}", where="coordination", hint=f"0 to {WAIT_S_MAX:g}")
    return float(seconds)


def enter(coordination: Coordination) -> Token[Coordination]:
    """For the platform: make ``coordination`` the current one of this context."""
    return _current.set(coordination)
