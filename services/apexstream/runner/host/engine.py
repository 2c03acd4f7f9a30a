"""Drives one action: from what its generator yields to batches of chunks, with everything that may happen at a yield.

The same engine runs in a plugin process and in the runner. It knows the plugin and the port's words, and nothing of
sockets, processes or Kafka.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import msgspec

from apexstream.core.chunk import RUN_BYTES_MAX, RUN_CHUNKS_MAX, Kind
from apexstream.core.errors import ApexError, InvalidChunk, InvalidParameters, PluginFailed
from apexstream.core.options import ErrorClass
from apexstream.plugin.base import CancellationToken, ProgressUpdate, ResumeMode
from apexstream.plugin.errors import classify
from apexstream.plugin.iterate import opened
from apexstream.plugin.manager import PluginManager, describe_failure
from apexstream.plugin.persistence import StreamPersistence, enter
from apexstream.plugin.values import Chunk, encode_value
from apexstream.runner.host.frames import (
    CHUNK_COST_MIN,
    PATIENCE_S_MAX,
    PROGRESS_BYTES_MAX,
    TEXT_CHARS_MAX,
    Batch,
    cost,
)
from apexstream.runner.host.port import CREDIT_BYTES, Call, CallOutcome, Ending

BATCH_AGE_US = 1_000  # a batch that an action fills without ever waiting is sent at least this often
SLOW_STEP_US = 200  # after a longer step of the action its chunk is sent at once: the next one will not come soon
SKIPPED_AT_ONCE = 256  # chunks skipped between two turns of the event loop

_DATA, _PROGRESS = int(Kind.DATA), int(Kind.PROGRESS)
_log = logging.getLogger(__name__)


class Outlet(Protocol):
    """Where an execution's results go, always from the event loop."""

    def batch(self, batch: Batch) -> None:
        """The next chunks."""

    def ended(self, number: int, outcome: CallOutcome) -> None:
        """The execution is over; nothing follows."""


