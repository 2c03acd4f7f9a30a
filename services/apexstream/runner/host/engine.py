"""Drives one action: from what its generator yields to batches of chunks, with everything that may happen at a yield.

The same engine runs in a plugin process and in the runner. It knows the plugin and the port's words, and nothing of
sockets, processes or Kafka.
"""

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, Protocol

import msgspec

from apexstream.core.errors import ApexError, InvalidChunk, InvalidParameters, PluginFailed
from apexstream.core.options import ErrorClass
from apexstream.plugin.base import CancellationToken, ProgressUpdate, ResumeMode
from apexstream.plugin.coordination import Coordination
from apexstream.plugin.coordination import enter as enter_coordination
from apexstream.plugin.errors import classify
from apexstream.plugin.iterate import InThread, opened, resolved, threaded
from apexstream.plugin.manager import PluginManager, describe_failure
from apexstream.plugin.persistence import StreamPersistence, enter
from apexstream.plugin.values import Chunk, encode_value
from apexstream.runner.host.batching import OpenBatch
from apexstream.runner.host.blocking import Pulled, Puller, Reported, Yielded
from apexstream.runner.host.frames import PATIENCE_S_MAX, PROGRESS_BYTES_MAX, Batch, shortened
from apexstream.runner.host.port import CREDIT_BYTES, Call, CallOutcome, Ending
from apexstream.runner.host.questions import Questions

SKIPPED_AT_ONCE = 256  # chunks skipped between two turns of the event loop

_log = logging.getLogger(__name__)


class Outlet(Protocol):
    """Where an execution's results go, always from the event loop."""

    def batch(self, batch: Batch) -> bool:
        """The next chunks. False: the execution must wait for :meth:`Execution.go_on` before it sends more."""

    def asked(self, number: int, question: int, data: bytes) -> None:
        """The execution asks something of other tasks; see :meth:`Execution.answer`."""

    def ended(self, number: int, outcome: CallOutcome) -> None:
        """The execution is over; nothing follows."""


