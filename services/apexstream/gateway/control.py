"""Commands about tasks, whatever protocol they come by."""

from apexstream.core.events import ControlCommand, ControlVerb, TaskChange, TaskEvent
from apexstream.core.task import TaskState
from apexstream.gateway.answers import Conflict
from apexstream.gateway.parts import Parts

REASON_CHARACTERS_MAX = 200


class Control:
    """Appends commands to ``apex.control``, about tasks of ``tenant``; scopes have been asked before."""

    def __init__(self, parts: Parts) -> None:
        self._registry = parts.registry
        self._hub = parts.hub
        self._publish = parts.publish
        self._clock = parts.clock
        self._name = parts.name

    async def cancel(self, task_id: str, reason: str, tenant: str = "") -> tuple[TaskState, bool]:
        """Ask for a task's end; the task, and False if it had ended. Raises :class:`UnknownTask`."""
        state = self._registry.task(task_id, tenant)
        if state.status.final:
            return state, False
        reason = reason[:REASON_CHARACTERS_MAX]
        event = TaskEvent(
            task_id=task_id,
            change=TaskChange.CANCEL_REQUESTED,
            at_us=await self.command(task_id, ControlVerb.CANCEL, reason),
            attempt=state.attempt,
            by=self._name,
            reason=reason,
        )
        await self._publish("task-events", task_id, event)
        return state, True

    async def ask(self, task_id: str, verb: ControlVerb, tenant: str = "") -> TaskState:
        """Pause a task, or let it go on. Raises :class:`Conflict` if it has ended."""
        state = self._registry.task(task_id, tenant)
        if state.status.final:
            raise Conflict(f"the task is {state.status}", where=state.task_id, hint="It has ended")
        await self.command(task_id, verb, "")
        return state

    async def forget(self, task_id: str, tenant: str = "") -> TaskState:
        """Erase the stream of a task that has ended. Raises :class:`Conflict` if it has not."""
        state = self._registry.task(task_id, tenant)
        if not state.status.final and not self._hub.closed(task_id):
            raise Conflict(f"the task is {state.status}", where=task_id, hint="Cancel it first, or wait for its end")
        await self.command(task_id, ControlVerb.FORGET, "asked to forget")
        return state

    async def command(self, task_id: str, verb: ControlVerb, reason: str, *, detail: bytes = b"") -> int:
        """Append a command; gives its time, microseconds."""
        now = self._clock.now_us()
        owner = self._registry.tenant(task_id) or ""
        command = ControlCommand(task_id=task_id, verb=verb, at_us=now, reason=reason, detail=detail, tenant=owner)
        await self._publish("control", task_id, command)
        return now
