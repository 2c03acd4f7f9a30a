"""Taking tasks, whatever route they come by: their ids, what is refused, and the record that makes them exist."""

from hashlib import sha256
from typing import Annotated, Any

import msgspec

from apexstream.core.errors import InvalidRequest
from apexstream.core.events import TaskSubmitted
from apexstream.core.ids import check_id
from apexstream.core.options import TaskOptions
from apexstream.core.scheduling import NOTHING_ASKED, Scheduling, check_graph
from apexstream.core.task import TaskState
from apexstream.core.tiers import Tier
from apexstream.gateway.parts import Parts

NOT_BEFORE_US_MAX = 28 * 86_400_000_000  # ahead of now; submissions are kept for 30 days


class SubmitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /tasks``, and a member of a graph."""

    plugin: str
    action: str
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    tier: Tier = Tier.NORMAL
    task_id: str = ""
    options: TaskOptions = TaskOptions()
    scheduling: Scheduling = NOTHING_ASKED
    idempotency_key: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Submissions:
    """Checks and accepts tasks."""

    def __init__(self, parts: Parts) -> None:
        self._registry = parts.registry
        self._publish = parts.publish
        self._clock = parts.clock
        self._new_task_id = parts.new_task_id

    async def submit(self, wanted: SubmitRequest) -> tuple[TaskState, bool]:
        """The task, and True if it was accepted now; its id may be that of a task that exists, which is then given."""
        task_id = self._id_of(wanted)
        if self.is_known(task_id):
            return self._registry.task(task_id), False
        check_graph({task_id: wanted.scheduling.after}, self.is_known)
        self._registry.order.check_room([wanted.scheduling], self._clock.now_us())
        task = self.checked(wanted, task_id)
        await self._publish(f"tasks.{task.tier}", task_id, task)
        return self._registry.submitted(task, task.submitted_us // 1000), True

    def is_known(self, task_id: str) -> bool:
        """Whether there is such a task."""
        return self._registry.since_ms(task_id) is not None

    def checked(self, wanted: SubmitRequest, task_id: str) -> TaskSubmitted:
        """The record of a task, unless it could never run."""
        self._registry.check(wanted.plugin, wanted.action, wanted.params)
        now = self._clock.now_us()
        if wanted.scheduling.not_before_us > now + NOT_BEFORE_US_MAX:
            raise InvalidRequest("is more than 28 days ahead", where="not_before_us")
        return TaskSubmitted(
            task_id=task_id,
            plugin=wanted.plugin,
            action=wanted.action,
            params=msgspec.json.encode(wanted.params),
            tier=wanted.tier,
            submitted_us=now,
            options=msgspec.json.encode(wanted.options),
            scheduling=b"" if wanted.scheduling == NOTHING_ASKED else msgspec.json.encode(wanted.scheduling),
        )

    def _id_of(self, wanted: SubmitRequest) -> str:
        if wanted.task_id:
            return check_id(wanted.task_id, "task_id")
        if wanted.idempotency_key:
            # The same key gives the same id through any gateway, and one id runs once: nothing else has to be remembered.
            secret = msgspec.json.encode([wanted.scheduling.tenant, wanted.idempotency_key])
            return f"k{sha256(secret).hexdigest()[:31]}"
        return self._new_task_id()
