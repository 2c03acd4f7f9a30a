"""Reads server-sent events, as the specification of browsers says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec

TIMEOUT_S = 60


@dataclass
class Events:
    """An answer that is read event by event. ``last_id`` and ``retry_ms`` are what a browser would remember."""

    response: httpx.Response
    last_id: str = ""
    retry_ms: int = 0

    async def texts(self) -> AsyncIterator[str]:
        """The data of each event that has some."""
        data: list[str] = []
        async for line in self.response.aiter_lines():
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif name == "id":
                self.last_id = value
            elif name == "retry":
                self.retry_ms = int(value)
            elif not line and data:
                yield "\n".join(data)
                data = []

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """The same as JSON."""
        async for text in self.texts():
            yield msgspec.json.decode(text)


@asynccontextmanager
async def events(url: str, last_id: str = "", **query: Any) -> AsyncIterator[Events]:
    """Ask for them."""
    headers = {"last-event-id": last_id} if last_id else {}
    async with (
        httpx.AsyncClient(timeout=TIMEOUT_S) as http,
        http.stream("GET", url, params=query, headers=headers) as response,
    ):
        yield Events(response, last_id)
