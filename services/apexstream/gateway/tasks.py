"""HTTP: what can be run, tasks, and tasks that failed for good."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from apexstream.core.errors import InvalidRequest
from apexstream.core.events import ControlVerb, DeadLetter
from apexstream.core.ids import check_id
from apexstream.core.options import TaskOptions
from apexstream.core.task import TaskState, TaskStatus
from apexstream.gateway.answers import answer, parse, read_body
from apexstream.gateway.control import Control
from apexstream.gateway.parts import Parts
from apexstream.gateway.submissions import Submissions, SubmitRequest

LISTED_MAX = 1_000


class Tasks:
    """The handlers."""

    def __init__(self, parts: Parts, control: Control, submissions: Submissions) -> None:
        self._registry = parts.registry
        self._publish = parts.publish
        self._clock = parts.clock
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
        return answer({"actions": actions, "broken_plugins": self._registry.broken_plugins(), "runners": runners})

    async def submit(self, request: Request) -> Response:
        """``POST /tasks``: accepted once it is durable. The same ``task_id`` again gives the task that exists."""
        state, is_new = await self._submissions.submit(parse(await read_body(request), SubmitRequest))
        return _task(state, 202 if is_new else 200)

    async def tasks(self, request: Request) -> Response:
        """``GET /tasks``: the newest tasks."""
        limit = request.query_params.get("limit", "50")
        if not limit.isdigit() or not 1 <= int(limit) <= LISTED_MAX:
            raise InvalidRequest(f"{limit!r} is not a number from 1 to {LISTED_MAX}", where="limit")
        return answer({"tasks": [shown(state) for state in self._registry.recent(int(limit))]})

    async def task(self, request: Request) -> Response:
        """``GET /tasks/{id}``."""
        return _task(self._registry.task(path_id(request)), 200)

    async def cancel(self, request: Request) -> Response:
        """``DELETE /tasks/{id}``: ask for the task to be cancelled. Its stream ends with the receipt."""
        reason = request.query_params.get("reason", "cancelled by request")
        state, asked = await self._control.cancel(path_id(request), reason)
        if not asked:
            return _task(state, 200)
        return answer({**shown(state), "status": TaskStatus.CANCELLING, "reason": reason}, 202)

    async def pause(self, request: Request) -> Response:
        """``POST /tasks/{id}/pause``: hold a running task at its next yield."""
        return _task(await self._control.ask(path_id(request), ControlVerb.PAUSE), 202)

    async def resume(self, request: Request) -> Response:
        """``POST /tasks/{id}/resume``: let a paused task go on."""
        return _task(await self._control.ask(path_id(request), ControlVerb.RESUME), 202)

    async def dead_letters(self, _: Request) -> Response:
        """``GET /dead-letters``: tasks that failed for good, newest first."""
        return answer({"dead_letters": [_letter(letter) for letter in self._registry.dead_letters()]})

    async def retry(self, request: Request) -> Response:
        """``POST /dead-letters/{id}/retry``: submit the same task under a new id, and take the letter out."""
        letter = self._registry.dead_letter(path_id(request))
        wanted = SubmitRequest(
            plugin=letter.plugin,
            action=letter.action,
            params=msgspec.json.decode(letter.params or b"{}"),
            tier=letter.tier,
            options=msgspec.json.decode(letter.options or b"{}", type=TaskOptions),
        )
        state, _ = await self._submissions.submit(wanted)
        await self._publish("dead-letters", letter.task_id, None)
        return _task(state, 202)


def path_id(request: Request) -> str:
    """The task that a path names."""
    return check_id(str(request.path_params["task_id"]), "task_id")


def shown(state: TaskState) -> dict[str, Any]:
    """A task as users see it."""
    shown: dict[str, Any] = msgspec.structs.asdict(state)
    if bytes(state.error) == b"null":
        del shown["error"]
    return {**shown, "stream_id": state.task_id}


def _letter(letter: DeadLetter) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.structs.asdict(letter)
    return shown | {name: msgspec.Raw(shown[name] or b"null") for name in ("params", "options", "error")}


def _task(state: TaskState, status: int) -> Response:
    return answer(shown(state), status)
