"""One attempt at a task: fence, run the action, end the stream.

The order of the fence is what makes content exactly-once; ``core.fold`` says why. Nothing here decides what a stream
contains: an attempt only writes what the fold will accept.
"""

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from apexstream.core.chunk import FROM_UNKNOWN, GENESIS, Chunk, Kind
from apexstream.core.claims import ClaimWords
from apexstream.core.errors import ApexError, ChunkDecodeError, DataCorruption, InvalidParameters, Unavailable
from apexstream.core.events import TaskChange, TaskSubmitted
from apexstream.core.fold import StreamFold
from apexstream.core.inputs import may_refer
from apexstream.core.options import ErrorClass, TaskOptions
from apexstream.core.throttle import Throttle
from apexstream.log.cipher import KEY_BYTES, SEAL_BYTES, AttemptCipher, KeyProvider, claimed_key, key_words
from apexstream.runner.appender import RunEncoder, StreamAppender
from apexstream.runner.asking import Asking
from apexstream.runner.buffer import Buffer
from apexstream.runner.coordination import Party
from apexstream.runner.host.port import ActionHost, Call, CallOutcome, Ending, Resume, RunningCall
from apexstream.runner.measures import AttemptMeasures
from apexstream.runtime import tracing
from apexstream.runtime.clock import Clock

CANCEL_GRACE_S = 5.0  # between setting the token and cancelling the action's task
INTERRUPT_GRACE_S = 5.0  # between that and ending its process
CLAIM_TRIES_MAX = 5
THROTTLE_LOOK_S = 1.0
FENCE_DELAY_S = 0.02  # a fence waits this long for the first chunk, to leave in one batch with it

END_OF = {Kind.COMPLETE: TaskChange.COMPLETED, Kind.ERROR: TaskChange.FAILED, Kind.CANCELLED: TaskChange.CANCELLED}


FillInputs = Callable[[bytes], Awaitable[bytes]]
"""Gives parameters with the values that they refer to; see ``runner.inputs``."""


class StreamLog(Protocol):
    """The log as one attempt sees it."""

    def encoder(self, stream_id: str, attempt: int) -> RunEncoder:
        """An encoder for this process' runs."""

    def put(self, stream_id: str, value: bytes, appender: Any) -> None:
        """Send a run and report its outcome to ``appender``."""

    async def append(self, stream_id: str, value: bytes) -> int:
        """Send a run and return its offset once acknowledged."""

    async def fold(self, stream_id: str, *, since_us: int, end: int | None = None) -> StreamFold:
        """Fold the stream from its beginning to offset ``end`` (exclusive; None: the log's present end)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The stream is closed: how, by which attempt, and why."""

    change: TaskChange
    attempt: int
    reason: str = ""
    error: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The action failed and the stream is open: another attempt may go on with it."""

    attempt: int
    error: dict[str, Any]
    error_class: ErrorClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """The action stopped at a yield; whoever owns the task next goes on."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attempt begins to write, and what it hands to the action."""

    attempt: int
    hash: bytes
    resume: Resume


