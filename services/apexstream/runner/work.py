"""One assigned task in the runner's hands: attempt after attempt, until its stream is closed or its partition has moved."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import msgspec
import structlog
from opentelemetry.trace import SpanKind

from apexstream.core.errors import ApexError, Unavailable
from apexstream.core.events import TaskChange, TaskSubmitted
from apexstream.core.options import TaskOptions
from apexstream.runner.attempt import CLAIM_TRIES_MAX, Attempt, Ended, Failed, Parked, Place
from apexstream.runner.measures import ActionMeasures
from apexstream.runner.retries import Again, GiveUp, RetryBudget, after_failure
from apexstream.runtime import tracing

UNAVAILABLE_DELAY_S = 0.5  # after the log could not be written or read; doubles up to …
UNAVAILABLE_DELAY_MAX_S = 5.0

_log = structlog.get_logger(__name__)

Tell = Callable[..., Awaitable[None]]
"""``tell(change, attempt, reason=…, detail=…)``: publishes a task event, returns once it is acknowledged."""

ON_REQUEST = b'{"by":"request"}'  # the detail of a parked event that gives the task back to the dispatcher


class Probe(Protocol):
    """Reads how often a stream was claimed and whether it is closed, before it is claimed again."""

    async def __call__(self, task: TaskSubmitted) -> int:
        """The highest attempt that claimed the stream; 0 if none did."""


class HandedBack:
    """The last owner of this assignment had given its task back: nothing is left to do here."""


class Work:
    """A task from its assignment to the end of its stream, or to the moment that somebody else goes on with it."""

    def __init__(
        self,
        task: TaskSubmitted,
        *,
        make_attempt: Callable[[TaskSubmitted, TaskOptions], Attempt],
        options: TaskOptions,
        tell: Tell,
        last_attempt: Probe,
        handed_back: Callable[[], Awaitable[bool]],
        budget: RetryBudget,
        measures: ActionMeasures,
        dead_letter: Callable[[Failed, str], Awaitable[None]],
    ) -> None:
        self.task = task
        self._make_attempt = make_attempt
        self._options = options
        self._tell = tell
        self._last_attempt = last_attempt
        self._handed_back = handed_back
        self._budget = budget
        self._measures = measures
        self._dead_letter = dead_letter
        self._attempt: Attempt | None = None
        self._cancel_reason: str | None = None
        self._parking = False
        self._giving_back = ""  # why, if the dispatcher asked for it
        self._taken_over = False
        self._paused = False
        self._hurry = asyncio.Event()
        self._number = 0
        self._failures = 0

    def cancel(self, reason: str) -> None:
        """End the task as cancelled, whatever it is doing."""
        self._cancel_reason = reason
        self._hurry.set()
        if self._attempt is not None:
            self._attempt.cancel(reason)

    def park(self) -> None:
        """Let go of the task at its next yield; its stream stays open for the next owner of its partition."""
        self._giving_back = ""  # the assignment is the next owner's, who goes on with it
        self._stop()

    def give_back(self, reason: str) -> None:
        """Let go of the task at its next yield, for the dispatcher to give out again."""
        if not self._parking and self._cancel_reason is None:
            self._giving_back = reason or "asked to"
            self._stop()

    def _stop(self) -> None:
        self._parking = True
        self._hurry.set()
        if self._attempt is not None:
            self._attempt.park()

    def press(self, reader: str, pressure: float) -> None:
        """A reader of the stream says how far it is behind."""
        if self._attempt is not None:
            self._attempt.press(reader, pressure)

    async def pause(self, paused: bool) -> None:
        """Hold the action at its next yield, or let it go on."""
        if self._attempt is not None and paused is not self._paused:
            self._paused = paused
            self._attempt.pause(paused)
            await self._tell(TaskChange.PAUSED if paused else TaskChange.RESUMED, self._number)

    async def run(self, attempt: int, *, fresh: bool) -> bool:
        """Until the stream is closed (True: never to be done again) or the task is let go (False)."""
        self._number = attempt
        self._taken_over = not fresh
        self._budget.started()
        delays = _delays()
        while True:
            try:
                with tracing.span(
                    f"{self.task.plugin}.{self.task.action}",
                    self.task.traceparent,
                    kind=SpanKind.CONSUMER,
                    task=self.task.task_id,
                    attempt=self._number,
                ):
                    outcome = await self._try(fresh=fresh)
                delays = _delays()
                if isinstance(outcome, Ended):
                    self._measures.ended(outcome.change.value)
                    await self._tell(outcome.change, outcome.attempt, reason=outcome.reason, detail=outcome.error)
                    return True
                if isinstance(outcome, Parked):
                    self._measures.ended("parked")
                    return await self._parked(outcome)
                if isinstance(outcome, HandedBack):
                    await self._tell(TaskChange.PARKED, self._number, reason="it had been given back already")
                    return True
            except Unavailable as problem:
                _log.warning("attempt broken off", task=self.task.task_id, attempt=self._number, error=str(problem))
                if self._parking and not self._giving_back:
                    return False
                if self._giving_back:
                    self._hurry.clear()
                await self._wait(next(delays))
            fresh = False

    async def give_up(self, problem: Exception) -> None:
        """Say that the task failed although its stream could not be closed: its log cannot be read, for instance."""
        error = problem.as_dict() if isinstance(problem, ApexError) else {"code": "internal", "message": repr(problem)}
        try:
            await self._tell(TaskChange.FAILED, self._number, reason=str(problem), detail=msgspec.json.encode(error))
        except Unavailable as unsaid:
            _log.error("could not even say so", task=self.task.task_id, error=str(unsaid))

    async def _parked(self, parked: Parked) -> bool:
        """Say that the task is let go, and to whom: to the dispatcher, with which its assignment is finished, or to the next
        owner of its partition."""
        reason = self._giving_back
        if not reason:
            await self._tell(TaskChange.PARKED, parked.attempt, reason="another runner goes on with it")
            return False
        await self._tell(TaskChange.PARKED, parked.attempt, reason=reason, detail=ON_REQUEST)
        return True

    async def _try(self, *, fresh: bool) -> Ended | Parked | Failed | HandedBack:
        """One attempt. ``Failed`` means that another one follows, after the pause that was made here."""
        attempt = self._attempt = self._make_attempt(self.task, self._options)
        if self._cancel_reason is not None:
            attempt.cancel(self._cancel_reason)
        if self._paused:
            attempt.pause(True)
        if fresh:
            outcome = await self._run_first(attempt)
        else:
            began = await self._claim(attempt)
            if isinstance(began, Ended | HandedBack):
                return began
            attempt.resume(began)
            if self._parking:
                attempt.park()
            outcome = await attempt.run(began)
        return await self._failed(attempt, outcome) if isinstance(outcome, Failed) else outcome

    async def _run_first(self, attempt: Attempt) -> Ended | Failed | Parked:
        place = attempt.first(self._number)
        telling = asyncio.ensure_future(self._tell_begun(attempt))
        try:
            return await attempt.run(place)
        finally:
            await telling

    async def _tell_begun(self, attempt: Attempt) -> None:
        await attempt.begun()
        await self._tell(TaskChange.STARTED, self._number)

    async def _claim(self, attempt: Attempt) -> Place | Ended | HandedBack:
        """Take the stream over. The started event comes before the claim: whatever an older attempt still reports after the
        claim made its records dead then lies behind this event, and counts for nothing. A report that lies before it counts:
        if the last owner gave the task back and died before it could commit, the dispatcher has it, and not this runner."""
        self._number = max(self._number, await self._last_attempt(self.task) + 1)
        for _ in range(CLAIM_TRIES_MAX):
            await self._tell(TaskChange.STARTED, self._number)
            if self._taken_over and await self._handed_back():
                return HandedBack()
            self._taken_over = False
            began = await attempt.claim(self._number)
            if began is not None:
                return began
            self._number += 1
        raise Unavailable(f"lost {CLAIM_TRIES_MAX} claims to other writers", where=self.task.task_id)

    async def _failed(self, attempt: Attempt, failed: Failed) -> Ended | Failed | Parked:
        self._failures += 1
        self._measures.failed(failed.error_class)
        decision = after_failure(
            self._options,
            failed.error_class,
            failures=self._failures,
            attempt=failed.attempt,
            chance=random.random(),  # noqa: S311 - jitter
            retry_after_s=float(failed.error.get("retry_after_s", 0.0)),
        )
        if isinstance(decision, Again) and self._parking:
            return Parked(attempt=failed.attempt)
        if isinstance(decision, Again) and self._budget.spend():
            why = f"{failed.error_class}: {failed.error.get('message', '')}; again in {decision.delay_s:.1f} s"
            self._measures.retries.value += 1
            await self._tell(TaskChange.RETRYING, failed.attempt, reason=why)
            await self._wait(decision.delay_s)
            return failed
        reason = decision.reason if isinstance(decision, GiveUp) else "the action's retry budget is spent"
        # The letter first: after the end of the stream nobody would come back to write it.
        await self._dead_letter(failed, reason)
        self._measures.buried(failed.error_class)
        return await attempt.fail_for_good(failed, reason)

    async def _wait(self, delay_s: float) -> None:
        """A pause between attempts, cut short when the task is cancelled or let go."""
        if self._cancel_reason is not None:
            return
        try:
            async with asyncio.timeout(delay_s):
                await self._hurry.wait()
        except TimeoutError:
            return


def _delays() -> Iterator[float]:
    """Pauses that double up to a bound, each drawn from its upper half so that tasks do not come back together."""
    delay_s = UNAVAILABLE_DELAY_S
    while True:
        yield delay_s * (0.5 + random.random() / 2)  # noqa: S311 - spreads load, guards nothing
        delay_s = min(delay_s * 2, UNAVAILABLE_DELAY_MAX_S)
