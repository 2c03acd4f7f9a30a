"""Where tasks meet: keeps the scopes of the calls that run here, from the log, and answers what actions ask of them.

A scope is read from its beginning when the first call here asks, then followed, until no such call runs. Nothing is answered
but by the fold: what a call writes is waited for until it has come back.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.coordination import (
    Answer,
    Arrive,
    Await,
    Put,
    Question,
    Read,
    Scope,
    Signal,
    read_question,
    refused,
    scope_key,
)
from apexstream.core.errors import ApexError, ChunkDecodeError, Unavailable
from apexstream.core.events import CoordinationAct, CoordinationEvent, TaskSubmitted
from apexstream.core.scheduling import scheduling_or_nothing
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.tails import MakeTails
from apexstream.runtime import meters
from apexstream.runtime.clock import Clock

BACK_TIMEOUT_S = 60.0  # for an event that is acknowledged to come back
SCOPES_MAX = 10_000
_ACTS: Mapping[type[Question], CoordinationAct] = {
    Signal: CoordinationAct.SIGNAL,
    Arrive: CoordinationAct.ARRIVE,
    Read: CoordinationAct.READ,
    Put: CoordinationAct.PUT,
}
_GAVE_UP: Mapping[type[Question], CoordinationAct] = {
    Await: CoordinationAct.GIVE_UP,
    Arrive: CoordinationAct.LEAVE,
}
_log = structlog.get_logger(__name__)


class Party(Protocol):
    """One attempt at the places where it meets others."""

    async def ask(self, data: bytes, attempt: int) -> Answer:
        """The answer to a question, as msgpack; may take as long as the question says."""

    def leave(self) -> None:
        """The attempt is over."""


class _Followed:
    """A scope and who needs it. ``offset``: the first record that is not folded in."""

    def __init__(self) -> None:
        self.scope = Scope()
        self.offset = 0
        self.users = 0
        self.loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.loading: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def take(self, record: Record, event: CoordinationEvent | None) -> None:
        """Fold a record in."""
        if record.offset >= self.offset:
            self.offset = record.offset + 1
            if event is not None:
                self.scope.apply(event)
            self._changed.set()
            self._changed = asyncio.Event()

    async def change(self) -> None:
        """Wait for the next record."""
        await self._changed.wait()


class Coordinator:
    """All scopes that calls of this runner use. ``append`` writes an event of a scope to where ``partition_of`` says."""

    def __init__(
        self,
        make_tails: MakeTails,
        scans: LogReader,
        codec: Codec,
        *,
        append: Callable[[str, bytes], Awaitable[int]],
        partition_of: Callable[[str], Partition],
        clock: Clock,
        keeps_values: bool,
    ) -> None:
        """``keeps_values`` False: values would lie in the log unencrypted, and are refused."""
        self._tails = make_tails(self._on_records)
        self._scans = scans
        self._codec = codec
        self._append = append
        self._partition_of = partition_of
        self._clock = clock
        self._keeps_values = keeps_values
        self._scopes: dict[str, _Followed] = {}
        self._live: dict[bytes, _Followed] = {}
        for kind in (*_ACTS, Await):
            meters.COORDINATION.of(_word(kind), "ok")
        meters.COORDINATION_WAITING.of()
        meters.COORDINATION_SCOPES.read(lambda: len(self._scopes))

    async def run(self) -> None:
        """Follow scopes until cancelled."""
        await self._tails.run()

    def party(self, task: TaskSubmitted) -> "_Party":
        """What an attempt at ``task`` asks by."""
        return _Party(self, task)

    # What parties need.

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Counts who waits."""
        meters.COORDINATION_WAITING.of().value += 1
        try:
            yield
        finally:
            meters.COORDINATION_WAITING.of().value -= 1

    async def enter(self, key: str) -> _Followed:
        """The scope, one user more. Raises :class:`Unavailable`."""
        followed = self._scopes.get(key)
        if followed is None:
            if len(self._scopes) >= SCOPES_MAX:
                raise Unavailable(
                    f"tasks here meet in {SCOPES_MAX} scopes", where="coordination", hint="Try again later"
                )
            followed = self._scopes[key] = _Followed()
            followed.loading = asyncio.create_task(self._load(key, followed), name=f"load scope {key}")
        followed.users += 1
        try:
            await asyncio.shield(followed.loaded)
        except BaseException:
            self.leave(key, followed)
            raise
        return followed

    def leave(self, key: str, followed: _Followed) -> None:
        """One user less; after the last the scope is forgotten here."""
        followed.users -= 1
        if followed.users == 0 and self._scopes.get(key) is followed:
            del self._scopes[key]
            if followed.loading is not None:
                followed.loading.cancel()
            if self._live.pop(key.encode(), None) is not None:
                self._tails.unwatch(self._partition_of(key))

    async def write(self, followed: _Followed, event: CoordinationEvent) -> None:
        """Append and wait until it is folded in. Raises :class:`Unavailable`: whether it counts, another attempt will see."""
        if event.value not in {b"", b"null"} and not self._keeps_values:
            raise ApexError(
                "values are not kept while streams are encrypted",
                where="coordination",
                hint="Signal and meet without values, and put what is said into a stream",
            )
        offset = await self._append(event.scope, self._codec.encode(event))
        try:
            async with asyncio.timeout(BACK_TIMEOUT_S):
                while followed.offset <= offset:
                    await followed.change()
        except TimeoutError:
            raise Unavailable("what was written has not come back", where="apex.coordination") from None

    def event(
        self, key: str, task_id: str, attempt: int, question: Question, act: CoordinationAct
    ) -> CoordinationEvent:
        """The event that asks, or gives up."""
        return CoordinationEvent(
            scope=key,
            act=act,
            name=question.name,
            task_id=task_id,
            op=question.op,
            attempt=attempt,
            at_us=self._clock.now_us(),
            value=getattr(question, "value", b"") if act is not CoordinationAct.LEAVE else b"",
            parties=getattr(question, "parties", 0),
            version=getattr(question, "version", -1),
        )

    # The log.

    async def _load(self, key: str, followed: _Followed) -> None:
        partition, encoded = self._partition_of(key), key.encode()
        watched = False
        try:
            await self._tails.watch(partition)
            watched = True
            at = (await self._scans.starts([partition]))[partition]
            while at < (end := self._tails.position(partition)):
                async for records, _ in self._scans.scan(partition, at, end):
                    for record in records:
                        if record.key == encoded:
                            followed.take(record, self._read(record))
                at = end
            followed.offset = max(followed.offset, at)
            self._live[encoded] = followed  # no await since the tail's position was read
            followed.loaded.set_result(None)
        except BaseException as problem:
            if watched:
                self._tails.unwatch(partition)
            if self._scopes.get(key) is followed:
                del self._scopes[key]
            if isinstance(problem, asyncio.CancelledError):
                followed.loaded.cancel()
                raise
            _log.exception("a scope cannot be read", scope=key)
            followed.loaded.set_exception(Unavailable("the scope cannot be read now", where=key, hint="Try again"))
            followed.loaded.exception()

    def _on_records(self, _: Partition, records: list[Record]) -> None:
        for record in records:
            followed = self._live.get(record.key or b"")
            if followed is not None:
                followed.take(record, self._read(record))

    def _read(self, record: Record) -> CoordinationEvent | None:
        try:
            return self._codec.decode(record.value or b"", CoordinationEvent)
        except ChunkDecodeError as problem:
            _log.error("skipped an event that cannot be read", offset=record.offset, error=str(problem))
            return None


