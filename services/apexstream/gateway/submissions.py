"""Taking tasks, whatever route they come by: their ids, what is refused, and the record that makes them exist."""

from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any

import msgspec

from apexstream.core.errors import InvalidRequest
from apexstream.core.events import TaskSubmitted
from apexstream.core.ids import ID_PATTERN, check_id
from apexstream.core.inputs import references
from apexstream.core.options import TaskOptions
from apexstream.core.scheduling import NOTHING_ASKED, UPSTREAMS_MAX, Scheduling, check_graph
from apexstream.core.task import TaskState
from apexstream.core.tiers import TIER_PATTERN
from apexstream.gateway.access import Principal, Verb
from apexstream.gateway.access.principal import sees
from apexstream.gateway.answers import Conflict
from apexstream.gateway.parts import Parts
from apexstream.runtime import tracing

NOT_BEFORE_US_MAX = 28 * 86_400_000_000  # ahead of now; submissions are kept for 30 days


OptionalId = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^({ID_PATTERN})?$"})]
"""An id that may be left out: described by its pattern, and refused in words by :func:`check_id`."""
OptionalTier = Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^({TIER_PATTERN})?$"})]
"""A tier, or empty for the default one; refused in words by :meth:`apexstream.core.tiers.Tiers.check`."""


class SubmitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /tasks``, and a member of a graph."""

    plugin: str
    action: str
    params: dict[str, Any] = msgspec.field(default_factory=dict)
    tier: OptionalTier = ""
    task_id: OptionalId = ""
    options: TaskOptions = TaskOptions()
    scheduling: Scheduling = NOTHING_ASKED
    idempotency_key: Annotated[str, msgspec.Meta(max_length=256)] = ""


class Submissions:
    """Checks and accepts tasks of whoever asks: its scopes, its limits, its tenant."""

    def __init__(self, parts: Parts) -> None:
        self._registry = parts.registry
        self._ownership = parts.ownership
        self._access = parts.access
        self._publish = parts.publish
        self._clock = parts.clock
        self._tiers = parts.tiers
        self._new_task_id = parts.new_task_id

    async def submit(self, wanted: SubmitRequest, principal: Principal) -> tuple[TaskState, bool]:
        """The task, and True if it was accepted now; its id may be that of a task that exists, which is then given.

        Raises :class:`Conflict` if the id is taken by what is not the principal's, or is long gone."""
        principal.require(Verb.SUBMIT, f"{wanted.plugin}.{wanted.action}")
        task_id = self._id_of(wanted, principal.home)
        if self.is_known(task_id, principal):
            return self._registry.task(task_id, principal.tenant), False
        self._access.submitting(principal)
        wanted = with_inputs(wanted)
        self.check_order({task_id: wanted}, principal)
        task = self.checked(wanted, task_id, principal.home)
        await self._publish(f"tasks.{task.tier}", task_id, task)
        return self._registry.submitted(task, task.submitted_us // 1000), True

    def is_known(self, task_id: str, principal: Principal) -> bool:
        """Whether the principal's tenant has such a task."""
        return sees(principal.tenant, self._registry.tenant(task_id))

    def check_order(self, wanted: Mapping[str, SubmitRequest], principal: Principal) -> None:
        """Refuse ``wanted``, by their ids, if they come after each other, or after nothing, or if there are too many."""
        check_graph(
            {task_id: each.scheduling.after for task_id, each in wanted.items()},
            lambda task_id: self.is_known(task_id, principal),
        )
        for each in wanted.values():
            for ref in references(each.params):
                if ref.task_id not in wanted:
                    principal.require(Verb.READ, ref.task_id)
        asked = [each.scheduling for each in wanted.values()]
        self._registry.order.check_room(asked, self._clock.now_us(), principal.home)

    def checked(self, wanted: SubmitRequest, task_id: str, tenant: str) -> TaskSubmitted:
        """The record of a task of ``tenant``, unless it could never run or its id is taken."""
        if self._ownership.owner(task_id) is not None:
            raise Conflict("the id is taken", where="task_id", hint="Choose another one, or leave it out")
        later = [ref.path for ref in references(wanted.params)]
        self._registry.check(wanted.plugin, wanted.action, wanted.params, later)
        now = self._clock.now_us()
        if wanted.scheduling.not_before_us > now + NOT_BEFORE_US_MAX:
            raise InvalidRequest("is more than 28 days ahead", where="not_before_us")
        return TaskSubmitted(
            task_id=task_id,
            plugin=wanted.plugin,
            action=wanted.action,
            params=msgspec.json.encode(wanted.params),
            tier=self._tiers.check(wanted.tier or self._tiers.default),
            submitted_us=now,
            options=msgspec.json.encode(wanted.options),
            scheduling=b"" if wanted.scheduling == NOTHING_ASKED else msgspec.json.encode(wanted.scheduling),
            tenant=tenant,
            traceparent=tracing.current() or tracing.new(),
        )

    def _id_of(self, wanted: SubmitRequest, tenant: str) -> str:
        if wanted.task_id:
            return check_id(wanted.task_id, "task_id")
        if wanted.idempotency_key:
            # The same key gives the same id through any gateway, and one id runs once: nothing else has to be remembered.
            secret = msgspec.json.encode([tenant or wanted.scheduling.tenant, wanted.idempotency_key])
            return f"k{sha256(secret).hexdigest()[:31]}"
        return self._new_task_id()


def with_inputs(wanted: SubmitRequest) -> SubmitRequest:
    """``wanted``, which comes after every task that its parameters refer to."""
    after = tuple(dict.fromkeys((*wanted.scheduling.after, *(ref.task_id for ref in references(wanted.params)))))
    if after == wanted.scheduling.after:
        return wanted
    if len(after) > UPSTREAMS_MAX:
        raise InvalidRequest(f"comes after {len(after)} tasks; at most {UPSTREAMS_MAX} are allowed", where="after")
    return msgspec.structs.replace(wanted, scheduling=msgspec.structs.replace(wanted.scheduling, after=after))
