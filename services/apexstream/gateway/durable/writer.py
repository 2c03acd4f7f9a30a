"""The writing end of one stream that is written from outside: takes the stream over where another gateway had it, appends, and
knows of every append whether it counts.

An acknowledged record need not count: another gateway may have claimed the stream just before. So an append has succeeded only
when its own record has come back from the log and the fold has accepted it. What did not count is appended again under a claim
of our own, and what is unknown is looked for first: the claim makes the answer final, the chained hash makes it certain.
"""

import asyncio
import base64
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from apexstream.contracts.run_codec import RunEncoder
from apexstream.core.chunk import FROM_UNKNOWN, GENESIS, RUN_CHUNKS_MAX, Chunk, ChunkRun, Kind
from apexstream.core.claims import ClaimWords
from apexstream.core.errors import ApexError, Unavailable
from apexstream.core.fold import StreamFold, Verdict
from apexstream.gateway.durable.messages import RUN_PAYLOAD_BYTES_MAX, data_chunks, parts_of
from apexstream.gateway.durable.producers import (
    Accepted,
    Decision,
    Gap,
    NewEpochNotAtZero,
    OutsideState,
    Producer,
    WrongType,
    read_end,
    read_state,
    write_end,
    write_state,
)
from apexstream.log.cipher import KEY_BYTES, AttemptCipher, KeyProvider, claimed_key
from apexstream.log.writer import AppendListener

TAKES_MAX = 12  # in a row without an append that counts
CLAIM_TRIES_MAX = 8  # lost to others while the stream is read
TAKE_PAUSE_S = 0.02  # before the second one; doubles, with jitter, up to …
TAKE_PAUSE_MAX_S = 2.0
WAITING_BYTES_MAX = 32 * 1024 * 1024  # of one stream
WAITING_MAX = 10_000  # appends of one stream

_log = structlog.get_logger(__name__)


class OutsideLog(Protocol):
    """The log as a stream's writing end sees it."""

    def encoder(self, stream_id: str, attempt: int) -> RunEncoder:
        """An encoder for this process' runs."""

    def put(self, stream_id: str, value: bytes, listener: AppendListener) -> None:
        """Send a run; ``listener`` is told the outcome."""

    async def append(self, stream_id: str, value: bytes) -> int:
        """Send a run and return its offset once acknowledged."""

    async def base(self, stream_id: str) -> tuple[StreamFold, int]:
        """What is sealed of the stream, and the offset from which on it has to be looked for in the log."""

    async def end(self, stream_id: str) -> int:
        """The present end of the log that the stream is in."""

    def between(self, stream_id: str, offset: int, end: int) -> AsyncIterator[ChunkRun]:
        """The stream's records from ``offset`` to ``end`` (exclusive)."""

    async def end_payload(self, stream_id: str) -> bytes:
        """The payload of the last chunk of a stream that is sealed with its end."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an append; ``next_seq`` is the seq after the stream's (or the append's own) last message."""

    decision: Decision
    next_seq: int
    closed: bool


@dataclass(slots=True, eq=False)
class Pending:
    """An append on its way. ``fits`` tells whether its content type is the stream's; ``taken`` counts its messages that are
    in the log already."""

    payloads: list[bytes]
    content_type: str
    producer: Producer | None = None
    stream_seq: str | None = None
    closes: bool = False
    fits: bool = True
    taken: int = 0
    size_bytes: int = field(init=False)
    answer: asyncio.Future[Answer] = field(init=False)

    def __post_init__(self) -> None:
        self.size_bytes = sum(map(len, self.payloads))
        self.answer = asyncio.get_running_loop().create_future()

    def decide(self, state: OutsideState) -> Decision:
        """What becomes of it."""
        if not self.fits and not state.closed:
            return WrongType()
        return state.decide(self.producer, self.stream_seq)


