"""HTTP: streams as things, not their content; that is read over one of the protocols."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from apexstream.gateway.answers import answer
from apexstream.gateway.control import Control
from apexstream.gateway.tasks import path_id, shown


class Streams:
    """The handlers."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self) -> list[BaseRoute]:
        """Where they are."""
        return [Route("/streams/{task_id}", self.forget, methods=["DELETE"])]

    async def forget(self, request: Request) -> Response:
        """``DELETE /streams/{id}``: erase the stream of a task that has ended. The archiver does it; reading it then says so."""
        return answer(shown(await self._control.forget(path_id(request))), 202)
