"""``apexstream mcp``: a gateway's actions as MCP tools over standard input and output."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

from apexstream.cli.exits import ExitCode
from apexstream.cli.running import gateway_url
from apexstream.client import Client
from apexstream.client.frames import Frame
from apexstream.client.model import Offer, Task
from apexstream.runtime.logs import configure_logs
from apexstream.runtime.settings import load_settings


def serve_mcp(url: str) -> ExitCode:
    """Until the client closes standard input."""
    settings = load_settings()
    configure_logs(settings, service="mcp")
    asyncio.run(_serve(gateway_url(settings, url)))
    return ExitCode.OK


async def _serve(url: str) -> None:
    from apexstream.gateway.mcp.server import serve_stdio

    async with Client(url) as client:
        await serve_stdio(ClientDesk(client))


class ClientDesk:
    """The desk of whoever's token this process has; see :class:`apexstream.gateway.mcp.desk.Desk`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def offer(self) -> Offer:
        """What can be run."""
        return await self._client.actions()

    async def submit(self, plugin: str, action: str, params: Mapping[str, Any], key: str) -> str:
        """Submit a task; its id."""
        return (await self._client.submit(plugin, action, params, idempotency_key=key)).task_id

    async def follow(self, stream_id: str, cursor: str) -> AsyncGenerator[Frame, None]:
        """The stream to its end, over any number of connections."""
        async with aclosing(self._client.follow(stream_id, cursor=cursor)) as frames:
            async for frame in frames:
                yield frame

    async def task(self, task_id: str) -> Task:
        """A task as it stands."""
        return await self._client.task(task_id)

    async def cancel(self, task_id: str, reason: str) -> Task:
        """Ask for its end."""
        return await self._client.cancel(task_id, reason=reason)

    def address(self, stream_id: str, cursor: str) -> str:
        """Where it is read over HTTP."""
        base = self._client.address.http
        return f"{base}/ds/streams/{quote(stream_id, safe='')}{f'?offset={cursor}' if cursor else ''}"