@dataclass(slots=True)
class _Run:
    """What is sent as one record: its chunks, the state after it, and what it means for the appends in it."""

    state: OutsideState
    next_seq: int
    chunks: list[Chunk] = field(default_factory=list)
    size_bytes: int = 0
    answers: list[tuple[Pending, Answer]] = field(default_factory=list)
    misses: bool = False  # an answer refuses for want of earlier appends
    part: tuple[Pending, int] | None = None  # of a long append, and how many of its messages are taken then

    def has_room_for(self, payloads: Sequence[bytes]) -> bool:
        size = self.size_bytes + sum(map(len, payloads))
        return not self.chunks or (len(self.chunks) + len(payloads) < RUN_CHUNKS_MAX and size <= RUN_PAYLOAD_BYTES_MAX)

    def add(self, payloads: Sequence[bytes], content_type: str, now_us: int) -> None:
        self.chunks += data_chunks(payloads, content_type, now_us)
        self.size_bytes += sum(map(len, payloads))
        self.next_seq += len(payloads)


class _Ignored:
    """Listens for a fence that is sent together with the run after it: that one tells."""

    def appended(self, offset: int) -> None: ...
    def failed(self, error: Unavailable) -> None: ...


class _Sent:
    """Listens for one run that must come back from the log; its acknowledgement alone says nothing."""

    __slots__ = ("outcome", "run_hash")

    def __init__(self, run_hash: bytes) -> None:
        self.run_hash = run_hash
        self.outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def appended(self, offset: int) -> None:
        """Wait on: it has to count as well."""

    def failed(self, error: Unavailable) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)

    def came_back(self, counts: bool) -> None:
        if not self.outcome.done():
            self.outcome.set_result(counts)


