"""HTTP: the order of work. Graphs of tasks, changes of what waits, and why it waits."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from apexstream.client.model import Cancelling, Graph, Queue, Task, Why
from apexstream.core.errors import InvalidRequest, UnknownTask
from apexstream.core.events import ControlVerb, TaskSubmitted
from apexstream.core.ids import check_id
from apexstream.core.inputs import renamed
from apexstream.core.scheduling import GRAPH_TASKS_MAX, Reschedule
from apexstream.core.task import TaskStatus
from apexstream.gateway.access import Principal, Verb, principal_of
from apexstream.gateway.answers import Conflict, TooLarge, answer, parse, read_body
from apexstream.gateway.control import Control
from apexstream.gateway.openapi import operation
from apexstream.gateway.parts import Parts
from apexstream.gateway.submissions import OptionalId, Submissions, SubmitRequest, with_inputs
from apexstream.gateway.tasks import REASON, allowed, shown

GRAPH_BYTES_MAX = 900_000  # one record holds the graph


class GraphRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /graphs``. ``task_id`` of a member is its name in the graph: others come after it by that name."""

    tasks: Annotated[list[SubmitRequest], msgspec.Meta(min_length=1, max_length=GRAPH_TASKS_MAX)]
    graph_id: OptionalId = ""


class Scheduling:
    """The handlers."""

    def __init__(self, parts: Parts, control: Control, submissions: Submissions) -> None:
        self._registry = parts.registry
        self._publish = parts.publish
        self._clock = parts.clock
        self._tiers = parts.tiers
        self._access = parts.access
        self._new_id = parts.new_task_id
        self._control = control
        self._submissions = submissions

    def routes(self) -> list[BaseRoute]:
        """Where they are."""
        return [
            Route("/tasks/{task_id}", self.reschedule, methods=["PATCH"]),
            Route("/tasks/{task_id}/why", self.why),
            Route("/graphs", self.submit_graph, methods=["POST"]),
            Route("/graphs/{name}", self.graph),
            Route("/graphs/{name}", self.cancel_graph, methods=["DELETE"]),
            Route("/labels/{name}", self.cancel_label, methods=["DELETE"]),
            Route("/queue", self.queue),
        ]

    @operation({202: Graph, 200: Graph}, body=GraphRequest, refusals=(400, 404, 409, 413, 422))
    async def submit_graph(self, request: Request) -> Response:
        """``POST /graphs``: tasks that come after each other, accepted whole or not at all: they are one record."""
        principal = principal_of(request)
        principal.require(Verb.SUBMIT)
        wanted = parse(await read_body(request, 2 * GRAPH_BYTES_MAX), GraphRequest)
        graph_id = check_id(wanted.graph_id, "graph_id") if wanted.graph_id else self._new_id()
        with contextlib.suppress(UnknownTask):
            return self._graph(graph_id, self._group("graph", graph_id, principal), principal.tenant, 200)
        self._access.submitting(principal)
        tasks = self._members(graph_id, wanted.tasks, principal)
        first = min((task.tier for task in tasks), key=self._tiers.rank)
        graph = TaskSubmitted(
            task_id=graph_id,
            plugin="",
            action="",
            params=b"{}",
            tier=first,
            submitted_us=self._clock.now_us(),
            members=msgspec.json.encode(tasks),
            tenant=principal.home,
        )
        if len(graph.members) > GRAPH_BYTES_MAX:
            raise TooLarge(f"the graph takes over {GRAPH_BYTES_MAX} bytes", where="body", hint="Submit it in parts")
        await self._publish(f"tasks.{first}", graph_id, graph)
        for task in tasks:
            self._registry.submitted(task, task.submitted_us // 1000)
        return self._graph(graph_id, [task.task_id for task in tasks], principal.tenant, 202)

    @operation({200: Graph}, refusals=(400, 404))
    async def graph(self, request: Request) -> Response:
        """``GET /graphs/{id}``: its tasks."""
        principal = principal_of(request)
        principal.require(Verb.READ)
        graph_id = check_id(str(request.path_params["name"]), "graph_id")
        return self._graph(graph_id, self._group("graph", graph_id, principal, Verb.READ), principal.tenant, 200)

    @operation({202: Cancelling}, query={"reason": REASON}, refusals=(400, 404))
    async def cancel_graph(self, request: Request) -> Response:
        """``DELETE /graphs/{id}``: cancel all its tasks that have not ended."""
        return await self._cancel_all("graph", request)

    @operation({202: Cancelling}, query={"reason": REASON}, refusals=(404,))
    async def cancel_label(self, request: Request) -> Response:
        """``DELETE /labels/{label}``: cancel all tasks with this label that have not ended."""
        return await self._cancel_all("label", request)

    @operation({202: Task}, body=Reschedule, refusals=(400, 404, 409, 413))
    async def reschedule(self, request: Request) -> Response:
        """``PATCH /tasks/{id}``: another tier, start time or needs for a task that waits."""
        task_id, tenant = allowed(request, Verb.CONTROL)
        change = parse(await read_body(request), Reschedule)
        if change.tier is not None:
            self._tiers.check(change.tier)
        state = self._registry.task(task_id, tenant)
        if state.status not in {TaskStatus.WAITING, TaskStatus.PARKED}:
            raise Conflict(f"the task is {state.status}", where=state.task_id, hint="Only a waiting task can be moved")
        await self._control.command(state.task_id, ControlVerb.RESCHEDULE, "", detail=msgspec.json.encode(change))
        if change.tier is not None:
            self._registry.moved(state.task_id, change.tier)
        return answer(shown(state), 202)

    @operation({200: Why}, refusals=(400, 404))
    async def why(self, request: Request) -> Response:
        """``GET /tasks/{id}/why``: why the task waits, or why it waited."""
        state = self._registry.task(*allowed(request, Verb.READ))
        return answer(self._registry.order.why(state, self._clock.now_us()))

    @operation({200: Queue})
    async def queue(self, request: Request) -> Response:
        """``GET /queue``: what waits in each tier, how long, and how long at most."""
        principal_of(request).require(Verb.OPERATE)
        return answer(self._registry.order.queue(self._clock.now_us()))

    def _members(self, graph_id: str, wanted: list[SubmitRequest], principal: Principal) -> tuple[TaskSubmitted, ...]:
        named = [(each.task_id or f"task-{number}", each) for number, each in enumerate(wanted, 1)]
        ids = {name: check_id(f"{graph_id}.{name}", "task_id") for name, _ in named}
        if len(ids) < len(named):
            raise InvalidRequest("two tasks have one task_id", where="tasks")
        members = {ids[name]: _member(graph_id, each, ids) for name, each in named}
        for each in members.values():
            principal.require(Verb.SUBMIT, f"{each.plugin}.{each.action}")
        self._submissions.check_order(members, principal)
        return tuple(self._submissions.checked(each, task_id, principal.home) for task_id, each in members.items())

    def _group(self, kind: str, name: str, principal: Principal, verb: Verb | None = None) -> list[str]:
        """The tasks of a graph or with a label that the principal's tenant has, and that it may do ``verb`` to; or
        :class:`UnknownTask`. Names of groups are each tenant's own."""
        members = [
            each
            for each in self._registry.order.members(kind, name)
            if self._submissions.is_known(each, principal) and (verb is None or principal.may(verb, each))
        ]
        if not members:
            raise UnknownTask(f"there is no task of {kind} {name!r}", where=kind)
        return members

    def _graph(self, graph_id: str, members: list[str], tenant: str, status: int) -> Response:
        tasks = [shown(self._registry.task(each, tenant)) for each in members]
        return answer({"graph_id": graph_id, "tasks": tasks}, status)

    async def _cancel_all(self, kind: str, request: Request) -> Response:
        principal = principal_of(request)
        principal.require(Verb.CONTROL)
        members = self._group(kind, str(request.path_params["name"]), principal, Verb.CONTROL)
        reason = request.query_params.get("reason", f"its {kind} was cancelled")
        asked = await asyncio.gather(*(self._control.cancel(each, reason, principal.tenant) for each in members))
        return answer({"cancelling": [state.task_id for state, cancelling in asked if cancelling]}, 202)


def _member(graph_id: str, wanted: SubmitRequest, ids: Mapping[str, str]) -> SubmitRequest:
    after = tuple(ids.get(name, name) for name in wanted.scheduling.after)
    facts = msgspec.structs.replace(wanted.scheduling, graph=graph_id, after=after)
    return with_inputs(msgspec.structs.replace(wanted, scheduling=facts, params=renamed(wanted.params, ids)))
