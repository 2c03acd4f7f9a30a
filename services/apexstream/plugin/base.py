"""The class-based plugin interface, and what an action is handed while it runs."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar

import msgspec

from apexstream.core.options import TaskOptions

Params = Mapping[str, Any]


class ProgressUpdate(msgspec.Struct, frozen=True):
    """How far an action is: ``percentage`` 0 to 100 (None: unknown), a ``message`` for people, a ``status`` word."""

    percentage: float | None = None
    message: str = ""
    status: str = "running"


ProgressCallback = Callable[[ProgressUpdate], Awaitable[None]]
"""Takes a :class:`ProgressUpdate` at once, from any thread; awaiting what it returns is allowed and not needed.

Updates that follow each other faster than they can be stored are conflated: the newest wins, in its place in the stream.
"""


class CancellationToken:
    """Tells an action that its result is no longer wanted. The action should stop at its next convenient place."""

    __slots__ = ("_event", "_reason")

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._reason = ""

    @property
    def is_cancelled(self) -> bool:
        """True from the moment that someone cancelled the task. Safe to read from any thread."""
        return self._event.is_set()

    @property
    def reason(self) -> str:
        """Why, in the words of whoever cancelled; empty if they gave none."""
        return self._reason

    def cancel(self, reason: str = "") -> None:
        """Ask the action to stop. Asking again changes nothing."""
        if not self._event.is_set():
            self._reason = reason
            self._event.set()

    async def wait(self) -> None:
        """Return once cancelled, for actions that wait for something else at the same time."""
        await self._event.wait()

    def raise_if_cancelled(self) -> None:
        """Raise :class:`asyncio.CancelledError` if cancelled: the shortest way to stop from deep inside."""
        if self._event.is_set():
            raise asyncio.CancelledError(self._reason)


class ResumeMode(StrEnum):
    """How another attempt goes on with a stream that an earlier one began."""

    RESTART = "restart"  # from the start; viewers are told to forget what they saw
    DETERMINISTIC = "deterministic"  # run again, which gives the same chunks; those that are published are skipped
    CHECKPOINTED = "checkpointed"  # from the state that travelled with the last checkpointed chunk


class ActionSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What callers are told of an action. ``params_schema`` is JSON Schema (2020-12) of its parameters, an object.

    ``resume`` is a :class:`ResumeMode`; ``options`` are the action's defaults, which a task may override.
    """

    name: str
    summary: str = ""
    params_schema: Mapping[str, Any] = msgspec.field(default_factory=lambda: {"type": "object"})
    resume: str = ResumeMode.RESTART.value
    options: TaskOptions = TaskOptions()


class BasePlugin:
    """A plugin as a class: override :meth:`get_actions`, and :meth:`execute_action` or :meth:`execute_action_stream`.

    With only ``execute_action`` every action is a stream of one chunk. ``execute_action_stream`` may be an async
    generator or a plain generator (which is run in a thread), or return any async iterable, iterable or awaitable.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""

    def get_actions(self) -> Iterable[ActionSpec | str]:
        """The actions that this plugin offers: names, or specs that also describe the parameters."""
        raise TypeError(f"{type(self).__name__} must override get_actions()")

    async def execute_action(self, action_name: str, params: Params | None = None) -> Any:  # noqa: ARG002 - the interface
        """Run an action and return its whole result."""
        raise TypeError(f"{type(self).__name__} must override execute_action() or execute_action_stream()")

    async def execute_action_stream(
        self,
        action_name: str,
        params: Params | None = None,
        progress_callback: ProgressCallback | None = None,  # noqa: ARG002 - the interface
        cancellation_token: CancellationToken | None = None,  # noqa: ARG002 - the interface
    ) -> AsyncIterator[Any]:
        """Run an action and yield its result a chunk at a time: JSON-able values, dataclasses, structs, ``bytes``."""
        if inspect.iscoroutinefunction(self.execute_action):
            yield await self.execute_action(action_name, params)
        else:  # written as a plain method: it may block
            yield await asyncio.to_thread(self.execute_action, action_name, params)

    def streams(self, action_name: str) -> bool:  # noqa: ARG002 - an override may decide by action
        """Whether ``action_name`` yields its result in chunks, rather than one chunk at the end."""
        return type(self).execute_action_stream is not BasePlugin.execute_action_stream

    def resume_mode(self, action_name: str) -> str:  # noqa: ARG002 - an override may decide by action
        """How ``action_name`` goes on after a crash, a :class:`ResumeMode`; an :class:`ActionSpec` that says more wins."""
        return ResumeMode.RESTART

    def validate(self, action_name: str, params: Params) -> None:
        """Raise :class:`~apexstream.plugin.InvalidParameters` if ``params`` do not fit; called before an action runs."""


def specs_of(plugin: BasePlugin) -> Sequence[ActionSpec]:
    """The plugin's actions, each as a spec. Raises :class:`TypeError` for a resume mode that does not exist."""
    return [_spec_of(plugin, action) for action in plugin.get_actions()]


def _spec_of(plugin: BasePlugin, action: ActionSpec | str) -> ActionSpec:
    spec = ActionSpec(name=action) if isinstance(action, str) else action
    mode = spec.resume if spec.resume != ResumeMode.RESTART else plugin.resume_mode(spec.name)
    return msgspec.structs.replace(spec, resume=check_resume(mode, spec.name))


def check_resume(mode: str, action: str) -> str:
    """``mode`` if it is one, as plain text; else :class:`TypeError`."""
    try:
        return ResumeMode(mode).value
    except ValueError:
        known = ", ".join(ResumeMode)
        raise TypeError(f"action {action} has resume={mode!r}, which is none of: {known}") from None