class Execution:
    """One call, from :meth:`begin` to its outcome. ``number`` is what its batches carry."""

    task: "asyncio.Task[bool]"

    def __init__(
        self,
        plugins: PluginManager,
        call: Call,
        outlet: Outlet,
        now_us: Callable[[], int],
        *,
        number: int = 0,
        credit: int = CREDIT_BYTES,
    ) -> None:
        self.token = CancellationToken()
        self._plugins = plugins
        self._call = call
        self._outlet = outlet
        self._now_us = now_us
        self._number = number
        self._persistence = StreamPersistence(task_id=call.task_id, attempt=call.attempt)
        self._to_skip = 0
        self._skipping = False
        self._loop = asyncio.get_running_loop()
        self._ended = False
        # What may happen at a yield:
        self._credit = credit
        self._paused = False
        self._parking = False
        self._interrupted = False
        self._stop = False  # at the next yield
        self._held = False  # at a yield: out of credit, or paused
        self._released = asyncio.Event()
        # The open batch:
        self._payloads: list[bytes] = []
        self._times: list[int] = []
        self._progress_at: list[int] = []
        self._content_types: dict[int, str] = {}
        self._checkpoint: bytes | None = None
        self._covered = 0
        self._size = 0
        self._last_us = 0
        self._send_at_us = 0
        self._scheduled = False
        self._count_limit = self._size_limit = 0
        self._set_limits()
        self._reported: asyncio.Future[None] = self._loop.create_future()
        self._reported.set_result(None)

    def begin(self) -> None:
        """Start; everything else happens later."""
        self.task = self._loop.create_task(self._run(), name=f"{self._call.plugin}.{self._call.action}")
        self.task.add_done_callback(self._finish)

    def credit(self, amount: int) -> None:
        """The action may yield so much more."""
        self._credit += amount
        self._set_limits()
        self._let_go()
        if self._payloads:
            self._send_soon()

    def cancel(self, reason: str) -> None:
        """Set the token; the action ends at its next yield, or earlier by itself."""
        self.token.cancel(reason)
        self._stop_at_yield()

    def interrupt(self) -> None:
        """Cancel the action's task; it ends at its next yield if it does not care."""
        self._interrupted = True
        self._stop_at_yield()
        self.task.cancel()

    def park(self) -> None:
        """End at the next yield, with a checkpoint if the action has a state for it."""
        self._parking = True
        self._persistence.demand()
        self._stop_at_yield()

    def pause(self, paused: bool) -> None:
        """Hold the action at its next yield, or let it go on."""
        self._paused = paused
        self._let_go()

    def abandon(self) -> None:
        """Report nothing more."""
        self._ended = True
        self.interrupt()

    async def _run(self) -> bool:
        """Whether the action was stopped at a yield; it has returned by itself otherwise."""
        call = self._call
        try:
            self._prepare()
            params = _params(call)
            enter(self._persistence)
            result = self._plugins.call(call.plugin, call.action, params, self._report, self.token)
            async with opened(result) as values:
                return await self._skip(values) or await self._copy(values)
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as problem:  # would end the process, or go unseen
            raise PluginFailed(
                f"raised {type(problem).__name__}", where=f"{call.plugin}.{call.action}", hint="Return instead"
            ) from problem

    def _prepare(self) -> None:
        call = self._call
        mode = self._plugins.spec(call.plugin, call.action).resume
        checkpointed = mode == ResumeMode.CHECKPOINTED
        self._persistence = StreamPersistence(
            task_id=call.task_id,
            attempt=call.attempt,
            checkpoint=call.resume.checkpoint if checkpointed else None,
            data_seq=call.resume.data_count if checkpointed else 0,
            refused="" if checkpointed else f"{call.plugin}.{call.action} goes on by {mode} and keeps no checkpoint",
        )
        if self._parking:
            self._persistence.demand()
        self._to_skip = call.resume.data_count if mode == ResumeMode.DETERMINISTIC else 0
        self._skipping = self._to_skip > 0

    async def _skip(self, values: AsyncIterator[Any]) -> bool:
        """Run past what is published already; True if stopped meanwhile."""
        for skipped in range(self._to_skip):
            if self._stop or (self._paused and not await self._go_on()):
                return True
            try:
                await anext(values)
            except StopAsyncIteration:
                raise PluginFailed(
                    f"gave {skipped} chunks where an earlier attempt gave at least {self._to_skip}",
                    where=f"{self._call.plugin}.{self._call.action}",
                    hint='Declare it deterministic only if every run gives the same; else "checkpointed" or "restart"',
                ) from None
            self._persistence.data_seq += 1
            if skipped % SKIPPED_AT_ONCE == SKIPPED_AT_ONCE - 1:
                await asyncio.sleep(0)
        self._skipping = False
        return False

    async def _copy(self, values: AsyncIterator[Any]) -> bool:
        """Put what the action yields into batches; True if stopped at a yield."""
        async for value in values:
            if self._held and not await self._go_on():
                return True
            if self._put(value):
                self._send()
                if self._stop:
                    return True
                await asyncio.sleep(0)
                self._last_us = self._now_us()  # what others did meanwhile is not this action's slowness
        return False

    def _put(self, value: Any) -> bool:
        """Add a data chunk to the open batch; True if the batch must be sent now."""
        payload, content_type = encode_value(value)
        persistence, payloads = self._persistence, self._payloads
        explicit = value.checkpoint if type(value) is Chunk else None
        if explicit is not None or persistence.has_state:
            self._attach(persistence.take(explicit))
        now_us = self._now_us()
        if not payloads:
            slow = now_us - self._last_us >= SLOW_STEP_US
            self._send_at_us = now_us if slow else now_us + BATCH_AGE_US
            self._send_soon()
        self._last_us = now_us
        if content_type:
            self._content_types[len(payloads)] = content_type
        payloads.append(payload)
        self._times.append(now_us)
        self._size += len(payload)
        persistence.data_seq += 1
        return len(payloads) >= self._count_limit or self._size >= self._size_limit or now_us >= self._send_at_us

    def _attach(self, checkpoint: bytes | None) -> None:
        """Keep the checkpoint of the chunk that is put next; it stands for those of all chunks before, too."""
        if checkpoint is not None:
            self._checkpoint, self._covered = checkpoint, len(self._payloads) + 1

    def _report(self, update: ProgressUpdate) -> "asyncio.Future[None]":
        """The action's progress callback; may be called from any thread."""
        payload = _progress_payload(update)
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._progress(payload)
        else:
            self._loop.call_soon_threadsafe(self._progress, payload)
        return self._reported

    def _progress(self, payload: bytes) -> None:
        """Add a progress chunk to the open batch, or let it replace one that would be its last."""
        if self._ended or self._skipping:
            return
        last = len(self._payloads) - 1
        if last >= 0 and self._progress_at and self._progress_at[-1] == last:
            self._size += len(payload) - len(self._payloads[last])
            self._payloads[last], self._times[last] = payload, self._now_us()
            return
        self._progress_at.append(len(self._payloads))
        self._payloads.append(payload)
        self._times.append(self._now_us())
        self._size += len(payload)
        if len(self._payloads) >= RUN_CHUNKS_MAX or self._size >= RUN_BYTES_MAX:
            self._send()
        else:
            self._send_soon()

    def _send_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send_now)

    def _send_now(self) -> None:
        self._scheduled = False
        self._send()

    def _send(self) -> None:
        """Close the open batch and hand it on. Without credit it holds progress at most, which can wait and be replaced."""
        payloads = self._payloads
        if not payloads or self._credit <= 0 or self._ended:
            return
        batch = Batch(
            self._number,
            payloads,
            self._times,
            self._kinds(),
            [self._content_types.get(at, "") for at in range(len(payloads))] if self._content_types else [],
            self._checkpoint,
            self._covered,
        )
        self._credit -= cost(self._size, len(payloads), self._checkpoint)
        self._payloads, self._times, self._size = [], [], 0
        self._checkpoint, self._covered = None, 0
        if self._progress_at:
            self._progress_at = []
        if self._content_types:
            self._content_types = {}
        self._set_limits()
        self._outlet.batch(batch)

    def _kinds(self) -> bytes:
        if not self._progress_at:
            return b""
        kinds = bytearray(len(self._payloads))
        for at in self._progress_at:
            kinds[at] = _PROGRESS
        return bytes(kinds)

    def _set_limits(self) -> None:
        """How large the open batch may become."""
        self._held = not self._stop and (self._paused or self._credit <= 0)
        if self._stop:
            self._count_limit = 0  # every yield is looked at
        else:
            self._count_limit = max(1, min(RUN_CHUNKS_MAX, self._credit // CHUNK_COST_MIN))
            self._size_limit = max(1, min(RUN_BYTES_MAX, self._credit))

    def _stop_at_yield(self) -> None:
        self._stop = True
        self._let_go()

    def _let_go(self) -> None:
        self._set_limits()
        if not self._held:
            self._released.set()

    async def _go_on(self) -> bool:
        """Wait at a yield; False if the action must end here."""
        while self._held:
            self._released.clear()
            await self._released.wait()
        return not self._stop

    def _finish(self, task: "asyncio.Task[bool]") -> None:
        problem = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._ended:
            return
        self._send()
        self._ended = True
        self._outlet.ended(self._number, self._outcome(problem, task))

    def _outcome(self, problem: BaseException | None, task: "asyncio.Task[bool]") -> CallOutcome:
        asked = self._asked()
        if problem is None:
            stopped = task.result() or self.token.is_cancelled or self._interrupted
            return CallOutcome(ending=asked if stopped and asked else Ending.COMPLETED)
        if asked is not None and (self._interrupted or isinstance(problem, asyncio.CancelledError)):
            return CallOutcome(ending=asked)  # whatever it raised when it was cancelled, it stopped because of that
        if isinstance(problem, asyncio.CancelledError):
            problem = PluginFailed("raised CancelledError although nothing asked it to stop")
        kind = classify(problem)
        if kind is ErrorClass.PLUGIN_BUG:
            _log.warning("%s.%s raised", self._call.plugin, self._call.action, exc_info=problem)
        return CallOutcome(
            ending=Ending.FAILED, error=error_of(problem, self._call.plugin, self._call.action), error_class=kind
        )

    def _asked(self) -> Ending | None:
        """How the call ends if it ends because of what was asked of it."""
        if self.token.is_cancelled:
            return Ending.CANCELLED
        if self._parking:
            return Ending.PARKED
        return Ending.CANCELLED if self._interrupted else None


def error_of(problem: BaseException, plugin: str, action: str) -> dict[str, Any]:
    """What users are told: the known fields of an error, each of bounded size. Whatever a plugin raised that is no error of
    ours is its own failure, with the place in its code."""
    if not isinstance(problem, ApexError):
        problem = PluginFailed(describe_failure(problem), where=f"{plugin}.{action}")
    given: dict[str, Any] = problem.as_dict()
    fields = {name: _shortened(str(given[name])) for name in ("code", "message", "where", "hint") if given.get(name)}
    patience = given.get("retry_after_s")
    return fields if not isinstance(patience, int | float) else {**fields, "retry_after_s": _seconds(patience)}


def _seconds(time_s: float) -> float:
    return min(max(0.0, time_s), PATIENCE_S_MAX) if math.isfinite(time_s) else PATIENCE_S_MAX


def _shortened(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # lone surrogates of file names cannot be sent
    return text if len(text) <= TEXT_CHARS_MAX else text[: TEXT_CHARS_MAX - 1] + "…"


def _params(call: Call) -> dict[str, Any]:
    try:
        return msgspec.json.decode(call.params or b"{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as problem:
        raise InvalidParameters(f"no JSON object: {problem}", where=f"{call.plugin}.{call.action}") from None


def _progress_payload(update: ProgressUpdate) -> bytes:
    if not isinstance(update, ProgressUpdate):
        raise TypeError(f"progress is a ProgressUpdate, not {type(update).__name__}")
    payload, _ = encode_value(update)
    if len(payload) > PROGRESS_BYTES_MAX:
        raise InvalidChunk(
            f"a progress update of {len(payload)} bytes, more than {PROGRESS_BYTES_MAX}", where="progress"
        )
    return payload
