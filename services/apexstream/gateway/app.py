"""The ASGI application: the routes of all protocols, each from its own module."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from apexstream import __version__
from apexstream.core.errors import ApexError
from apexstream.gateway.access import Access, Guard, principal_of
from apexstream.gateway.access.routes import ticket_routes
from apexstream.gateway.answers import answer, fail, refuse, refuse_http
from apexstream.gateway.chat.routes import Chats
from apexstream.gateway.control import Control
from apexstream.gateway.durable.assembly import Durable
from apexstream.gateway.events import Events
from apexstream.gateway.measures import CountRequests
from apexstream.gateway.openapi import document, operation
from apexstream.gateway.parts import Parts
from apexstream.gateway.scheduling import Scheduling
from apexstream.gateway.static import Page, public_paths
from apexstream.gateway.streams import Streams
from apexstream.gateway.submissions import Submissions
from apexstream.gateway.tasks import Tasks
from apexstream.gateway.views import Views
from apexstream.gateway.websocket import WebSockets

PUBLIC = frozenset({"/livez", "/readyz", "/openapi.json"})
"""Paths that need no principal, besides the page's files. Every other one does, whether a route knows it or not."""


class Health(msgspec.Struct, frozen=True):
    """``ok``, or what is wrong."""

    status: str


class Routed(Protocol):
    """A protocol that knows its routes."""

    def routes(self) -> list[BaseRoute]:
        """Where they are."""


def make_app(parts: Parts, durable: Durable, others: Sequence[Routed], page: Path | None) -> Starlette:
    """All routes, those of ``others`` as they come; ``page`` is the folder of the built page."""
    control, submissions = Control(parts), Submissions(parts)
    routes: list[BaseRoute] = [
        *Tasks(parts, control, submissions).routes(),
        *Scheduling(parts, control, submissions).routes(),
        *Streams(control).routes(),
        *Views(parts).routes(),
        *Events(parts).routes(),
        *Chats(parts, submissions).routes(),
        *ticket_routes(parts.access),
        *WebSockets(parts, control).routes(),
        *durable.routes(principal_of, parts.ownership.check),
        *(route for other in others for route in other.routes()),
        *_health(parts),
    ]
    routes.append(_openapi(routes))
    routes += _other_methods(routes)
    if page is not None:
        routes.append(Mount("/", Page(directory=page, html=True)))
    public = PUBLIC | public_paths(page)
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(CountRequests),
            *_cross_origin(parts.access),
            Middleware(Guard, access=parts.access, public=public.__contains__),
        ],
        exception_handlers={ApexError: refuse, HTTPException: refuse_http, 500: fail},
    )


def _cross_origin(access: Access) -> list[Middleware]:
    """Lets the pages of ``APEX_ORIGINS`` read answers; without any, no page but our own can."""
    if not access.origins.allowed:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=sorted(access.origins.allowed),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
            max_age=600,
        )
    ]


def _openapi(routes: Sequence[BaseRoute]) -> Route:
    made = answer(document(routes, __version__))

    async def openapi(_: Request) -> Response:
        """``GET /openapi.json``: these routes as an OpenAPI 3.1 document."""
        return made

    return Route("/openapi.json", openapi)


def _other_methods(routes: Sequence[BaseRoute]) -> list[BaseRoute]:
    """What answers a known path's other methods. Without it the page would, or a 405 that knows of one route of several."""
    allowed: dict[str, set[str]] = {}
    for route in routes:
        if isinstance(route, Route):
            allowed.setdefault(route.path, set()).update(route.methods or ())
    return [Route(path, _NotAllowed(methods)) for path, methods in allowed.items()]


class _NotAllowed:
    """Answers 405 and names the methods that there are."""

    def __init__(self, methods: Collection[str]) -> None:
        self._allow = ", ".join(sorted(methods))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Refuse."""
        raise HTTPException(405, "this path has other methods", headers={"Allow": self._allow})


def _health(parts: Parts) -> list[BaseRoute]:
    @operation({200: Health}, public=True)
    async def live(_: Request) -> Response:
        """``GET /livez``: the event loop answers."""
        return answer({"status": "ok"})

    @operation({200: Health, 503: Health}, public=True)
    async def ready(_: Request) -> Response:
        """``GET /readyz``: 503 with the reason while tasks cannot be taken or streams not be relayed."""
        problem = parts.is_ready()
        return answer({"status": problem or "ok"}, 503 if problem else 200)

    return [Route("/livez", live), Route("/readyz", ready)]
