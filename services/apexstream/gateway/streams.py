"""HTTP: streams as things, not their content; that is read over one of the protocols."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from apexstream.client.model import Task
from apexstream.gateway.access import Verb, principal_of
from apexstream.gateway.answers import answer
from apexstream.gateway.control import Control
from apexstream.gateway.openapi import operation
from apexstream.gateway.tasks import path_id, shown


class Streams:
    """The handlers."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self) -> list[BaseRoute]:
        """Where they are."""
        return [Route("/streams/{task_id}", self.forget, methods=["DELETE"])]

    @operation({202: Task}, refusals=(400, 404, 409))
    async def forget(self, request: Request) -> Response:
        """``DELETE /streams/{id}``: erase the stream of a task that has ended. The archiver does it; reading it then says so."""
        stream_id, principal = path_id(request), principal_of(request)
        principal.require(Verb.ERASE, stream_id)
        return answer(shown(await self._control.forget(stream_id, principal.tenant)), 202)
