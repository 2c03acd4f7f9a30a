"""HTTP: what can be run, tasks, and tasks that failed for good."""

import re
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from apexstream.client.model import DeadLetter as DeadLetterShown
from apexstream.client.model import Offer, Task
from apexstream.core.errors import InvalidRequest
from apexstream.core.events import ControlVerb, DeadLetter
from apexstream.core.ids import check_id
from apexstream.core.options import TaskOptions
from apexstream.core.scheduling import Scheduling, scheduling_or_nothing
from apexstream.core.task import TaskState, TaskStatus
from apexstream.gateway.access import Principal, Verb, principal_of
from apexstream.gateway.answers import answer, parse, read_body
from apexstream.gateway.control import Control
from apexstream.gateway.openapi import operation
from apexstream.gateway.parts import Parts
from apexstream.gateway.submissions import Submissions, SubmitRequest
from apexstream.runtime import tracing

LISTED_MAX = 1_000
LIMIT = {"type": "integer", "minimum": 1, "maximum": LISTED_MAX, "default": 50}
REASON = {"type": "string"}
TRACE_ID = re.compile("[0-9a-f]{32}")
TRACE = {"type": "string", "pattern": f"^{TRACE_ID.pattern}$"}


class Listed(msgspec.Struct, frozen=True):
    """What ``GET /tasks`` answers."""

    tasks: list[Task]


class Letters(msgspec.Struct, frozen=True):
    """What ``GET /dead-letters`` answers."""

    dead_letters: list[DeadLetterShown]


