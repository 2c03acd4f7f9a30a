"""The desk of a caller of this gateway: the same tasks, streams, scopes and limits as over any other protocol."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from apexstream.client.frames import Frame, Pong, Refused, decode_frame
from apexstream.client.model import Action, Offer, Task
from apexstream.core.ids import check_id
from apexstream.gateway.access import Principal, Verb
from apexstream.gateway.control import Control
from apexstream.gateway.cursors import Position
from apexstream.gateway.parts import Parts
from apexstream.gateway.reader import Stopped, reading
from apexstream.gateway.submissions import Submissions, SubmitRequest
from apexstream.gateway.tasks import shown
from apexstream.gateway.viewed import Lines


class InsideDesk:
    """See :class:`apexstream.gateway.mcp.desk.Desk`. ``base_url`` is how the caller reached this gateway."""

    def __init__(
        self, parts: Parts, control: Control, submissions: Submissions, principal: Principal, base_url: str
    ) -> None:
        self._parts = parts
        self._control = control
        self._submissions = submissions
        self._principal = principal
        self._base_url = base_url.rstrip("/")

    async def offer(self) -> Offer:
        """Those that the caller's scopes let it submit."""
        registry, principal = self._parts.registry, self._principal
        actions = tuple(
            Action(
                plugin=info.plugin,
                action=info.action,
                summary=info.summary,
                streams=info.streams,
                params_schema=msgspec.json.decode(info.params_schema),
            )
            for _, info in sorted(registry.actions().items())
            if principal.may(Verb.SUBMIT, f"{info.plugin}.{info.action}")
        )
        return Offer(actions=actions, runners=len(registry.runners(self._parts.clock.now_us())))

    async def submit(self, plugin: str, action: str, params: Mapping[str, Any], key: str) -> str:
        """As ``POST /tasks``."""
        wanted = SubmitRequest(plugin=plugin, action=action, params=dict(params), idempotency_key=key)
        state, _ = await self._submissions.submit(wanted, self._principal)
        return state.task_id

    async def follow(self, stream_id: str, cursor: str) -> AsyncGenerator[Frame, None]:
        """As a subscription that goes on where it was too slow."""
        self._principal.require(Verb.READ, check_id(stream_id, "stream_id"))
        self._parts.ownership.check(self._principal, stream_id)
        position = self._parts.cursors.read(cursor, stream_id) if cursor else Position(0)
        encoding, tenant = Lines(self._parts.cursors, "", events=False), self._principal.tenant
        stopped: Stopped | None = Stopped.SLOW
        while stopped is Stopped.SLOW:
            async with reading(self._parts.hub, stream_id, position, encoding, tenant=tenant) as reader:
                async for delivery in reader:
                    for frame in map(decode_frame, delivery.data.split(b"\n")[:-1]):
                        if frame is not None and not isinstance(frame, Refused | Pong):
                            yield frame
                position, stopped = reader.position, reader.stopped

    async def task(self, task_id: str) -> Task:
        """As ``GET /tasks/{id}``."""
        self._principal.require(Verb.READ, check_id(task_id, "task_id"))
        return self._shown(task_id)

    async def cancel(self, task_id: str, reason: str) -> Task:
        """As ``DELETE /tasks/{id}``."""
        self._principal.require(Verb.CONTROL, check_id(task_id, "task_id"))
        await self._control.cancel(task_id, reason, self._principal.tenant)
        return self._shown(task_id)

    def address(self, stream_id: str, cursor: str) -> str:
        """As :mod:`apexstream.gateway.durable` serves it."""
        return f"{self._base_url}/ds/streams/{stream_id}{f'?offset={cursor}' if cursor else ''}"

    def _shown(self, task_id: str) -> Task:
        state = self._parts.registry.task(task_id, self._principal.tenant)
        return msgspec.json.decode(msgspec.json.encode(shown(state)), type=Task)
