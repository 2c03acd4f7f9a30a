"""``POST /mcp``. The SDK is loaded when the first client comes: a gateway that nobody asks that way does not pay for it."""

import asyncio
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from apexstream.core.errors import Unavailable
from apexstream.gateway.access import principal_of
from apexstream.gateway.control import Control
from apexstream.gateway.mcp.desk import Desk
from apexstream.gateway.mcp.inside import InsideDesk
from apexstream.gateway.parts import Parts
from apexstream.gateway.submissions import Submissions

if TYPE_CHECKING:
    from collections.abc import Callable

    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

LOAD_TIMEOUT_S = 30.0


class McpEndpoint:
    """An ASGI application; :meth:`run` must run beside it, until its last answer was given."""

    def __init__(self, parts: Parts, control: Control, submissions: Submissions) -> None:
        self._parts = parts
        self._control = control
        self._submissions = submissions
        self._wanted = asyncio.Event()
        self._ready: asyncio.Future[StreamableHTTPSessionManager] = asyncio.get_running_loop().create_future()

    def routes(self) -> list[BaseRoute]:
        """Where it is. There are no sessions, so there is nothing to GET or DELETE."""
        return [Route("/mcp", self, methods=["POST"])]

    async def run(self) -> None:
        """Load the SDK once it is wanted, and serve until cancelled."""
        await self._wanted.wait()
        try:
            session_manager = await asyncio.to_thread(_load)
        except Exception as problem:
            self._ready.set_exception(Unavailable(f"MCP cannot be loaded: {problem}", where="/mcp"))
            raise
        manager = session_manager(self._desk)
        async with manager.run():
            self._ready.set_result(manager)
            await asyncio.Event().wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self._wanted.set()
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                manager = await asyncio.shield(self._ready)
        except TimeoutError:
            raise Unavailable("MCP is being loaded", where="/mcp", hint="Try again") from None
        await manager.handle_request(scope, receive, send)

    def _desk(self, request: Request) -> InsideDesk:
        return InsideDesk(self._parts, self._control, self._submissions, principal_of(request), str(request.base_url))


def _load() -> "Callable[[Callable[[Request], Desk]], StreamableHTTPSessionManager]":
    from apexstream.gateway.mcp.server import session_manager

    return session_manager
