"""What one caller may ask of the platform, as far as MCP needs it. It decides who the caller is and what is allowed."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from apexstream.client.frames import Frame
from apexstream.client.model import Offer, Task


class Desk(Protocol):
    """Raises the errors of :mod:`apexstream.core.errors`, as every protocol does."""

    async def offer(self) -> Offer:
        """The actions that the caller may run."""

    async def submit(self, plugin: str, action: str, params: Mapping[str, Any], key: str) -> str:
        """Ask for a run of an action; the id of the task and its stream. One ``key`` (if any) is one task."""

    def follow(self, stream_id: str, cursor: str) -> AsyncGenerator[Frame, None]:
        """Every frame behind ``cursor`` (empty: from the beginning), each with its own cursor, to the end of the stream. It may
        end early if this process stops."""

    async def task(self, task_id: str) -> Task:
        """A task as it stands."""

    async def cancel(self, task_id: str, reason: str) -> Task:
        """Ask for the end of a task."""

    def address(self, stream_id: str, cursor: str) -> str:
        """Where the stream is read over HTTP from ``cursor`` on."""
