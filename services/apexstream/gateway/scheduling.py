"""HTTP: the order of work. Graphs of tasks, changes of what waits, and why it waits."""

import asyncio
from collections.abc import Mapping
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from apexstream.core.errors import InvalidRequest, UnknownTask
from apexstream.core.events import ControlVerb, TaskSubmitted
from apexstream.core.ids import check_id
from apexstream.core.scheduling import GRAPH_TASKS_MAX, Reschedule, check_graph
from apexstream.core.task import TaskStatus
from apexstream.core.tiers import Tier
from apexstream.gateway.answers import Conflict, TooLarge, answer, parse, read_body
from apexstream.gateway.control import Control
from apexstream.gateway.parts import Parts
from apexstream.gateway.submissions import Submissions, SubmitRequest
from apexstream.gateway.tasks import path_id, shown

GRAPH_BYTES_MAX = 900_000  # one record holds the graph


class GraphRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /graphs``. ``task_id`` of a member is its name in the graph: others come after it by that name."""

    tasks: Annotated[list[SubmitRequest], msgspec.Meta(min_length=1, max_length=GRAPH_TASKS_MAX)]
    graph_id: str = ""


class Scheduling:
    """The handlers."""

    def __init__(self, parts: Parts, control: Control, submissions: Submissions) -> None:
        self._registry = parts.registry
        self._publish = parts.publish
        self._clock = parts.clock
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

    async def submit_graph(self, request: Request) -> Response:
        """``POST /graphs``: tasks that come after each other, accepted whole or not at all: they are one record."""
        wanted = parse(await read_body(request, 2 * GRAPH_BYTES_MAX), GraphRequest)
        graph_id = check_id(wanted.graph_id, "graph_id") if wanted.graph_id else self._new_id()
        if self._is_known(graph_id):
            return self._graph(graph_id, 200)
        tasks = self._members(graph_id, wanted.tasks)
        first = min((task.tier for task in tasks), key=list(Tier).index)
        graph = TaskSubmitted(
            task_id=graph_id,
            plugin="",
            action="",
            params=b"{}",
            tier=first,
            submitted_us=self._clock.now_us(),
            members=msgspec.json.encode(tasks),
        )
        if len(graph.members) > GRAPH_BYTES_MAX:
            raise TooLarge(f"the graph takes over {GRAPH_BYTES_MAX} bytes", where="body", hint="Submit it in parts")
        await self._publish(f"tasks.{first}", graph_id, graph)
        for task in tasks:
            self._registry.submitted(task, task.submitted_us // 1000)
        return self._graph(graph_id, 202)

    async def graph(self, request: Request) -> Response:
        """``GET /graphs/{id}``: its tasks."""
        return self._graph(check_id(str(request.path_params["name"]), "graph_id"), 200)

    async def cancel_graph(self, request: Request) -> Response:
        """``DELETE /graphs/{id}``: cancel all its tasks that have not ended."""
        return await self._cancel_all("graph", request)

    async def cancel_label(self, request: Request) -> Response:
        """``DELETE /labels/{label}``: cancel all tasks with this label that have not ended."""
        return await self._cancel_all("label", request)

    async def reschedule(self, request: Request) -> Response:
        """``PATCH /tasks/{id}``: another tier, start time or needs for a task that waits."""
        change = parse(await read_body(request), Reschedule)
        state = self._registry.task(path_id(request))
        if state.status not in {TaskStatus.WAITING, TaskStatus.PARKED}:
            raise Conflict(f"the task is {state.status}", where=state.task_id, hint="Only a waiting task can be moved")
        await self._control.command(state.task_id, ControlVerb.RESCHEDULE, "", detail=msgspec.json.encode(change))
        if change.tier is not None:
            state.tier = change.tier
        return answer(shown(state), 202)

    async def why(self, request: Request) -> Response:
        """``GET /tasks/{id}/why``: why the task waits, or why it waited."""
        state = self._registry.task(path_id(request))
        return answer(self._registry.order.why(state, self._clock.now_us()))

    async def queue(self, _: Request) -> Response:
        """``GET /queue``: what waits in each tier, how long, and how long at most."""
        now = self._clock.now_us()
        report = self._registry.order.queue(now)
        for tier in report["tiers"]:
            tier["depth"], oldest_us = self._registry.waiting(Tier(tier["tier"]))
            tier["age_s"] = max(0.0, (now - oldest_us) / 1e6) if tier["depth"] else 0.0
        return answer(report)

    def _members(self, graph_id: str, wanted: list[SubmitRequest]) -> tuple[TaskSubmitted, ...]:
        named = [(each.task_id or f"task-{number}", each) for number, each in enumerate(wanted, 1)]
        ids = {name: check_id(f"{graph_id}.{name}", "task_id") for name, _ in named}
        if len(ids) < len(named):
            raise InvalidRequest("two tasks have one task_id", where="tasks")
        members = [(ids[name], _member(graph_id, each, ids)) for name, each in named]
        check_graph({task_id: each.scheduling.after for task_id, each in members}, self._submissions.is_known)
        self._registry.order.check_room([each.scheduling for _, each in members], self._clock.now_us())
        return tuple(self._submissions.checked(each, task_id) for task_id, each in members)

    def _is_known(self, graph_id: str) -> bool:
        try:
            return bool(self._registry.order.members("graph", graph_id))
        except UnknownTask:
            return False

    def _graph(self, graph_id: str, status: int) -> Response:
        members = self._registry.order.members("graph", graph_id)
        return answer({"graph_id": graph_id, "tasks": [shown(self._registry.task(each)) for each in members]}, status)

    async def _cancel_all(self, kind: str, request: Request) -> Response:
        members = self._registry.order.members(kind, str(request.path_params["name"]))
        reason = request.query_params.get("reason", f"its {kind} was cancelled")
        asked = await asyncio.gather(*(self._control.cancel(each, reason) for each in members))
        return answer({"cancelling": [state.task_id for state, cancelling in asked if cancelling]}, 202)


def _member(graph_id: str, wanted: SubmitRequest, ids: Mapping[str, str]) -> SubmitRequest:
    after = tuple(ids.get(name, name) for name in wanted.scheduling.after)
    facts = msgspec.structs.replace(wanted.scheduling, graph=graph_id, after=after)
    return msgspec.structs.replace(wanted, scheduling=facts)
