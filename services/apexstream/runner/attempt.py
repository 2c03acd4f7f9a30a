"""One attempt at a task: fence, drive the action, end the stream.

The order of the fence is what makes content exactly-once; ``core.fold`` says why. Nothing here decides what a stream
contains: it only writes what the fold will accept.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import structlog

from apexstream.core.chunk import FROM_UNKNOWN, GENESIS, Chunk, Kind
from apexstream.core.errors import ApexError, PluginFailed, Unavailable
from apexstream.core.events import TaskChange, TaskSubmitted
from apexstream.core.fold import StreamFold
from apexstream.plugin import CancellationToken, PluginManager, ProgressUpdate
from apexstream.plugin.manager import describe_failure
from apexstream.plugin.values import encode_value
from apexstream.runner.appender import RunEncoder, StreamAppender
from apexstream.runtime.clock import Clock

CANCEL_GRACE_S = 5.0  # between asking an action to stop and cancelling it
CLAIM_TRIES_MAX = 5

_log = structlog.get_logger(__name__)
_END_OF = {Kind.COMPLETE: TaskChange.COMPLETED, Kind.ERROR: TaskChange.FAILED, Kind.CANCELLED: TaskChange.CANCELLED}


class StreamLog(Protocol):
    """The log as one attempt sees it."""

    def encoder(self, stream_id: str, attempt: int) -> RunEncoder:
        """An encoder for this process' runs."""

    def put(self, stream_id: str, value: bytes, appender: StreamAppender) -> None:
        """Send a run and report its outcome to ``appender``."""

    async def append(self, stream_id: str, value: bytes) -> int:
        """Send a run and return its offset once acknowledged."""

    async def fold_task(self, task: TaskSubmitted, *, end: int | None) -> StreamFold:
        """Fold the stream from its beginning to offset ``end`` (exclusive; None: the log's present end)."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a task ended: the change, the error as users see it (JSON; empty unless failed), and why."""

    change: TaskChange
    attempt: int
    error: bytes = b""
    reason: str = ""


