"""The ASGI application: the routes of all protocols, each from its own module."""

from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from apexstream.core.errors import ApexError
from apexstream.gateway.answers import answer, fail, refuse, refuse_http
from apexstream.gateway.control import Control
from apexstream.gateway.measures import CountRequests
from apexstream.gateway.parts import Parts
from apexstream.gateway.scheduling import Scheduling
from apexstream.gateway.static import Page
from apexstream.gateway.streams import Streams
from apexstream.gateway.submissions import Submissions
from apexstream.gateway.tasks import Tasks
from apexstream.gateway.websocket import WebSockets


def make_app(parts: Parts, page: Path | None) -> Starlette:
    """All routes; ``page`` is the folder of the built page."""
    control, submissions = Control(parts), Submissions(parts)
    routes: list[BaseRoute] = [
        *Tasks(parts, control, submissions).routes(),
        *Scheduling(parts, control, submissions).routes(),
        *Streams(control).routes(),
        *WebSockets(parts, control).routes(),
        *_health(parts),
    ]
    if page is not None:
        routes.append(Mount("/", Page(directory=page, html=True)))
    return Starlette(
        routes=routes,
        middleware=[Middleware(CountRequests)],
        exception_handlers={ApexError: refuse, HTTPException: refuse_http, 500: fail},
    )


def _health(parts: Parts) -> list[BaseRoute]:
    async def live(_: Request) -> Response:
        """``GET /livez``: the event loop answers."""
        return answer({"status": "ok"})

    async def ready(_: Request) -> Response:
        """``GET /readyz``: 503 with the reason while tasks cannot be taken or streams not be relayed."""
        problem = parts.is_ready()
        return answer({"status": problem or "ok"}, 503 if problem else 200)

    return [Route("/livez", live), Route("/readyz", ready)]
