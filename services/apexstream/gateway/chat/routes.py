"""HTTP: a chat's message runs an action, and the answer is its stream. See ``schemas/gateway/PROTOCOL.md``, "Chats"."""

from hashlib import sha256
from typing import Annotated, Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from apexstream.core.errors import InvalidRequest, UnknownTask
from apexstream.core.ids import check_id
from apexstream.core.scheduling import Scheduling
from apexstream.core.task import TaskState
from apexstream.gateway.access import Principal, Verb, principal_of
from apexstream.gateway.answers import parse, read_body
from apexstream.gateway.chat.ag_ui import AgUi
from apexstream.gateway.chat.dialect import Dialect
from apexstream.gateway.chat.telling import answer
from apexstream.gateway.chat.ui_messages import UiMessages
from apexstream.gateway.openapi import operation
from apexstream.gateway.parts import Parts
from apexstream.gateway.streamed import AS_EVENTS, HEADERS
from apexstream.gateway.submissions import Submissions, SubmitRequest
from apexstream.gateway.tasks import path_id

ID_CHARACTERS_MAX: Final = 256
_CHAT_OWN = frozenset({"id", "trigger", "messageId"})  # all else in a chat's body are parameters of the action
_NAME = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_CHARACTERS_MAX)]
_READING = (400, 404, 410)
_SUBMITTING = (400, 404, 409, 410, 413, 422)
_CHAT_ID = {"type": "string", "minLength": 1, "maxLength": ID_CHARACTERS_MAX, "pattern": "^[^/]+$"}


class ChatRequest(msgspec.Struct, frozen=True):
    """What ``useChat`` posts; all else in it are parameters of the action."""

    messages: list[Any]
    id: _NAME | msgspec.UnsetType = msgspec.UNSET
    trigger: Any = "submit-message"


class RunAgentInput(msgspec.Struct, frozen=True, rename="camel"):
    """What ``HttpAgent`` posts. Newer versions may send more."""

    thread_id: _NAME
    run_id: _NAME
    messages: list[Any] = []
    state: Any = None
    tools: list[Any] = []
    context: list[Any] = []
    forwarded_props: Any = None


