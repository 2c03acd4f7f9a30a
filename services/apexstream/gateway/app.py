"""The HTTP routes, the WebSocket route and the page."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from apexstream.core.errors import ApexError, InvalidRequest
from apexstream.core.events import ControlCommand, ControlVerb, DeadLetter, TaskChange, TaskEvent, TaskSubmitted
from apexstream.core.ids import check_id
from apexstream.core.options import TaskOptions
from apexstream.core.task import TaskState, TaskStatus
from apexstream.core.tiers import Tier
from apexstream.gateway.hub import Hub
from apexstream.gateway.registry import Registry
from apexstream.gateway.viewer import serve_socket
from apexstream.runtime.clock import Clock

BODY_BYTES_MAX = 512 * 1024
LISTED_MAX = 1_000
REASON_CHARACTERS_MAX = 200
_STATUS = {
    "bad_request": 400,
    "unknown_action": 404,
    "unknown_task": 404,
    "conflict": 409,
    "too_large": 413,
    "invalid_parameters": 422,
    "unavailable": 503,
    "outcome_unknown": 503,
}
_SECURITY = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

Publish = Callable[[str, str, Any], Awaitable[object]]
"""Appends an event to the named topic (without prefix), keyed by task id; returns once acknowledged."""


class TooLarge(InvalidRequest):
    """The request's body is over ``BODY_BYTES_MAX``."""

    code = "too_large"


class Conflict(ApexError):
    """The request does not fit the state that the task is in."""

    code = "conflict"


class SubmitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /tasks``."""

    plugin: str
    action: str
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    tier: Tier = Tier.NORMAL
    task_id: str = ""
    options: TaskOptions = TaskOptions()


class Gateway:
    """The handlers, and what they need."""

    def __init__(
        self,
        *,
        registry: Registry,
        hub: Hub,
        publish: Publish,
        clock: Clock,
        new_task_id: Callable[[], str],
        name: str,
        is_ready: Callable[[], str],
    ) -> None:
        self._registry = registry
        self._hub = hub
        self._publish = publish
        self._clock = clock
        self._new_task_id = new_task_id
        self._name = name
        self._is_ready = is_ready

    def app(self, page: Path | None) -> Starlette:
        """The ASGI application; ``page`` is the folder of the built page."""
        routes: list[BaseRoute] = [
            Route("/actions", self.actions),
            Route("/tasks", self.submit, methods=["POST"]),
            Route("/tasks", self.tasks),
            Route("/tasks/{task_id}", self.task),
            Route("/tasks/{task_id}", self.cancel, methods=["DELETE"]),
            Route("/tasks/{task_id}/pause", self.pause, methods=["POST"]),
            Route("/tasks/{task_id}/resume", self.resume, methods=["POST"]),
            Route("/streams/{task_id}", self.forget, methods=["DELETE"]),
            Route("/dead-letters", self.dead_letters),
            Route("/dead-letters/{task_id}/retry", self.retry, methods=["POST"]),
            Route("/livez", self.live),
            Route("/readyz", self.ready),
            WebSocketRoute("/stream", self.stream),
        ]
        if page is not None:
            routes.append(Mount("/", _Page(directory=page, html=True)))
        return Starlette(
            routes=routes, exception_handlers={ApexError: _refuse, HTTPException: _refuse_http, 500: _failed}
        )

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
        return _json({"actions": actions, "broken_plugins": self._registry.broken_plugins(), "runners": runners})

    async def submit(self, request: Request) -> Response:
        """``POST /tasks``: accepted once it is durable. The same ``task_id`` again gives the task that exists."""
        wanted = _read(await _body(request), SubmitRequest)
        task_id = check_id(wanted.task_id, "task_id") if wanted.task_id else self._new_task_id()
        if self._registry.since_ms(task_id) is not None:
            return _task(self._registry.task(task_id), 200)
        return await self._accept(wanted, task_id)

    async def _accept(self, wanted: SubmitRequest, task_id: str) -> Response:
        self._registry.check(wanted.plugin, wanted.action, wanted.params)
        task = TaskSubmitted(
            task_id=task_id,
            plugin=wanted.plugin,
            action=wanted.action,
            params=msgspec.json.encode(wanted.params),
            tier=wanted.tier,
            submitted_us=self._clock.now_us(),
            options=msgspec.json.encode(wanted.options),
        )
        await self._publish(f"tasks.{task.tier}", task_id, task)
        return _task(self._registry.submitted(task, task.submitted_us // 1000), 202)

    async def tasks(self, request: Request) -> Response:
        """``GET /tasks``: the newest tasks."""
        limit = request.query_params.get("limit", "50")
        if not limit.isdigit() or not 1 <= int(limit) <= LISTED_MAX:
            raise InvalidRequest(f"{limit!r} is not a number from 1 to {LISTED_MAX}", where="limit")
        return _json({"tasks": [_shown(state) for state in self._registry.recent(int(limit))]})

    async def task(self, request: Request) -> Response:
        """``GET /tasks/{id}``."""
        return _task(self._registry.task(_task_id(request)), 200)

    async def cancel(self, request: Request) -> Response:
        """``DELETE /tasks/{id}``: ask for the task to be cancelled. Its stream ends with the receipt."""
        task_id = _task_id(request)
        state = self._registry.task(task_id)
        if state.status.final:
            return _task(state, 200)
        reason = request.query_params.get("reason", "cancelled by request")[:REASON_CHARACTERS_MAX]
        now = await self._command(task_id, ControlVerb.CANCEL, reason)
        event = TaskEvent(
            task_id=task_id,
            change=TaskChange.CANCEL_REQUESTED,
            at_us=now,
            attempt=state.attempt,
            by=self._name,
            reason=reason,
        )
        await self._publish("task-events", task_id, event)
        return _json({**_shown(state), "status": TaskStatus.CANCELLING, "reason": reason}, 202)

    async def pause(self, request: Request) -> Response:
        """``POST /tasks/{id}/pause``: hold a running task at its next yield."""
        return await self._ask(request, ControlVerb.PAUSE)

    async def resume(self, request: Request) -> Response:
        """``POST /tasks/{id}/resume``: let a paused task go on."""
        return await self._ask(request, ControlVerb.RESUME)

    async def forget(self, request: Request) -> Response:
        """``DELETE /streams/{id}``: erase the stream of a task that has ended. The archiver does it; reading it then says so."""
        state = self._registry.task(_task_id(request))
        if not state.status.final:
            raise Conflict(
                f"the task is {state.status}", where=state.task_id, hint="Cancel it first, or wait for its end"
            )
        await self._command(state.task_id, ControlVerb.FORGET, "asked to forget")
        return _task(state, 202)

    async def dead_letters(self, _: Request) -> Response:
        """``GET /dead-letters``: tasks that failed for good, newest first."""
        return _json({"dead_letters": [_letter(letter) for letter in self._registry.dead_letters()]})

    async def retry(self, request: Request) -> Response:
        """``POST /dead-letters/{id}/retry``: submit the same task under a new id, and take the letter out."""
        letter = self._registry.dead_letter(_task_id(request))
        answer = await self._accept(
            SubmitRequest(
                plugin=letter.plugin,
                action=letter.action,
                params=msgspec.json.decode(letter.params or b"{}"),
                tier=letter.tier,
                options=msgspec.json.decode(letter.options or b"{}", type=TaskOptions),
            ),
            self._new_task_id(),
        )
        await self._publish("dead-letters", letter.task_id, None)
        return answer

    async def _ask(self, request: Request, verb: ControlVerb) -> Response:
        state = self._registry.task(_task_id(request))
        if state.status.final:
            raise Conflict(f"the task is {state.status}", where=state.task_id, hint="It has ended")
        await self._command(state.task_id, verb, "")
        return _task(state, 202)

    async def _command(self, task_id: str, verb: ControlVerb, reason: str) -> int:
        now = self._clock.now_us()
        await self._publish("control", task_id, ControlCommand(task_id=task_id, verb=verb, at_us=now, reason=reason))
        return now

    async def live(self, _: Request) -> Response:
        """``GET /livez``: the event loop answers."""
        return _json({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """``GET /readyz``: 503 with the reason while tasks cannot be taken or streams not be relayed."""
        problem = self._is_ready()
        return _json({"status": problem or "ok"}, 503 if problem else 200)

    async def stream(self, websocket: WebSocket) -> None:
        """The WebSocket at ``/stream``."""
        await serve_socket(websocket, self._hub)


class _Page(StaticFiles):
    """The built page, under a policy that lets it load nothing from elsewhere."""

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_SECURITY)
        hashed = path.startswith("assets/")  # Vite puts the content's hash into these names
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if hashed else "no-cache"
        return response


def _task_id(request: Request) -> str:
    return check_id(str(request.path_params["task_id"]), "task_id")


def _shown(state: TaskState) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.structs.asdict(state)
    if bytes(state.error) == b"null":
        del shown["error"]
    return {**shown, "stream_id": state.task_id}


def _letter(letter: DeadLetter) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.structs.asdict(letter)
    return shown | {name: msgspec.Raw(shown[name] or b"null") for name in ("params", "options", "error")}


def _task(state: TaskState, status: int) -> Response:
    return _json(_shown(state), status)


def _json(content: Any, status: int = 200) -> Response:
    return Response(
        msgspec.json.encode(content), status, {"x-content-type-options": "nosniff"}, media_type="application/json"
    )


def _read(body: bytes, kind: type[SubmitRequest]) -> SubmitRequest:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as problem:
        raise InvalidRequest(str(problem), where="body") from None


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise TooLarge(
                f"the body is over {BODY_BYTES_MAX} bytes", where="body", hint="Pass large input by reference"
            )
        parts.append(part)
    return b"".join(parts)


async def _refuse(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, ApexError)  # noqa: S101 - how it was registered
    return _json({"error": problem.as_dict()}, _STATUS.get(problem.code, 500))


async def _refuse_http(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)  # noqa: S101 - how it was registered
    codes = {404: "not_found", 405: "method_not_allowed"}
    error = {"code": codes.get(problem.status_code, "bad_request"), "message": problem.detail}
    return _json({"error": error}, problem.status_code)


async def _failed(_: Request, __: Exception) -> Response:
    return _json({"error": {"code": "internal", "message": "the gateway failed; its log says why"}}, 500)