class _Party:
    """See :class:`Party`."""

    def __init__(self, coordinator: Coordinator, task: TaskSubmitted) -> None:
        self._coordinator = coordinator
        self._task = task
        self._graph = scheduling_or_nothing(task.scheduling).graph
        self._entered: dict[str, _Followed] = {}
        self._left = False

    async def ask(self, data: bytes, attempt: int) -> Answer:
        """The answer. Never raises for what was asked: the action is told."""
        ask = "unreadable"
        try:
            question = read_question(data)
            ask = _word(type(question))
            key = scope_key(self._task.tenant, self._graph, question.scope)
            followed = await self._scope(key)
            async with self._coordinator.waiting():
                answer = await self._answered(key, followed, question, attempt)
        except ApexError as problem:
            answer = refused(problem.code, problem.what, problem.hint)
        meters.COORDINATION.of(ask, answer.code or "ok").value += 1
        return answer

    def leave(self) -> None:
        """The attempt is over: its scopes are needed no more."""
        self._left = True
        for key, followed in self._entered.items():
            self._coordinator.leave(key, followed)
        self._entered.clear()

    async def _scope(self, key: str) -> _Followed:
        followed = self._entered.get(key)
        if followed is not None:
            return followed
        followed = await self._coordinator.enter(key)
        if self._left or key in self._entered:  # meanwhile
            self._coordinator.leave(key, followed)
            return self._entered.get(key, followed)
        self._entered[key] = followed
        return followed

    async def _answered(self, key: str, followed: _Followed, question: Question, attempt: int) -> Answer:
        task_id, scope = self._task.task_id, followed.scope
        known = scope.answer(task_id, question)
        if known is not None:
            return known
        if not isinstance(question, Await) and not (
            isinstance(question, Arrive) and scope.arrived(task_id, question.name)
        ):
            await self._write(key, followed, question, attempt, _ACTS[type(question)])
        if isinstance(question, Await | Arrive):
            try:
                async with asyncio.timeout(question.timeout_s):
                    while scope.answer(task_id, question) is None:
                        await followed.change()
            except TimeoutError:
                await self._write(key, followed, question, attempt, _GAVE_UP[type(question)])
        answer = scope.answer(task_id, question)
        if answer is None:
            raise Unavailable("the log does not say what came of it", where=key)
        return answer

    async def _write(
        self, key: str, followed: _Followed, question: Question, attempt: int, act: CoordinationAct
    ) -> None:
        event = self._coordinator.event(key, self._task.task_id, attempt, question, act)
        await self._coordinator.write(followed, event)


def _word(kind: type[Question]) -> str:
    return str(kind.__struct_config__.tag)