class Attempt:
    """Runs ``task`` once, from its fence to its outcome. One object is one attempt; see :class:`port.Sink` for its other side."""

    def __init__(
        self,
        task: TaskSubmitted,
        *,
        host: ActionHost,
        log: StreamLog,
        writer: str,
        clock: Clock,
        options: TaskOptions,
        resume_mode: str,
        measures: AttemptMeasures,
        buffer: Buffer,
        party: Party,
        inputs: FillInputs,
        keys: KeyProvider | None = None,
    ) -> None:
        self.task = task
        self.cancel_reason: str | None = None
        self._host = host
        self._log = log
        self._writer = writer
        self._clock = clock
        self._options = options
        self._resume_mode = resume_mode
        self._buffer = buffer
        self._inputs = inputs
        self._keys = keys
        self._cipher: AttemptCipher | None = None
        self._cancelled_at = 0.0
        self._parking = False
        self._timed_out = ""
        self._broken: Exception | None = None
        self._outcome: asyncio.Future[CallOutcome] = asyncio.get_running_loop().create_future()
        self._appender: StreamAppender | None = None
        self._fence: bytes | None = None  # to be sent before anything else
        self._fence_sent = asyncio.Event()
        self._call: RunningCall | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._payload_bytes = 0
        self._paused = False
        self._content = 0  # chunks that the stream had before
        self._measures = measures
        self._asking = Asking(party, self._answer)
        self._throttle = Throttle(options.bounds) if options.adaptive else None
        self._throttling: asyncio.Task[None] | None = None
        self._chunks = 0  # that the action yielded
        self._number = 0

    # What others ask of it, at any time.

    def cancel(self, reason: str) -> None:
        """Ask the action to stop: token, then its task, then its process, each after a grace."""
        if self.cancel_reason is None:
            self.cancel_reason = reason
            self._cancelled_at = self._clock.monotonic()
            self._stop_call(reason)

    def park(self) -> None:
        """Stop at the next yield without ending the stream."""
        if not self._parking:
            self._parking = True
            if self._call is not None:
                self._call.park()
                self._after(CANCEL_GRACE_S, "interrupt", self._call.interrupt)
                self._after(CANCEL_GRACE_S + INTERRUPT_GRACE_S, "kill", self._call.kill)

    def pause(self, paused: bool) -> None:
        """Hold the action at its next yield, or let it go on."""
        self._paused = paused
        self._measures.pause(paused, self._clock.monotonic())
        if self._call is not None:
            self._call.pause(paused)

    def press(self, reader: str, pressure: float) -> None:
        """A reader of the stream says how far it is behind, 0 to 1."""
        if self._throttle is not None:
            self._throttle.press(reader, pressure, self._clock.monotonic())

    # The two ways to begin.

    def first(self, attempt: int) -> Place:
        """An assignment that nobody ever had: the claim itself says where the stream goes on, at 0, and nobody waits for it."""
        encoder = self._log.encoder(self.task.task_id, attempt)
        claim, _ = encoder.encode(0, (self._claim(attempt),), None, GENESIS)
        place = Place(attempt, GENESIS, Resume())
        self._measures.started(self.task.tier, max(0, self._clock.now_us() - self.task.submitted_us) / 1e6)
        self._begin(encoder, place, claim)
        return place

    async def claim(self, attempt: int) -> Place | Ended | None:
        """Claim the stream and read it up to the own claim, which nothing later can change. Gives where to go on in
        ``restart`` mode and what a checkpointed or deterministic action needs; ``Ended`` if the stream is closed; None if
        another writer's claim of this number came first."""
        task = self.task
        encoder = self._log.encoder(task.task_id, attempt)
        claim, _ = encoder.encode(FROM_UNKNOWN, (self._claim(attempt),), None, GENESIS)
        offset = await self._log.append(task.task_id, claim)
        fold = await self._log.fold(task.task_id, since_us=task.submitted_us, end=offset + 1)
        if fold.closed is not None:
            return Ended(change=END_OF[fold.closed], attempt=attempt, reason="had already ended")
        if (fold.attempt, fold.writer) != (attempt, self._writer):
            return None
        self._content = fold.next_seq
        return self._opened(place_of(fold, self._resume_mode), fold)

    def resume(self, place: Place) -> None:
        """Say where the stream goes on, and begin to write there."""
        encoder = self._log.encoder(self.task.task_id, place.attempt)
        fence, _ = encoder.encode(place.resume.next_seq, (self._chunk(Kind.RESUME, b""),), None, place.hash)
        self._begin(encoder, place, fence)

    async def begun(self) -> None:
        """Until the stream is about to be written: what is appended now leaves together with that, not before it."""
        await self._fence_sent.wait()

    async def run(self, place: Place) -> Ended | Failed | Parked:
        """Run the action from ``place`` on. Raises :class:`Unavailable` if an append's outcome became unknown: the next
        attempt reads the truth from the log."""
        assert self._appender is not None  # noqa: S101 - first() or resume() came before
        task = self.task
        if self._broken is not None:
            raise self._broken
        self._number = place.attempt
        params = await self._params()
        if self._outcome.done():
            pass  # there is nothing to begin with
        elif self.cancel_reason is None and not self._parking:
            call = Call(
                task_id=task.task_id,
                attempt=place.attempt,
                plugin=task.plugin,
                action=task.action,
                params=params,
                resume=place.resume,
                traceparent=tracing.current() or task.traceparent,
            )
            self._measures.begin(self._clock.monotonic(), content=self._content, kept=place.resume.next_seq)
            self._call = self._host.start(call, self)
            if self._paused:
                self._call.pause(True)
            self._watch_time()
            if self._throttle is not None:
                self._throttling = asyncio.create_task(self._adapt(self._throttle, self._call), name="adapt a rate")
        else:
            self.ended(CallOutcome(ending=Ending.PARKED if self._parking else Ending.CANCELLED))
        try:
            outcome = await self._outcome
        except asyncio.CancelledError:
            if self._call is not None:
                self._call.kill()
            raise
        finally:
            self._send_fence()
            self._measures.end(self._clock.monotonic())
            await self._asking.close()
            if self._throttling is not None:
                self._throttling.cancel()
                await asyncio.gather(self._throttling, return_exceptions=True)
                self._measures.paced(False)
            for timer in self._timers.values():
                timer.cancel()
        if self._broken is not None:
            raise self._broken
        return await self._conclude(outcome, place.attempt)

    async def _params(self) -> bytes:
        """The task's parameters, with what it takes from other tasks; without that the attempt has failed for good."""
        params = self.task.params
        if may_refer(params) and self.cancel_reason is None and not self._parking:
            try:
                return await self._inputs(params)
            except (InvalidParameters, DataCorruption, ChunkDecodeError) as problem:
                error_class = ErrorClass.PERMANENT.value
                self.ended(CallOutcome(ending=Ending.FAILED, error=problem.as_dict(), error_class=error_class))
        return params

    async def fail_for_good(self, failed: Failed, reason: str) -> Ended:
        """Close the stream with the error; nobody tries again."""
        error = msgspec.json.encode(failed.error)
        await self._close(Kind.ERROR, error)
        return Ended(change=TaskChange.FAILED, attempt=failed.attempt, reason=reason, error=error)

    # What the host reports (port.Sink).

    def chunks(self, chunks: Sequence[Chunk], checkpoint: bytes | None) -> None:
        """Append what the action yielded."""
        if self._broken is not None or self._appender is None:
            return
        size_bytes = sum(len(chunk.payload) for chunk in chunks)
        self._payload_bytes += size_bytes
        self._chunks += len(chunks)
        self._measures.yielded(len(chunks), size_bytes, self._clock.monotonic())
        if self._cipher is not None:
            at = self._appender.next_seq
            chunks = self._cipher.seal(at, chunks)
            checkpoint = None if checkpoint is None else self._cipher.seal_state(at + len(chunks), checkpoint)
        try:
            self._appender.put(chunks, checkpoint)
        except ApexError as problem:
            self._break_off(problem)
            return
        limit = self._options.bytes_max
        if limit is not None and self._payload_bytes > limit and not self._timed_out:
            self._overrun(f"the stream is larger than its limit of {limit} bytes")

    def asked(self, number: int, question: bytes) -> None:
        """Find out what the action asks of other tasks."""
        self._asking.ask(number, question, self._number)

    def ended(self, outcome: CallOutcome) -> None:
        """The call is over."""
        if not self._outcome.done():
            self._outcome.set_result(outcome)

    # Inside.

    async def _adapt(self, throttle: Throttle, call: RunningCall) -> None:
        """Let the action be as fast as its readers can take it, until cancelled."""
        at, chunks = self._clock.monotonic(), 0
        if math.isfinite(throttle.rate):
            call.pace(throttle.rate)
        while True:
            await asyncio.sleep(THROTTLE_LOOK_S)
            now, before = self._clock.monotonic(), throttle.rate
            if throttle.look((self._chunks - chunks) / max(now - at, 1e-3), now):
                limited = math.isfinite(throttle.rate)
                call.pace(throttle.rate if limited else 0.0)
                self._measures.paced(limited, slower=throttle.rate < before)
            at, chunks = now, self._chunks

    def _answer(self, number: int, answer: bytes) -> None:
        if self._call is not None:
            self._call.answer(number, answer)

    def _begin(self, encoder: RunEncoder, place: Place, fence: bytes) -> None:
        self._appender = StreamAppender(
            encoder,
            self._send,
            next_seq=place.resume.next_seq,
            previous_hash=place.hash,
            buffer=self._buffer,
            on_taken=self._took,
        )
        self._fence = fence
        self._after(FENCE_DELAY_S, "fence", self._send_fence)

    def _send_fence(self) -> None:
        fence, self._fence = self._fence, None
        self._fence_sent.set()
        if fence is None:
            return
        try:
            self._log.put(self.task.task_id, fence, _Fence(self._break_off))
        except ApexError as problem:
            self._break_off(problem)

    def _send(self, value: bytes, _: StreamAppender) -> None:
        self._send_fence()
        self._log.put(self.task.task_id, value, self)

    def appended(self, offset: int) -> None:
        """The run in flight is in the log."""
        if self._appender is not None:
            try:
                self._appender.appended(offset)
            except ApexError as problem:
                self._break_off(problem)

    def failed(self, error: Unavailable) -> None:
        """The run in flight may or may not be in the log."""
        self._break_off(error)

    def _break_off(self, problem: ApexError) -> None:
        """This attempt can write no more: end the call, and say why once it has ended."""
        unknown = problem if isinstance(problem, Unavailable) else Unavailable(str(problem), where=self.task.task_id)
        if self._appender is not None:
            self._appender.failed(unknown)
        if self._broken is None:
            self._broken = unknown
            self._stop_call("the log cannot be written")

    def _took(self, size_bytes: int, chunks: int) -> None:
        if self._call is not None:
            sealed = 0 if self._cipher is None else chunks * SEAL_BYTES  # the host knows nothing of seals
            self._call.credit(max(0, size_bytes - sealed))

    def _stop_call(self, reason: str) -> None:
        call = self._call
        if call is None:
            return
        call.cancel(reason)
        self._after(CANCEL_GRACE_S, "interrupt", call.interrupt)
        self._after(CANCEL_GRACE_S + INTERRUPT_GRACE_S, "kill", call.kill)

    def _after(self, delay_s: float, name: str, act: Any) -> None:
        if name not in self._timers:
            self._timers[name] = asyncio.get_running_loop().call_later(delay_s, act)

    def _watch_time(self) -> None:
        options = self._options
        if options.total_timeout_s is not None:
            limit = options.total_timeout_s
            self._after(limit, "total", lambda: self._overrun(f"the attempt took longer than {limit:g} s"))
        if options.first_chunk_timeout_s is not None:
            self._watch_silence("first", options.first_chunk_timeout_s, self._payload_bytes)
        if options.idle_timeout_s is not None:
            self._watch_silence("idle", options.idle_timeout_s, None)

    def _watch_silence(self, name: str, limit_s: float, only_before_bytes: int | None) -> None:
        """Look again when the limit could be reached; each chunk moves that moment."""
        if only_before_bytes is not None and self._payload_bytes > only_before_bytes:
            return
        silent_s = 0.0 if self._paused else self._clock.monotonic() - self._measures.last_at
        if silent_s >= limit_s:
            what = "no first chunk" if name == "first" else "no chunk"
            self._overrun(f"{what} within {limit_s:g} s")
            return
        loop = asyncio.get_running_loop()
        self._timers[name] = loop.call_later(limit_s - silent_s, self._watch_silence, name, limit_s, only_before_bytes)

    def _overrun(self, what: str) -> None:
        if self.cancel_reason is None and not self._parking and not self._timed_out:
            self._timed_out = what
            self._stop_call(what)

    async def _conclude(self, outcome: CallOutcome, attempt: int) -> Ended | Failed | Parked:
        if self.cancel_reason is not None:
            await self._close(Kind.CANCELLED, self._receipt())
            return Ended(change=TaskChange.CANCELLED, attempt=attempt, reason=self.cancel_reason)
        if self._timed_out:
            error = {"code": "limit", "message": self._timed_out, "where": f"{self.task.plugin}.{self.task.action}"}
            too_large = "larger" in self._timed_out
            await self._flush()
            return Failed(
                attempt=attempt, error=error, error_class=ErrorClass.PERMANENT if too_large else ErrorClass.TRANSIENT
            )
        if outcome.ending is Ending.COMPLETED:
            await self._close(Kind.COMPLETE, b"{}")
            return Ended(change=TaskChange.COMPLETED, attempt=attempt)
        await self._flush()
        if outcome.ending is Ending.PARKED or (self._parking and outcome.ending is not Ending.FAILED):
            return Parked(attempt=attempt)
        error = outcome.error or {"code": "plugin_failed", "message": f"the action ended as {outcome.ending}"}
        return Failed(
            attempt=attempt, error=error, error_class=ErrorClass(outcome.error_class or ErrorClass.PLUGIN_BUG)
        )

    async def _close(self, kind: Kind, payload: bytes) -> None:
        assert self._appender is not None  # noqa: S101 - run() came before
        self._appender.put((self._chunk(kind, payload),))
        await self._flush()

    async def _flush(self) -> None:
        assert self._appender is not None  # noqa: S101 - run() came before
        await self._appender.flush()

    def _claim(self, attempt: int) -> Chunk:
        """The claim: whose the stream is, how long it is kept, and if it is encrypted the attempt's new data key, wrapped."""
        options = self._options
        words = ClaimWords(
            key=self._new_key(attempt),
            tenant=self.task.tenant,
            action=f"{self.task.plugin}.{self.task.action}",
            ttl_s=options.ttl_s,
            keep=options.keep,
            adaptive=bool(options.adaptive),
        )
        return self._chunk(Kind.CLAIM, words.encode())

    def _new_key(self, attempt: int) -> str:
        if self._keys is None:
            return ""
        data_key = os.urandom(KEY_BYTES)
        self._cipher = AttemptCipher(self.task.task_id, attempt, data_key)
        return key_words(self._keys.wrap(self.task.task_id, data_key))

    def _opened(self, place: Place, fold: StreamFold) -> Place:
        """``place`` with its checkpoint readable for the action."""
        claim = dict(fold.claims).get(fold.checkpoint_attempt, b"")
        wrapped = claimed_key(claim)
        if place.resume.checkpoint is None or wrapped is None or self._keys is None:
            return place
        cipher = AttemptCipher(
            self.task.task_id, fold.checkpoint_attempt, self._keys.unwrap(self.task.task_id, wrapped)
        )
        state = cipher.open_state(place.resume.next_seq, place.resume.checkpoint)
        return replace(place, resume=replace(place.resume, checkpoint=state))

    def _chunk(self, kind: Kind, payload: bytes) -> Chunk:
        return Chunk(kind, payload, self._clock.now_us())

    def _receipt(self) -> bytes:
        assert self._appender is not None  # noqa: S101 - run() came before
        after_ms = int((self._clock.monotonic() - self._cancelled_at) * 1000)
        seq = self._appender.next_seq
        return msgspec.json.encode({"reason": self.cancel_reason, "stopped_at_seq": seq, "after_ms": after_ms})


def place_of(fold: StreamFold, mode: str) -> Place:
    """Where an attempt that holds the newest claim of ``fold`` goes on, by the action's resume mode."""
    if mode == "deterministic":
        return Place(fold.attempt, fold.hash, Resume(next_seq=fold.next_seq, data_count=fold.data_count))
    if mode == "checkpointed" and fold.checkpoint is not None:
        resume = Resume(next_seq=fold.checkpoint_seq, data_count=fold.checkpoint_data_count, checkpoint=fold.checkpoint)
        return Place(fold.attempt, fold.checkpoint_hash, resume)
    return Place(fold.attempt, GENESIS, Resume())


class _Fence:
    """Listens for a fence that is sent together with the chunks after it: only its failure matters."""

    __slots__ = ("_break_off",)

    def __init__(self, break_off: Any) -> None:
        self._break_off = break_off

    def appended(self, offset: int) -> None:
        """Nothing to do: the chunks are already on their way."""

    def failed(self, error: Unavailable) -> None:
        self._break_off(error)