class Tasks:
    """The handlers."""

    def __init__(self, parts: Parts, control: Control, submissions: Submissions) -> None:
        self._registry = parts.registry
        self._publish = parts.publish
        self._clock = parts.clock
        self._tiers = parts.tiers
        self._control = control
        self._submissions = submissions

    def routes(self) -> list[BaseRoute]:
        """Where they are."""
        return [
            Route("/actions", self.actions),
            Route("/tasks", self.submit, methods=["POST"]),
            Route("/tasks", self.tasks),
            Route("/tasks/{task_id}", self.task),
            Route("/tasks/{task_id}", self.cancel, methods=["DELETE"]),
            Route("/tasks/{task_id}/pause", self.pause, methods=["POST"]),
            Route("/tasks/{task_id}/resume", self.resume, methods=["POST"]),
            Route("/dead-letters", self.dead_letters),
            Route("/dead-letters/{task_id}/retry", self.retry, methods=["POST"]),
        ]

    @operation({200: Offer})
    async def actions(self, _: Request) -> Response:
        """``GET /actions``: what can be run."""
        actions = [
            {
                "plugin": info.plugin,
                "action": info.action,
                "summary": info.summary,
                "streams": info.streams,
                "params_schema": msgspec.Raw(info.params_schema),
            }
            for _, info in sorted(self._registry.actions().items())
        ]
        runners = len(self._registry.runners(self._clock.now_us()))
        return answer(
            {
                "actions": actions,
                "broken_plugins": self._registry.broken_plugins(),
                "runners": runners,
                "tiers": self._tiers.names,
                "default_tier": self._tiers.default,
            }
        )

    @operation({202: Task, 200: Task}, body=SubmitRequest, refusals=(400, 404, 409, 413, 422))
    async def submit(self, request: Request) -> Response:
        """``POST /tasks``: accepted once it is durable. The same ``task_id`` again gives the task that exists."""
        principal = principal_of(request)
        principal.require(Verb.SUBMIT)
        state, is_new = await self._submissions.submit(parse(await read_body(request), SubmitRequest), principal)
        return _task(state, 202 if is_new else 200)

    @operation({200: Listed}, query={"limit": LIMIT, "trace": TRACE}, refusals=(400,))
    async def tasks(self, request: Request) -> Response:
        """``GET /tasks``: the newest tasks; with ``trace``, those of a trace."""
        principal = principal_of(request)
        principal.require(Verb.READ)
        limit = request.query_params.get("limit", "50")
        if not limit.isdigit() or not 1 <= int(limit) <= LISTED_MAX:
            raise InvalidRequest(f"{limit!r} is not a number from 1 to {LISTED_MAX}", where="limit")
        trace = request.query_params.get("trace")
        if trace is not None and not TRACE_ID.fullmatch(trace):
            raise InvalidRequest(f"{trace[:40]!r} is not a trace's id", where="trace", hint="32 of 0-9 a-f")

        def wanted(name: str) -> bool:
            of_trace = trace is None or tracing.trace_id_of(self._registry.traceparent_of(name)) == trace
            return of_trace and principal.may(Verb.READ, name)

        recent = self._registry.recent(int(limit), principal.tenant, wanted)
        return answer({"tasks": [shown(state) for state in recent]})

    @operation({200: Task}, refusals=(400, 404))
    async def task(self, request: Request) -> Response:
        """``GET /tasks/{id}``: a task as it stands."""
        return _task(self._registry.task(*allowed(request, Verb.READ)), 200)

    @operation({202: Task, 200: Task}, query={"reason": REASON}, refusals=(400, 404))
    async def cancel(self, request: Request) -> Response:
        """``DELETE /tasks/{id}``: ask for the task to be cancelled. Its stream ends with the receipt."""
        reason = request.query_params.get("reason", "cancelled by request")
        task_id, tenant = allowed(request, Verb.CONTROL)
        state, asked = await self._control.cancel(task_id, reason, tenant)
        if not asked:
            return _task(state, 200)
        return answer({**shown(state), "status": TaskStatus.CANCELLING, "reason": reason}, 202)

    @operation({202: Task}, refusals=(400, 404, 409))
    async def pause(self, request: Request) -> Response:
        """``POST /tasks/{id}/pause``: hold a running task at its next yield."""
        task_id, tenant = allowed(request, Verb.CONTROL)
        return _task(await self._control.ask(task_id, ControlVerb.PAUSE, tenant), 202)

    @operation({202: Task}, refusals=(400, 404, 409))
    async def resume(self, request: Request) -> Response:
        """``POST /tasks/{id}/resume``: let a paused task go on."""
        task_id, tenant = allowed(request, Verb.CONTROL)
        return _task(await self._control.ask(task_id, ControlVerb.RESUME, tenant), 202)

    @operation({200: Letters})
    async def dead_letters(self, request: Request) -> Response:
        """``GET /dead-letters``: tasks that failed for good, newest first."""
        principal = principal_of(request)
        principal.require(Verb.OPERATE)
        letters = self._registry.dead_letters(principal.tenant)
        return answer({"dead_letters": [_letter(letter) for letter in letters]})

    @operation({202: Task}, refusals=(400, 404, 422))
    async def retry(self, request: Request) -> Response:
        """``POST /dead-letters/{id}/retry``: submit the same task under a new id, and take the letter out."""
        principal = principal_of(request)
        letter = self._registry.dead_letter(*allowed(request, Verb.OPERATE))
        wanted = SubmitRequest(
            plugin=letter.plugin,
            action=letter.action,
            params=msgspec.json.decode(letter.params or b"{}"),
            tier=self._tiers.served(letter.tier),
            options=msgspec.json.decode(letter.options or b"{}", type=TaskOptions),
            scheduling=self._scheduling_of(letter, principal),
        )
        state, _ = await self._submissions.submit(wanted, principal)
        await self._publish("dead-letters", letter.task_id, None)
        return _task(state, 202)

    def _scheduling_of(self, letter: DeadLetter, principal: Principal) -> Scheduling:
        """What the task asked for. It had begun, so what it came after has ended; what of that is forgotten is left out."""
        facts = scheduling_or_nothing(letter.scheduling)
        after = tuple(each for each in facts.after if self._submissions.is_known(each, principal))
        return msgspec.structs.replace(facts, after=after)


def path_id(request: Request) -> str:
    """The task that a path names."""
    return check_id(str(request.path_params["task_id"]), "task_id")


def allowed(request: Request, verb: Verb) -> tuple[str, str]:
    """The task that a path names, and the tenant of whoever may do this to it. Raises :class:`Forbidden`."""
    task_id, principal = path_id(request), principal_of(request)
    principal.require(verb, task_id)
    return task_id, principal.tenant


def shown(state: TaskState) -> dict[str, Any]:
    """A task as users see it."""
    shown: dict[str, Any] = msgspec.structs.asdict(state)
    if bytes(state.error) == b"null":
        del shown["error"]
    return {**shown, "stream_id": state.task_id}


def _letter(letter: DeadLetter) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.structs.asdict(letter)
    return shown | {name: msgspec.Raw(shown[name] or b"null") for name in ("params", "options", "error", "scheduling")}


def _task(state: TaskState, status: int) -> Response:
    return answer(shown(state), status)