class Attempt:
    """Runs ``task`` once, from its fence to the end of its stream."""

    def __init__(self, task: TaskSubmitted, plugins: PluginManager, log: StreamLog, writer: str, clock: Clock) -> None:
        self.task = task
        self.token = CancellationToken()
        self._plugins = plugins
        self._log = log
        self._writer = writer
        self._clock = clock
        self._cancelled_at = 0.0
        self._driver: asyncio.Task[None] | None = None
        self._killer: asyncio.TimerHandle | None = None

    def cancel(self, reason: str) -> None:
        """Ask the action to stop, and cancel it if it does not within ``CANCEL_GRACE_S``."""
        if self.token.is_cancelled:
            return
        self._cancelled_at = self._clock.monotonic()
        self.token.cancel(reason)
        self._killer = asyncio.get_running_loop().call_later(CANCEL_GRACE_S, self._kill)

    async def run_first(self, attempt: int) -> Ended:
        """Run an assignment that nobody ever had: the claim itself says where the stream goes on, at 0."""
        encoder = self._log.encoder(self.task.task_id, attempt)
        claim, _ = encoder.encode(0, (self._fence(Kind.CLAIM),), None, GENESIS)
        appender = self._appender(encoder, 0, GENESIS)
        self._log.put(self.task.task_id, claim, _Fenced(appender))  # type: ignore[arg-type]  # reports failures alike
        return await self._drive(appender, attempt)

    async def run_again(self, at_least: int) -> Ended:
        """Run an assignment that someone may have had: claim, read up to the own claim, then resume from there."""
        task = self.task
        attempt = max(at_least, (await self._log.fold_task(task, end=None)).attempt + 1)
        for _ in range(CLAIM_TRIES_MAX):
            encoder = self._log.encoder(task.task_id, attempt)
            claim, _ = encoder.encode(FROM_UNKNOWN, (self._fence(Kind.CLAIM),), None, GENESIS)
            offset = await self._log.append(task.task_id, claim)
            fold = await self._log.fold_task(task, end=offset + 1)
            if fold.closed is not None:
                return Ended(_END_OF[fold.closed], fold.attempt, reason="had already ended")
            if fold.attempt == attempt and fold.writer == self._writer:
                resume, _ = encoder.encode(0, (self._fence(Kind.RESUME),), None, GENESIS)
                appender = self._appender(encoder, 0, GENESIS)
                self._log.put(task.task_id, resume, _Fenced(appender))  # type: ignore[arg-type]
                return await self._drive(appender, attempt)
            attempt = fold.attempt + 1
        raise Unavailable(f"lost {CLAIM_TRIES_MAX} claims to other writers", where=task.task_id)

    async def _drive(self, appender: StreamAppender, attempt: int) -> Ended:
        self._driver = asyncio.ensure_future(self._pump(appender))
        try:
            await self._driver
            kind, payload, reason = Kind.COMPLETE, b"{}", ""
        except asyncio.CancelledError:
            if not self.token.is_cancelled:
                self._driver.cancel()
                raise  # the runner itself is stopping
            kind, payload, reason = Kind.CANCELLED, b"", self.token.reason
        except Unavailable:
            raise  # not the action's doing: another attempt reads the truth from the log
        except Exception as problem:
            kind, payload, reason = Kind.ERROR, error_payload(problem, self.task), ""
        finally:
            if self._killer is not None:
                self._killer.cancel()
        if kind is Kind.COMPLETE and self.token.is_cancelled:
            kind, reason = Kind.CANCELLED, self.token.reason
        if kind is Kind.CANCELLED:
            payload = self._receipt(appender.next_seq)
        appender.put(self._chunk(kind, payload))
        await appender.flush()
        return Ended(_END_OF[kind], attempt, payload if kind is Kind.ERROR else b"", reason)

    async def _pump(self, appender: StreamAppender) -> None:
        params = msgspec.json.decode(self.task.params or b"{}")
        loop = asyncio.get_running_loop()
        done = _done(loop)

        def report(update: ProgressUpdate) -> asyncio.Future[None]:
            chunk = self._chunk(Kind.PROGRESS, msgspec.json.encode(update))
            if _in(loop):
                appender.put_progress(chunk)
            else:
                loop.call_soon_threadsafe(appender.put_progress, chunk)
            return done

        run = self._plugins.run(self.task.plugin, self.task.action, params, report, self.token)
        async with aclosing(run) as values:
            await self._copy(values, appender)

    async def _copy(self, values: AsyncGenerator[Any, None], appender: StreamAppender) -> None:
        now_us = self._clock.now_us
        async for value in values:
            payload, content_type = encode_value(value)
            appender.put(Chunk(Kind.DATA, payload, now_us(), content_type))
            if self.token.is_cancelled:
                return
            if not appender.has_room:
                await appender.room()

    def _kill(self) -> None:
        if self._driver is not None:
            self._driver.cancel()

    def _appender(self, encoder: RunEncoder, next_seq: int, previous_hash: bytes) -> StreamAppender:
        def put(value: bytes, appender: StreamAppender) -> None:
            self._log.put(self.task.task_id, value, appender)

        return StreamAppender(encoder, put, next_seq=next_seq, previous_hash=previous_hash)

    def _chunk(self, kind: Kind, payload: bytes) -> Chunk:
        return Chunk(kind, payload, self._clock.now_us())

    def _fence(self, kind: Kind) -> Chunk:
        return self._chunk(kind, b"")

    def _receipt(self, seq: int) -> bytes:
        after_ms = int((self._clock.monotonic() - self._cancelled_at) * 1000)
        return msgspec.json.encode({"reason": self.token.reason, "stopped_at_seq": seq, "after_ms": after_ms})


def error_payload(problem: Exception, task: TaskSubmitted) -> bytes:
    """The error chunk's payload: what users are told. Whatever a plugin raised is its own failure, with the place."""
    if not isinstance(problem, ApexError):
        _log.warning("an action raised", task=task.task_id, exc_info=problem)
        problem = PluginFailed(describe_failure(problem), where=f"{task.plugin}.{task.action}")
    return msgspec.json.encode(problem.as_dict())


class _Fenced:
    """Listens for a fence that is sent together with the chunks after it: only its failure matters, and ends the attempt."""

    __slots__ = ("_appender",)

    def __init__(self, appender: StreamAppender) -> None:
        self._appender = appender

    def appended(self, offset: int) -> None:
        """Nothing to do: the chunks are already on their way."""

    def failed(self, error: Unavailable) -> None:
        self._appender.failed(error)


def _done(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    future: asyncio.Future[None] = loop.create_future()
    future.set_result(None)
    return future


def _in(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