class Chats:
    """The handlers."""

    def __init__(self, parts: Parts, submissions: Submissions) -> None:
        self._parts = parts
        self._submissions = submissions

    def routes(self) -> list[BaseRoute]:
        """Where they are."""
        return [
            Route("/chat/{plugin}/{action}", self.chat, methods=["POST"]),
            Route("/chat/{plugin}/{action}/{chat_id}/stream", self.resume, name="resume_chat"),
            Route("/ag-ui/{plugin}/{action}", self.run, methods=["POST"], name="run_agent"),
            Route("/streams/{task_id}/ui-messages", self.ui_messages),
            Route("/streams/{task_id}/ag-ui", self.ag_ui),
        ]

    @operation({200: AS_EVENTS}, body=ChatRequest, refusals=_SUBMITTING)
    async def chat(self, request: Request) -> Response:
        """``POST /chat/{plugin}/{action}``: what ``useChat`` sends becomes a task, and its stream the answer.

        The same message of the same chat is the same task, however often it is sent; regenerating is a task of its own.
        """
        principal_of(request).require(Verb.SUBMIT)
        body = await read_body(request)
        params = {name: value for name, value in parse(body, dict[str, Any]).items() if name not in _CHAT_OWN}
        asked = parse(body, ChatRequest)
        chat_id, messages = asked.id or "", asked.messages
        newest = messages[-1].get("id", "") if messages and isinstance(messages[-1], dict) else ""
        repeatable = chat_id and newest and asked.trigger == "submit-message"
        key = [chat_id, newest, len(messages)] if repeatable else []
        principal = principal_of(request)
        labels = (_hashed("chat-", principal.home, *_action(request), chat_id),) if chat_id else ()
        task_id = await self._submit(request, params, key=key, labels=labels)
        return await self._told(task_id, principal, UiMessages(task_id))

    @operation(
        {200: AS_EVENTS, 204: None},
        path={"chat_id": _CHAT_ID},
        query={"startIndex": {"type": "integer"}},
        refusals=_READING,
    )
    async def resume(self, request: Request) -> Response:
        """``GET /chat/{plugin}/{action}/{chat_id}/stream``: the chat's answer that is being written, from its beginning; 204 if
        there is none. With ``startIndex`` the id is that of an answer, of which the reader has so many events."""
        principal, chat_id = principal_of(request), str(request.path_params["chat_id"])
        if (known := request.query_params.get("startIndex")) is not None:
            self._check_readable(check_id(chat_id, "chat_id"), principal)
            return await self._told(chat_id, principal, UiMessages(chat_id, _count(known)))
        principal.require(Verb.READ)
        newest = self._newest(_hashed("chat-", principal.home, *_action(request), chat_id), principal)
        if newest is None or newest.status.final:
            return Response(None, 204, HEADERS)
        principal.require(Verb.READ, newest.task_id)
        return await self._told(newest.task_id, principal, UiMessages(newest.task_id))

    @operation({200: AS_EVENTS}, body=RunAgentInput, refusals=_SUBMITTING)
    async def run(self, request: Request) -> Response:
        """``POST /ag-ui/{plugin}/{action}``: a run of an agent is a task. The same run of the same thread is the same task."""
        principal_of(request).require(Verb.SUBMIT)
        wanted = parse(await read_body(request), RunAgentInput)
        props = wanted.forwarded_props if isinstance(wanted.forwarded_props, dict) else {}
        given = {"state": wanted.state, "tools": wanted.tools, "context": wanted.context}
        params = {**props, **{name: value for name, value in given.items() if value}, "messages": wanted.messages}
        task_id = await self._submit(request, params, key=[wanted.thread_id, wanted.run_id])
        dialect = AgUi(wanted.thread_id, wanted.run_id, wanted.messages, wanted.state)
        return await self._told(task_id, principal_of(request), dialect)

    @operation({200: AS_EVENTS}, refusals=_READING)
    async def ui_messages(self, request: Request) -> Response:
        """``GET /streams/{id}/ui-messages``: any stream as one message of the AI SDK."""
        stream_id, principal = self._readable(request)
        return await self._told(stream_id, principal, UiMessages(stream_id))

    @operation({200: AS_EVENTS}, refusals=_READING)
    async def ag_ui(self, request: Request) -> Response:
        """``GET /streams/{id}/ag-ui``: any stream as a run of AG-UI."""
        stream_id, principal = self._readable(request)
        return await self._told(stream_id, principal, AgUi(stream_id, stream_id))

    def _readable(self, request: Request) -> tuple[str, Principal]:
        stream_id, principal = path_id(request), principal_of(request)
        self._check_readable(stream_id, principal)
        return stream_id, principal

    def _check_readable(self, stream_id: str, principal: Principal) -> None:
        principal.require(Verb.READ, stream_id)
        self._parts.ownership.check(principal, stream_id)

    async def _submit(
        self, request: Request, params: dict[str, Any], *, key: list[Any], labels: tuple[str, ...] = ()
    ) -> str:
        """The id of the task that ``key`` names, which is submitted unless it exists; without a key, of a new one."""
        principal, (plugin, action) = principal_of(request), _action(request)
        task_id = _hashed("c", principal.home, plugin, action, *key)[:32] if key else self._parts.new_task_id()
        principal.require(Verb.READ, task_id)
        wanted = SubmitRequest(
            plugin=plugin, action=action, params=params, task_id=task_id, scheduling=Scheduling(labels=labels)
        )
        await self._submissions.submit(wanted, principal)
        return task_id

    def _newest(self, label: str, principal: Principal) -> TaskState | None:
        registry = self._parts.registry
        try:
            tasks = [registry.task(name, principal.tenant) for name in registry.order.members("label", label)]
        except UnknownTask:
            return None
        return max(tasks, key=lambda state: state.submitted_us)

    async def _told(self, stream_id: str, principal: Principal, dialect: Dialect) -> Response:
        return await answer(self._parts.hub, stream_id, principal.tenant, dialect)


def _action(request: Request) -> tuple[str, str]:
    return str(request.path_params["plugin"]), str(request.path_params["action"])


def _count(text: str) -> int:
    """A number of events; one that counts from the end is none, and everything is told."""
    try:
        return max(0, int(text[:20]))
    except ValueError:
        raise InvalidRequest(f"{text[:20]!r} is not a number", where="startIndex") from None


def _hashed(prefix: str, *words: Any) -> str:
    return prefix + sha256(msgspec.json.encode(words)).hexdigest()[:40]