class StreamWriter:
    """The stream ``stream_id`` in this gateway's hands. Its records must be fed to :meth:`feed` from before the first append.
    ``settled`` returns once all has been fed that was in the log when it was called.

    ``fresh``: nobody but us can know the stream, so that its first claim needs no look back; it is not in the log before
    ``offset``.
    """

    def __init__(
        self,
        stream_id: str,
        log: OutsideLog,
        *,
        writer_id: str,
        tenant: str,
        keys: KeyProvider | None,
        now_us: Callable[[], int],
        random: Callable[[], float],
        settled: Callable[[], Awaitable[None]],
        timeout_s: float,
        fresh: bool,
        offset: int,
    ) -> None:
        self.stream_id = stream_id
        self._log = log
        self._writer_id = writer_id
        self._tenant = tenant
        self._keys = keys
        self._now_us = now_us
        self._random = random
        self._settled = settled
        self._timeout_s = timeout_s
        self._fresh = fresh
        self._fold: StreamFold | None = StreamFold() if fresh else None
        self._offset = offset
        self._held = False
        self._claimed = 0
        self._state = OutsideState()
        self._encoder: RunEncoder | None = None
        self._cipher: AttemptCipher | None = None
        self._waiting: deque[Pending] = deque()
        self._waiting_bytes = 0
        self._working: asyncio.Task[None] | None = None
        self._taking: list[tuple[int, ChunkRun]] | None = None
        self._sent: _Sent | None = None
        self._unsure: tuple[_Run, bytes] | None = None  # a run whose outcome the next take finds out

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return self._working is None

    async def create(self, pending: Pending) -> Answer:
        """Begin a fresh stream with ``pending``, which may be empty."""
        if pending.payloads or pending.closes:
            return await self.append(pending)
        claim = self._claim(1, first_seq=0)
        await self._log.append(self.stream_id, claim)
        self._held, self._fresh = True, False
        return Answer(Accepted(), 0, closed=False)

    async def append(self, pending: Pending) -> Answer:
        """Append, or say why not. Raise :class:`Unavailable` if the log cannot be written: then the outcome is unknown."""
        if len(self._waiting) >= WAITING_MAX or self._waiting_bytes + pending.size_bytes > WAITING_BYTES_MAX:
            raise Unavailable(
                "too many appends to this stream are waiting", where=self.stream_id, hint="Try again later"
            )
        self._waiting.append(pending)
        self._waiting_bytes += pending.size_bytes
        if self._working is None:
            self._working = asyncio.create_task(self._work(), name=f"append {self.stream_id}")
        return await pending.answer

    async def close(self) -> None:
        """Fail what is on its way and stop."""
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    def feed(self, offset: int, run: ChunkRun) -> None:
        """Take the next record of the stream from the log."""
        if self._taking is not None:
            self._taking.append((offset, run))
        elif self._fold is not None:
            self._apply(self._fold, offset, run)

    # The work, one record at a time.

    async def _work(self) -> None:
        takes = 0
        try:
            while self._waiting:
                try:
                    if not self._held:
                        await self._take()
                    if await self._write():
                        takes = 0
                        continue
                    problem: ApexError = Unavailable("other gateways keep writing it", where=self.stream_id)
                except Unavailable as failure:
                    problem = failure
                self._held = False
                takes += 1
                if takes > TAKES_MAX:
                    self._fail(problem)
                    return
                await asyncio.sleep(min(TAKE_PAUSE_S * 2**takes, TAKE_PAUSE_MAX_S) * (0.5 + self._random()))
        except ApexError as problem:
            self._fail(problem)
        except BaseException:
            self._fail(Unavailable("the gateway stops", where=self.stream_id))
            raise
        finally:
            self._working = None

    def _fail(self, problem: ApexError) -> None:
        self._held, self._unsure = False, None
        waiting, self._waiting = self._waiting, deque()
        self._waiting_bytes = 0
        for pending in waiting:
            if not pending.answer.done():
                pending.answer.set_exception(problem)

    async def _write(self) -> bool:
        """Send the next run, or only answer where there is nothing to send. False: the stream is in other hands."""
        fold = self._fold
        assert fold is not None  # noqa: S101 - taken before
        run = self._compose(fold)
        if not await (self._send(run, fold) if run.chunks else self._confirm(run)):
            return False
        self._state = run.state
        self._settle(run)
        return True

    async def _confirm(self, run: _Run) -> bool:
        """Whether what is only answered may be: sending would find out who has the stream, this does not."""
        if not run.misses:
            return True
        await self._settled()
        return self._held

    def _settle(self, run: _Run) -> None:
        """The run counts: answer the appends in it."""
        if run.part is not None:
            run.part[0].taken = run.part[1]
        for pending, answer in run.answers:
            self._waiting.popleft()
            self._waiting_bytes -= pending.size_bytes
            if not pending.answer.done():
                pending.answer.set_result(answer)

    def _compose(self, fold: StreamFold) -> _Run:
        run = _Run(self._state, self._end(fold))
        now_us = self._now_us()
        for pending in self._waiting:
            decision = pending.decide(run.state)
            if not isinstance(decision, Accepted):
                run.misses |= isinstance(decision, Gap | NewEpochNotAtZero)
                run.answers.append((pending, Answer(decision, run.next_seq, closed=run.state.closed)))
                continue
            skip = max(pending.taken, decision.skip)
            first, *more = parts_of(pending.payloads[skip:])
            if not run.has_room_for(first) or (more and run.chunks):
                break
            run.add(first, pending.content_type, now_us)
            if more:
                run.state = run.state.after_part(pending.producer, skip + len(first))
                run.part = pending, skip + len(first)
                break
            run.state = run.state.after(pending.producer, pending.stream_seq, closes=pending.closes)
            if pending.closes:
                run.chunks.append(Chunk(Kind.COMPLETE, write_end(run.state), now_us))
            run.answers.append((pending, Answer(Accepted(), run.next_seq, closed=pending.closes)))
        return run

    def _end(self, fold: StreamFold) -> int:
        """The seq after the last message: the end itself, which has a seq too, is none."""
        return fold.next_seq - (fold.closed is not None)

    async def _send(self, run: _Run, fold: StreamFold) -> bool:
        assert self._encoder is not None  # noqa: S101 - taken before
        chunks, checkpoint = run.chunks, write_state(run.state)
        if self._cipher is not None:
            chunks = self._cipher.seal(fold.next_seq, chunks)
            checkpoint = self._cipher.seal_state(fold.next_seq + len(chunks), checkpoint)
        value, run_hash = self._encoder.encode(fold.next_seq, chunks, checkpoint, fold.hash)
        self._sent = sent = _Sent(run_hash)
        try:
            self._log.put(self.stream_id, value, sent)
            async with asyncio.timeout(self._timeout_s):
                return await sent.outcome
        except (Unavailable, TimeoutError) as problem:
            _log.warning("an append's outcome is unknown", stream=self.stream_id, error=repr(problem))
            self._unsure = run, run_hash
            return False
        finally:
            self._sent = None

    # Taking the stream.

    async def _take(self) -> None:
        """Make the stream ours, and settle what was unknown. Raise :class:`Unavailable` if the log does not answer; the caller
        may come again."""
        if self._fresh:
            self._log.put(self.stream_id, self._claim(1, first_seq=0), _Ignored())
            self._held, self._fresh = True, False
            return
        self._taking = []
        try:
            await self._take_over()
        finally:
            late, self._taking = self._taking, None
        for offset, run in late:
            self.feed(offset, run)

    async def _take_over(self) -> None:
        fold, offset = (self._fold, self._offset) if self._fold is not None else await self._log.base(self.stream_id)
        fold, counted = replace(fold), set[bytes]()
        self._claimed = 0  # an old claim of ours would not keep out what is still on its way
        end = await self._log.end(self.stream_id)
        for _ in range(CLAIM_TRIES_MAX):
            async for run in self._log.between(self.stream_id, offset, end):
                if fold.apply(run).verdict is Verdict.ACCEPTED and self._unsure is not None:
                    counted.add(run.hash)
            offset = max(offset, end)
            if fold.closed is not None or (fold.attempt, fold.writer) == (self._claimed, self._writer_id):
                break
            end = await self._log.append(self.stream_id, self._claim(fold.attempt + 1, FROM_UNKNOWN)) + 1
        else:
            raise Unavailable("other gateways keep claiming it", where=self.stream_id)
        await self._taken(fold, offset)
        unsure, self._unsure = self._unsure, None
        if unsure is not None and unsure[1] in counted:
            self._settle(unsure[0])

    async def _taken(self, fold: StreamFold, offset: int) -> None:
        self._state = await self._read_state(fold)
        self._fold, self._offset = fold, offset
        if fold.closed is None:
            resume = self._encode_fence(Kind.RESUME, b"", fold.next_seq, fold.hash)
            self._log.put(self.stream_id, resume, _Ignored())
        self._held = True

    def _claim(self, attempt: int, first_seq: int) -> bytes:
        self._claimed = attempt
        self._encoder = self._log.encoder(self.stream_id, attempt)
        key = ""
        if self._keys is not None:
            data_key = os.urandom(KEY_BYTES)
            self._cipher = AttemptCipher(self.stream_id, attempt, data_key)
            key = base64.b64encode(self._keys.wrap(self.stream_id, data_key)).decode()
        # What the first claim says need not be said again. The stream is kept until its path is deleted or expires.
        words = ClaimWords(key=key, tenant=self._tenant, keep=True) if attempt == 1 else ClaimWords(key=key)
        return self._encode_fence(Kind.CLAIM, words.encode(), first_seq, GENESIS)

    def _encode_fence(self, kind: Kind, payload: bytes, first_seq: int, at_hash: bytes) -> bytes:
        assert self._encoder is not None  # noqa: S101 - a claim came before
        return self._encoder.encode(first_seq, (Chunk(kind, payload, self._now_us()),), None, at_hash)[0]

    async def _read_state(self, fold: StreamFold) -> OutsideState:
        if fold.closed is not None and fold.checkpoint is None:
            return read_end(await self._log.end_payload(self.stream_id))
        checkpoint = fold.checkpoint
        wrapped = claimed_key(dict(fold.claims).get(fold.checkpoint_attempt, b""))
        if checkpoint is not None and wrapped is not None and self._keys is not None:
            cipher = AttemptCipher(self.stream_id, fold.checkpoint_attempt, self._keys.unwrap(self.stream_id, wrapped))
            checkpoint = cipher.open_state(fold.checkpoint_seq, checkpoint)
        return read_state(checkpoint)

    def _apply(self, fold: StreamFold, offset: int, run: ChunkRun) -> None:
        if offset < self._offset:
            return
        self._offset = offset + 1
        verdict = fold.apply(run).verdict
        if self._sent is not None and run.hash == self._sent.run_hash:
            self._sent.came_back(verdict is Verdict.ACCEPTED)
        if verdict is Verdict.CLAIMED and (fold.attempt, fold.writer) != (self._claimed, self._writer_id):
            self._held = False
