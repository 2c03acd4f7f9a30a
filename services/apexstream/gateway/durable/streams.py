"""The operations of the Durable Streams protocol on paths, whatever carries them.

A path names a stream of ``apex.chunks``; created anew after a deletion it names another one. The content of a fork is its
source's up to the fork, by reference, then its own. So that a source is not erased under a fork that is being made, deleting is
two steps: the path is *gone*, and once that is in the order of all changes and nothing was forked, it is *deleted*.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import structlog

from apexstream.core.errors import Unavailable
from apexstream.core.events import PathState, PathStatus
from apexstream.gateway.cursors import CursorRefused, Cursors, Position
from apexstream.gateway.durable.messages import is_json, messages_of, prefix_of
from apexstream.gateway.durable.producers import Decision
from apexstream.gateway.durable.reading import Batch, Engine, Layout, Messages, Part, read, tail
from apexstream.gateway.durable.requests import Append, Create, Fork, Refused, media_type
from apexstream.gateway.durable.writer import Pending
from apexstream.gateway.durable.writers import Writers
from apexstream.log.paths import SLACK, Paths, deadline_us

FORK_DEPTH_MAX = 64  # forks of forks of …
CREATE_TRIES_MAX = 4  # of one request, when others create and delete the same path
FORK_SUB_MAX = 4 * 1024 * 1024  # bytes or messages that are copied into a fork
ZERO_OFFSET = "0000000000000000_0000000000000000"  # the beginning, as every implementation of the protocol knows it
FORKED = "fork"  # the view of a fork's cursors: the other protocols see its own part only, and refuse them

_MESSAGES = Messages()
_log = structlog.get_logger(__name__)

Forget = Callable[[str, str], Awaitable[object]]
"""Takes a stream and its tenant, and has the stream erased."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A stream as an answer describes it."""

    state: PathState
    offset: str
    closed: bool
    created: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of an append: the tail is at ``offset``."""

    decision: Decision
    offset: str
    closed: bool


def view_of(state: PathState) -> str:
    """What the cursors of a stream are bound to besides it."""
    return FORKED if state.parent_stream_id else ""


class DurableStreams:
    """All paths of all tenants. A path's key is ``<tenant>:<path>``, so that tenants do not see each other's."""

    def __init__(
        self,
        paths: Paths,
        writers: Writers,
        engine: Engine,
        cursors: Cursors,
        *,
        forget: Forget,
        now_us: Callable[[], int],
        new_stream_id: Callable[[], str],
    ) -> None:
        self._paths = paths
        self._writers = writers
        self._engine = engine
        self._cursors = cursors
        self._forget = forget
        self._now_us = now_us
        self._new_stream_id = new_stream_id

    # Questions.

    async def find(self, key: str) -> PathState:
        """The live stream of a path. Raise :class:`Refused`: 404 if there is none, 410 if only forks of it live."""
        state = self._paths.index.get(key)
        if state is None or not self._lives(state):
            await self._paths.index.refresh()  # another gateway may just have created it
            state = self._paths.index.get(key)
        if state is None or not (self._lives(state) or self._paths.index.has_forks(state.stream_id)):
            raise Refused(404, "there is no such stream", where="path", hint="Create it with PUT")
        if not self._lives(state):
            raise Refused(410, "the stream was deleted; forks of it still live", where="path")
        return state

    def layout(self, state: PathState) -> Layout:
        """The parts that a stream is read from."""
        tenant = state.path.partition(":")[0]
        parts = [Part(stream_id=state.stream_id, base=state.fork_seq, end=None)]
        end = state.fork_seq
        while state.parent_stream_id and end > 0:
            parent = self._paths.index.of_stream(state.parent_stream_id)
            if parent is None:
                raise Refused(410, "a stream that this one was forked from is not there any more", where="path")
            state = parent
            if state.fork_seq < end:
                parts.insert(0, Part(stream_id=state.stream_id, base=state.fork_seq, end=end))
                end = state.fork_seq
        return Layout(parts=tuple(parts), encoding=_MESSAGES, ends_show=False, tenant=tenant)

    def offset(self, state: PathState, position: Position) -> str:
        """The token of a position."""
        return self._cursors.mint(state.stream_id, position, view_of(state))

    def position(self, state: PathState, offset: str) -> Position:
        """The position of a token. A fork takes those of what it was forked from, up to where it was.

        Raise :class:`CursorRefused` for one that is not of this stream.
        """
        try:
            return self._cursors.read(offset, state.stream_id, view_of(state))
        except CursorRefused:
            parent = self._paths.index.of_stream(state.parent_stream_id) if state.parent_stream_id else None
            if parent is None:
                raise
            position = self.position(parent, offset)
            if position.seq > state.fork_seq:
                raise
            return position

    async def settled(self, state: PathState) -> None:
        """Return once this gateway can show all that was acknowledged before."""
        await self._writers.settled(state.stream_id)

    async def end(self, state: PathState) -> Batch:
        """Where the stream ends now."""
        await self._writers.settled(state.stream_id)
        return await tail(self._engine, self.layout(state))

    async def describe(self, key: str) -> Described:
        """What ``HEAD`` tells."""
        return await self._described(await self.find(key))

    async def _described(self, state: PathState) -> Described:
        end = await self.end(state)
        return Described(state=state, offset=self.offset(state, end.position), closed=end.closed)

    async def read(self, state: PathState, position: Position, wait_s: float = 0.0) -> Batch:
        """Messages from ``position`` on; see :func:`reading.read`. All that was acknowledged before is in it."""
        await self._writers.settled(state.stream_id)
        return await read(self._engine, self.layout(state), position, wait_s)

    def _lives(self, state: PathState) -> bool:
        return state.status is PathStatus.LIVE and not 0 < deadline_us(state) <= self._now_us()

    # Appending.

    async def append(self, key: str, tenant: str, wanted: Append, body: bytes) -> Appended:
        """Append ``body``, close the stream, or both."""
        if not body and not wanted.closes:
            raise Refused(400, "an empty body", where="body", hint="Send at least one byte, or Stream-Closed: true")
        if body and not wanted.content_type:
            raise Refused(400, "no Content-Type", where="Content-Type", hint="Send that of the stream")
        state = await self.find(key)
        fits = not body or media_type(wanted.content_type) == media_type(state.content_type)
        pending = Pending(
            payloads=messages_of(body, state.content_type, creates=False) if fits else [],
            content_type=state.content_type,
            producer=wanted.producer,
            stream_seq=wanted.stream_seq,
            closes=wanted.closes,
            fits=fits,
        )
        answer = await self._writers.append(state.stream_id, tenant, pending)
        await self.touch(state)
        position = Position(answer.next_seq + state.fork_seq)
        return Appended(decision=answer.decision, offset=self.offset(state, position), closed=answer.closed)

    async def touch(self, state: PathState) -> None:
        """The stream is used: its time to live begins anew. Written down only if that makes a difference."""
        if state.ttl_s > 0 and self._now_us() - state.accessed_us > state.ttl_s * 1_000_000 // SLACK:
            try:
                await self._paths.change(state.path, lambda held: self._touched(held, state.stream_id))
            except Unavailable as problem:  # what was asked for has been done
                _log.warning("an access was not written down", path=state.path, error=str(problem))

    def _touched(self, held: PathState | None, stream_id: str) -> PathState | None:
        now_us = self._now_us()
        if held is None or held.stream_id != stream_id or not self._lives(held) or held.accessed_us >= now_us:
            return None
        return msgspec.structs.replace(held, accessed_us=now_us)

    # Creating.

    async def create(self, key: str, tenant: str, wanted: Create, source_key: str, body: bytes) -> Described:
        """Create the stream, or find that it is there just so. ``source_key`` is that of ``wanted.fork``."""
        for _ in range(CREATE_TRIES_MAX):
            try:
                held = await self.find(key)
            except Refused as problem:
                if problem.status == 410:
                    raise Refused(409, "the stream was deleted; forks of it still live", where="path") from None
                held = None
            if held is not None:
                return await self._same(held, wanted, source_key)
            expired = self._paths.index.get(key)
            if expired is not None and expired.status is not PathStatus.DELETED:
                await self.leave(expired)
            made = await self._make(key, tenant, wanted, source_key, body)
            if made is not None:
                return made
        raise Unavailable("others create and delete this path at the same time", where="path", hint="Try again")

    async def _same(self, held: PathState, wanted: Create, source_key: str) -> Described:
        described = await self._described(held)
        fork = wanted.fork
        forked = bool(held.parent_path)
        same = (
            (bool(fork) == forked)
            and (not wanted.content_type or media_type(wanted.content_type) == media_type(held.content_type))
            and wanted.closed == described.closed
            and _same_expiry(held, wanted)
            and (fork is None or self._same_fork(held, fork, source_key))
        )
        if not same:
            raise Refused(409, "the stream exists with another configuration", where="path", hint="See HEAD")
        return described

    def _same_fork(self, held: PathState, fork: Fork, source_key: str) -> bool:
        if held.parent_path != source_key or held.fork_sub != (fork.sub or 0):
            return False
        if fork.offset is None:
            return True
        parent = self._paths.index.of_stream(held.parent_stream_id)
        return parent is None or self._fork_seq(parent, fork.offset) == held.fork_seq

    async def _make(self, key: str, tenant: str, wanted: Create, source_key: str, body: bytes) -> Described | None:
        """None: somebody else created the path meanwhile."""
        now_us = self._now_us()
        state = PathState(
            path=key,
            version=0,
            change_id="",
            status=PathStatus.LIVE,
            stream_id=self._new_stream_id(),
            content_type=wanted.content_type,
            ttl_s=-1 if wanted.ttl_s is None else wanted.ttl_s,
            expires_at=wanted.expires_at,
            expires_us=wanted.expires_us,
            created_us=now_us,
            accessed_us=now_us,
            changed_us=now_us,
        )
        prefix: list[bytes] = []
        if wanted.fork is not None:
            state, prefix = await self._forked(state, wanted.fork, source_key)
        payloads = prefix + messages_of(body, state.content_type, creates=True)
        pending = Pending(payloads=payloads, content_type=state.content_type, closes=wanted.closed)
        answer = await self._writers.create(state.stream_id, tenant, pending)
        made = await self._paths.change(key, lambda held: None if held and self._taken(held) else state)
        if made is None or made.stream_id != state.stream_id or not await self._source_lives(made):
            await self._forget(state.stream_id, tenant)
            return None
        offset = self.offset(state, Position(answer.next_seq + state.fork_seq))
        return Described(state=made, offset=offset, closed=answer.closed, created=True)

    def _taken(self, held: PathState) -> bool:
        return self._lives(held) or (
            held.status is not PathStatus.DELETED and self._paths.index.has_forks(held.stream_id)
        )

    async def _forked(self, state: PathState, fork: Fork, source_key: str) -> tuple[PathState, list[bytes]]:
        """``state`` as a fork, and the messages that it begins with."""
        try:
            source = await self.find(source_key)
        except Refused as problem:
            status = 409 if problem.status == 410 else problem.status
            raise Refused(status, problem.what, where="Stream-Forked-From") from None
        if self._depth(source) >= FORK_DEPTH_MAX:
            raise Refused(400, f"a fork of more than {FORK_DEPTH_MAX} forks", where="Stream-Forked-From")
        if state.content_type and media_type(state.content_type) != media_type(source.content_type):
            raise Refused(409, f"the source is {source.content_type}", where="Content-Type")
        end = (await self.end(source)).position.seq
        seq = end if fork.offset is None else self._fork_seq(source, fork.offset)
        if seq > end:
            raise Refused(400, "the source does not reach that far", where="Stream-Fork-Offset")
        prefix = await self._prefix(source, seq, fork.sub) if fork.sub else []
        inherits = state.ttl_s < 0 and not state.expires_us
        expiry = source if inherits else state
        forked = msgspec.structs.replace(
            state,
            content_type=state.content_type or source.content_type,
            ttl_s=expiry.ttl_s,
            expires_at=expiry.expires_at,
            expires_us=expiry.expires_us,
            parent_path=source_key,
            parent_stream_id=source.stream_id,
            fork_seq=seq,
            fork_sub=fork.sub or 0,
        )
        return forked, prefix

    def _depth(self, state: PathState) -> int:
        """How many streams it was forked from, one from the other."""
        parent = self._paths.index.of_stream(state.parent_stream_id) if state.parent_stream_id else None
        return 0 if parent is None else 1 + self._depth(parent)

    def _fork_seq(self, source: PathState, offset: str) -> int:
        return 0 if offset in {ZERO_OFFSET, "-1"} else self.position(source, offset).seq

    async def _prefix(self, source: PathState, seq: int, count: int) -> list[bytes]:
        if count > FORK_SUB_MAX:
            raise Refused(400, f"more than {FORK_SUB_MAX}", where="Stream-Fork-Sub-Offset")
        messages: list[bytes] = []
        position, size = Position(seq), 0
        while size < count:
            batch = await self.read(source, position)
            messages += batch.messages
            position = batch.position
            size = len(messages) if is_json(source.content_type) else sum(map(len, messages))
            if batch.up_to_date:
                break
        return prefix_of(messages, source.content_type, count)

    async def _source_lives(self, made: PathState) -> bool:
        """Whether a fork may stay: its source must not have gone before it in the order of all changes."""
        source = self._paths.index.of_stream(made.parent_stream_id) if made.parent_stream_id else None
        if not made.parent_stream_id or (source is not None and source.status is PathStatus.LIVE):
            return True
        await self._become(made, PathStatus.DELETED)
        return False

    # Deleting.

    async def delete(self, key: str) -> None:
        """Delete the stream. Forks of it stay readable; then so does its content, for them only."""
        state = await self.find(key)
        await self.leave(state)

    async def leave(self, state: PathState) -> None:
        """A live stream is deleted, or its time is over."""
        await self._become(state, PathStatus.GONE)
        await self.reap(state.path)

    async def reap(self, key: str) -> None:
        """Erase what is gone and no longer needed by a fork, and what only that one needed."""
        for _ in range(FORK_DEPTH_MAX + 1):
            state = self._paths.index.get(key)
            if state is None or state.status is not PathStatus.GONE or self._paths.index.has_forks(state.stream_id):
                return
            await self._become(state, PathStatus.DELETED)
            await self.erase(state)
            if not state.parent_path:
                return
            key = state.parent_path

    async def erase(self, state: PathState) -> None:
        """Have the content of a deleted path erased."""
        await self._forget(state.stream_id, state.path.partition(":")[0])

    async def _become(self, state: PathState, status: PathStatus) -> None:
        now_us = self._now_us()
        await self._paths.change(state.path, lambda held: _left(held, state.stream_id, status, now_us))


def _left(held: PathState | None, stream_id: str, status: PathStatus, now_us: int) -> PathState | None:
    if held is None or held.stream_id != stream_id or held.status in {status, PathStatus.DELETED}:
        return None
    return msgspec.structs.replace(held, status=status, changed_us=now_us)


def _same_expiry(held: PathState, wanted: Create) -> bool:
    if wanted.fork is not None and wanted.ttl_s is None and not wanted.expires_at:
        return True  # inherited, whatever it was
    ttl_s = -1 if wanted.ttl_s is None else wanted.ttl_s
    return (ttl_s, wanted.expires_us) == (held.ttl_s, held.expires_us)
