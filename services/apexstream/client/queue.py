"""A task queue for Python programs: add tasks with priority and dependencies, wait for them, move them, take them back.

Nothing is kept here: the queue is the platform's, so any number of programs can share it, and tasks outlive them all.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from apexstream.client.client import Client
from apexstream.client.frames import EndFrame, Frame
from apexstream.client.model import Queue, Task, Why
from apexstream.core.options import TaskOptions
from apexstream.core.scheduling import Reschedule, Scheduling

SETTLE_S_MAX = 30.0  # between the end of a stream and the news that its task has ended
SETTLE_STEP_S = 0.02


class EnhancedTaskQueue:
    """The order of work, seen by a client that is connected already.

    >>> async with Client("http://127.0.0.1:8080") as client:
    ...     queue = EnhancedTaskQueue(client)
    ...     load = await queue.add("corpus", "analyze", {"path": "docs"}, priority="high")
    ...     report = await queue.add("corpus", "analyze", {"path": "books"}, after=[load])
    ...     parsed = await queue.add("corpus", "analyze", {"path": result_of(report)})  # comes after it, too
    ...     done = await queue.wait(report, timeout_s=60)
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def add(
        self,
        plugin: str,
        action: str,
        params: Mapping[str, Any] | None = None,
        *,
        priority: str = "",
        after: Sequence[Task | str] = (),
        idempotency_key: str = "",
        options: TaskOptions | None = None,
        **scheduling: Any,
    ) -> Task:
        """Add a task. ``after`` are tasks that must end first; ``scheduling`` takes the other fields of
        :class:`~apexstream.core.scheduling.Scheduling` (``when``, ``needs``, ``labels``, ``not_before_us``, …).

        Raises :class:`InvalidRequest` for what can never run, :class:`LimitReached` if too many wait already.
        """
        facts = Scheduling(after=tuple(map(_id, after)), **scheduling)
        return await self._client.submit(
            plugin, action, params, tier=priority, options=options, scheduling=facts, idempotency_key=idempotency_key
        )

    async def wait(self, task: Task | str, *, timeout_s: float | None = None) -> Task:
        """The task once it has ended, however it did. Raises ``TimeoutError``; the task then goes on."""
        async with asyncio.timeout(timeout_s):
            async with aclosing(self.follow(task)) as frames:
                async for frame in frames:
                    if isinstance(frame, EndFrame):
                        break
            async with asyncio.timeout(SETTLE_S_MAX):
                while not (state := await self._client.task(_id(task))).status.final:  # noqa: ASYNC110 - asked over HTTP
                    await asyncio.sleep(SETTLE_STEP_S)  # its event is on the way
        return state

    async def follow(self, task: Task | str) -> AsyncGenerator[Frame, None]:
        """The task's stream, from its start to its end."""
        async with aclosing(self._client.follow(_id(task))) as frames:
            async for frame in frames:
                yield frame

    async def cancel(self, task: Task | str) -> Task:
        """Take a task back, whether it waits or runs."""
        return await self._client.cancel(_id(task))

    async def reschedule(
        self,
        task: Task | str,
        *,
        priority: str | None = None,
        not_before_us: int | None = None,
        needs: Mapping[str, float] | None = None,
    ) -> Task:
        """Change what a waiting task asks for. ``RemoteError`` (``conflict``) if it waits no longer."""
        change = Reschedule(tier=priority, not_before_us=not_before_us, needs=None if needs is None else dict(needs))
        return await self._client.reschedule(_id(task), change)

    async def why(self, task: Task | str) -> Why:
        """Why the task waits, or why it waited."""
        return await self._client.why(_id(task))

    async def state(self) -> Queue:
        """What waits in each tier, how long, and how long at most."""
        return await self._client.queue()


def result_of(task: Task | str, **default: Any) -> dict[str, Any]:
    """A parameter that is the last chunk of what ``task`` publishes; ``default=`` is taken where there is none."""
    return {"$result": _id(task), **default}


def stream_of(task: Task | str, **default: Any) -> dict[str, Any]:
    """A parameter that is the list of all chunks that ``task`` publishes; ``default=`` is taken where they are gone."""
    return {"$stream": _id(task), **default}


def _id(task: Task | str) -> str:
    return task if isinstance(task, str) else task.task_id
