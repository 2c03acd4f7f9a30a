"""Whose a stream is, by the log alone: its task's submission, or when that is long gone its sealed state."""

from collections.abc import Callable

from apexstream.core.errors import UnknownTask
from apexstream.core.events import StreamState
from apexstream.gateway.access.principal import Principal, sees
from apexstream.gateway.registry import CONTESTED


class Ownership:
    """``tenant_of_task`` gives whose task an id is, ``state`` what is sealed of a stream; None for both: nothing is known."""

    def __init__(self, tenant_of_task: Callable[[str], str | None], state: Callable[[str], StreamState | None]) -> None:
        self._tenant_of_task = tenant_of_task
        self._state = state

    def owner(self, stream_id: str) -> str | None:
        """The tenant that the stream belongs to; None if it is not known. What its claims said outweighs a dispute."""
        tenant = self._tenant_of_task(stream_id)
        if tenant is not None and tenant != CONTESTED:
            return tenant
        state = self._state(stream_id)
        return tenant if state is None else state.tenant

    def check(self, principal: Principal, stream_id: str) -> None:
        """Raise :class:`UnknownTask`, the same for a stream of somebody else as for none at all."""
        if not sees(principal.tenant, self.owner(stream_id)):
            raise UnknownTask(
                f"there is no stream {stream_id!r}", where="stream_id", hint="It was never written, or has expired"
            )