class Execution:
    """One call, from :meth:`begin` to its outcome. ``number`` is what its batches carry."""

    task: "asyncio.Task[None]"

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
        self._loop = asyncio.get_running_loop()
        self._persistence = StreamPersistence(task_id=call.task_id, attempt=call.attempt, traceparent=call.traceparent)
        self._to_skip = 0
        self._skipping = False
        self._ended = False
        # What may happen at a yield:
        self._credit = credit
        self._paused = False
        self._crowded = False  # the outlet has no room
        self._parking = False
        self._interrupted = False
        self._stop = False  # at the next yield
        self._at_yield = False  # it was stopped there
        self._held = False  # at a yield: out of credit, paused, or crowded
        self._released = asyncio.Event()
        self._pace = 0.0  # chunks a second; 0: as many as there are
        self._due_s = 0.0  # when the next one may be yielded
        # What was yielded:
        self._batch = OpenBatch(number, now_us)
        self._batch.limit(credit)
        self._scheduled = False
        self._seen = 0  # chunks in the open batch a turn of the event loop ago
        self._puller: Puller | None = None  # of a plain generator
        self._reported: asyncio.Future[None] = self._loop.create_future()
        self._reported.set_result(None)
        self._questions = Questions(lambda question, data: outlet.asked(number, question, data))

    def begin(self) -> None:
        """Start; everything else happens later."""
        self.task = self._loop.create_task(self._run(), name=f"{self._call.plugin}.{self._call.action}")
        self.task.add_done_callback(self._finish)

    def credit(self, amount: int) -> None:
        """The action may yield so much more."""
        self._credit += amount
        self._batch.limit(self._credit)
        self._let_go()
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

    def pace(self, rate: float) -> None:
        """Yield at most ``rate`` chunks a second from now on; 0: as many as there are."""
        self._pace = rate
        self._due_s = min(self._due_s, self._loop.time() + (1 / rate if rate else 0))
        self._released.set()

    def answer(self, question: int, data: bytes) -> None:
        """What a question of the action comes to."""
        self._questions.answer(question, data)

    def go_on(self) -> None:
        """The outlet has room again."""
        self._crowded = False
        self._let_go()
        self._send_soon()

    def abandon(self) -> None:
        """Report nothing more."""
        self._ended = True
        self.interrupt()

    async def _run(self) -> None:
        call = self._call
        try:
            self._prepare()
            params = _params(call)
            enter(self._persistence)
            enter_coordination(Coordination(self._questions.ask, self._persistence))
            result = await resolved(self._plugins.call(call.plugin, call.action, params, self._report, self.token))
            if isinstance(result, Iterator):
                async with threaded(result) as run:
                    self._at_yield = await self._pull(run)
            else:
                async with opened(result) as values:
                    self._at_yield = await self._skip(values) or await self._copy(values)
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
            traceparent=call.traceparent,
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
            if self._stop or (self._paused and not await self._may_go_on()):
                return True
            try:
                await anext(values)
            except StopAsyncIteration:
                raise self._too_few(skipped) from None
            self._persistence.data_seq += 1
            if skipped % SKIPPED_AT_ONCE == SKIPPED_AT_ONCE - 1:
                await asyncio.sleep(0)
        self._skipping = False
        return False

    async def _copy(self, values: AsyncIterator[Any]) -> bool:
        """Put what the action yields into batches; True if stopped at a yield."""
        batch = self._batch
        async for value in values:
            if self._pace and not await self._turn():
                return True
            if self._held and not await self._may_go_on():
                return True
            if batch.put(*self._encode(value)) or self._stop:
                self._send()
                if self._stop:
                    return True
                await asyncio.sleep(0)
                batch.resumed_us = self._now_us()  # what others did meanwhile is not this action's slowness
            elif not self._scheduled:
                self._send_soon()
        return False

    async def _pull(self, run: InThread) -> bool:
        """The same for a plain generator, in its thread."""
        puller = self._puller = Puller(
            self._encode, self._now_us, self._notice, lambda: self._stop or self._held or self._pace > 0
        )
        if await self._skip_pulling(run, puller):
            return True
        pulled = Pulled()
        while not pulled.ended:
            if self._pace and not await self._turn():
                return True
            if self._held and not await self._may_go_on():
                return True
            pulled = await run(puller.pull)
            while puller.items:
                self._send_now()
                if puller.items and not await self._may_go_on():
                    return True
            if pulled.problem is not None:
                raise pulled.problem
            if self._stop:
                return not pulled.ended
        return False

    async def _skip_pulling(self, run: InThread, puller: Puller) -> bool:
        left = self._to_skip
        while left:
            if self._stop or (self._held and not await self._may_go_on()):
                return True
            skipped, ended = await run(partial(puller.skip, count_max=min(left, SKIPPED_AT_ONCE)))
            left -= skipped
            self._persistence.data_seq += skipped
            if ended:
                raise self._too_few(self._to_skip - left)
        self._skipping = False
        return False

    def _too_few(self, count: int) -> PluginFailed:
        return PluginFailed(
            f"gave {count} chunks where an earlier attempt gave at least {self._to_skip}",
            where=f"{self._call.plugin}.{self._call.action}",
            hint='Declare it deterministic only if every run gives the same; else "checkpointed" or "restart"',
        )

    def _encode(self, value: Any) -> tuple[bytes, str, bytes | None]:
        """Payload, content type and checkpoint of a yielded value."""
        payload, content_type = encode_value(value)
        persistence, checkpoint = self._persistence, None
        explicit = value.checkpoint if type(value) is Chunk else None
        if explicit is not None or persistence.has_state:
            checkpoint = persistence.take(explicit)
        persistence.data_seq += 1
        return payload, content_type, checkpoint

    def _report(self, update: ProgressUpdate) -> "asyncio.Future[None]":
        """The action's progress callback; may be called from any thread."""
        payload = _progress_payload(update)
        if self._skipping:
            return self._reported
        if self._puller is not None and self._puller.is_here:
            self._puller.report(payload)
        elif _runs_in(self._loop):
            self._progress(payload, self._now_us())
        else:
            self._loop.call_soon_threadsafe(self._progress, payload, self._now_us())
        return self._reported

    def _progress(self, payload: bytes, time_us: int) -> None:
        if self._ended:
            return
        if self._batch.progress(payload, time_us):
            self._send()
        else:
            self._send_soon()

    def _notice(self) -> None:
        """From the generator's thread: it has yielded something."""
        self._loop.call_soon_threadsafe(self._send_now)

    def _send_soon(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._seen = len(self._batch.payloads)
            self._loop.call_soon(self._send_settled)

    def _send_settled(self) -> None:
        """Send once a turn of the event loop brought nothing more: an action that now and then lets others run fills whole
        batches all the same. What it fills them with is bounded, and so is their age."""
        count = len(self._batch.payloads)
        if count != self._seen and not self._held:
            self._seen = count
            self._loop.call_soon(self._send_settled)
        else:
            self._send_now()

    def _send_now(self) -> None:
        self._scheduled = False
        if self._puller is not None:
            self._take_pulled(self._puller.items)
        self._send()

    def _take_pulled(self, items: "deque[Yielded | Reported]") -> None:
        """As many as there is credit for."""
        batch = self._batch
        while items and self._credit > 0 and not self._crowded:
            item = items.popleft()
            if isinstance(item, Yielded):
                batch.add(item.payload, item.content_type, item.checkpoint, item.time_us)
            else:
                batch.progress(item.payload, item.time_us)
            if batch.full:
                self._send()

    def _send(self) -> None:
        """Close the open batch and hand it on. Without credit or room it is small: nothing is put into it but progress,
        which can wait and be replaced."""
        if not self._batch.payloads or self._credit <= 0 or self._crowded or self._ended:
            return
        batch, cost = self._batch.close()
        self._credit -= cost
        self._batch.limit(self._credit)
        self._crowded = not self._outlet.batch(batch)
        self._hold()

    def _stop_at_yield(self) -> None:
        self._stop = True
        self._let_go()

    def _hold(self) -> None:
        self._held = not self._stop and (self._paused or self._crowded or self._credit <= 0)

    def _let_go(self) -> None:
        self._hold()
        if not self._held:
            self._released.set()

    async def _may_go_on(self) -> bool:
        """Wait at a yield; False if the action must end here."""
        while self._held:
            self._released.clear()
            await self._released.wait()
        return not self._stop

    async def _turn(self) -> bool:
        """Wait until the next chunk may be yielded; False if the action must end here."""
        self._send_soon()
        while self._pace and not self._stop and (wait_s := self._due_s - self._loop.time()) > 0:
            self._released.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._released.wait()
        if self._pace:
            self._due_s = max(self._due_s, self._loop.time()) + 1 / self._pace
        return not self._stop

    def _finish(self, task: "asyncio.Task[None]") -> None:
        problem = asyncio.CancelledError() if task.cancelled() else task.exception()
        if self._ended:
            return
        self._crowded = False  # what is left is small, and the last
        self._send_now()
        self._ended = True
        self._outlet.ended(self._number, self._outcome(problem))

    def _outcome(self, problem: BaseException | None) -> CallOutcome:
        asked = self._asked()
        if problem is None:
            stopped = self._at_yield or self.token.is_cancelled or self._interrupted
            return CallOutcome(ending=asked if stopped and asked else Ending.COMPLETED)
        cancelled = isinstance(problem, asyncio.CancelledError)
        if asked is not None and (self._at_yield or self._interrupted or cancelled):
            if not cancelled:  # it stopped because it was asked to, and stumbled on its way out
                self._log_failure(problem)
            return CallOutcome(ending=asked)
        if cancelled:
            problem = PluginFailed("raised CancelledError although nothing asked it to stop")
        kind = classify(problem)
        if kind is ErrorClass.PLUGIN_BUG:
            self._log_failure(problem)
        error = error_of(problem, self._call.plugin, self._call.action)
        return CallOutcome(ending=Ending.FAILED, error=error, error_class=kind)

    def _log_failure(self, problem: BaseException) -> None:
        _log.warning("%s.%s raised", self._call.plugin, self._call.action, exc_info=problem)

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
    fields = {name: shortened(str(given[name])) for name in ("code", "message", "where", "hint") if given.get(name)}
    patience = given.get("retry_after_s")
    return fields if not isinstance(patience, int | float) else {**fields, "retry_after_s": _seconds(patience)}


def _seconds(time_s: float) -> float:
    return min(max(0.0, time_s), PATIENCE_S_MAX) if math.isfinite(time_s) else PATIENCE_S_MAX


def _runs_in(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


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
