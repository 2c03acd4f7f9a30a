"""The short way to write a plugin: async generator functions with typed parameters."""

import asyncio
import copy
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack, overload

import msgspec

from apexstream.core.errors import InvalidParameters
from apexstream.core.ids import check_id
from apexstream.core.options import TaskOptions
from apexstream.plugin.base import (
    ActionSpec,
    BasePlugin,
    CancellationToken,
    Params,
    ProgressCallback,
    ProgressUpdate,
    ResumeMode,
    check_resume,
)
from apexstream.plugin.coordination import WAIT_S, Coordination
from apexstream.plugin.persistence import State, StreamPersistence

Function = TypeVar("Function", bound=Callable[..., Any])


class OptionFields(TypedDict, total=False):
    """The fields of :class:`~apexstream.plugin.TaskOptions`, as the decorator takes them."""

    first_chunk_timeout_s: float
    idle_timeout_s: float
    total_timeout_s: float
    max_attempts: int
    backoff_s: float
    backoff_max_s: float
    ttl_s: float
    bytes_max: int
    keep: bool
    adaptive: bool
    rate_min: float
    rate_max: float


class _Done:
    """Awaited, it returns at once; not awaited, nobody complains."""

    def __await__(self) -> Iterator[None]:
        return iter(())


def _ignore_progress(update: ProgressUpdate) -> Awaitable[None]:  # noqa: ARG001 - where nobody listens
    return _Done()  # type: ignore[return-value]  # an iterator without steps is what awaiting needs


@dataclass(frozen=True, slots=True)
class ActionContext:
    """What a decorated action gets as its first parameter, if it asks for one."""

    cancellation_token: CancellationToken = field(default_factory=CancellationToken)
    progress_callback: ProgressCallback = _ignore_progress
    persistence: StreamPersistence = field(default_factory=StreamPersistence)
    shared: Coordination = field(default_factory=Coordination)

    @property
    def task_id(self) -> str:
        """The task that runs; empty outside of the platform."""
        return self.persistence.task_id

    @property
    def attempt(self) -> int:
        """The how manieth try this is, from 1."""
        return self.persistence.attempt

    @property
    def traceparent(self) -> str:
        """The attempt's W3C trace context, to be sent along as the header ``traceparent`` with calls that the action makes;
        empty outside of the platform."""
        return self.persistence.traceparent

    def restored(self, kind: type[State]) -> State | None:
        """The state to go on from, or None on a fresh start; see :meth:`StreamPersistence.restored`."""
        return self.persistence.restored(kind)

    def idempotency_key(self, seq_of_data: int | None = None) -> str:
        """A key for a side effect that belongs to a data chunk; see :meth:`StreamPersistence.idempotency_key`."""
        return self.persistence.idempotency_key(seq_of_data)

    async def signal(self, name: str, value: Any = None, *, scope: str = "") -> Any:
        """Tell other tasks that something has happened; see :meth:`Coordination.signal`."""
        return await self.shared.signal(name, value, scope=scope)

    async def wait_for(self, name: str, *, timeout_s: float = WAIT_S, scope: str = "") -> Any:
        """Wait for a signal of another task; see :meth:`Coordination.wait_for`."""
        return await self.shared.wait_for(name, timeout_s=timeout_s, scope=scope)

    async def barrier(
        self, name: str, parties: int, value: Any = None, *, timeout_s: float = WAIT_S, scope: str = ""
    ) -> dict[str, Any]:
        """Wait until as many tasks are here; see :meth:`Coordination.barrier`."""
        return await self.shared.barrier(name, parties, value, timeout_s=timeout_s, scope=scope)

    async def progress(self, percentage: float | None = None, message: str = "", status: str = "running") -> None:
        """Tell viewers how far the action is; see :class:`ProgressUpdate`."""
        await self.progress_callback(ProgressUpdate(percentage, message, status))

    def report(self, percentage: float | None = None, message: str = "", status: str = "running") -> None:
        """The same from a plain generator or function, which cannot await."""
        self.progress_callback(ProgressUpdate(percentage, message, status))


@dataclass(frozen=True, slots=True)
class _Action:
    function: Callable[..., Any]
    spec: ActionSpec
    params: type[msgspec.Struct]
    takes_context: bool

    @property
    def streams(self) -> bool:
        return inspect.isasyncgenfunction(self.function) or inspect.isgeneratorfunction(self.function)

    @property
    def blocks(self) -> bool:
        """A plain function, which may block and is run in a thread."""
        return not self.streams and not inspect.iscoroutinefunction(self.function)


class Plugin(BasePlugin):
    """A plugin made of decorated functions. Its parameters are validated against their annotations before it runs.

    >>> plugin = Plugin("greet")
    >>> @plugin.action
    ... async def hello(ctx: ActionContext, name: str, times: int = 3) -> AsyncIterator[str]:
    ...     '''Greet someone, one greeting a chunk.'''
    ...     for _ in range(times):
    ...         yield f"Hello {name}"
    """

    def __init__(self, name: str, *, summary: str = "") -> None:
        self.name = check_id(name, "plugin name")  # type: ignore[misc]  # a class attribute for subclasses, ours per object
        self.summary = summary  # type: ignore[misc]
        self._actions: dict[str, _Action] = {}
        self._functions: dict[str, Callable[..., Any]] = {}

    @overload
    def action(self, function: Function, /) -> Function: ...

    @overload
    def action(self, /, *, resume: str = ..., **options: Unpack[OptionFields]) -> Callable[[Function], Function]: ...

    def action(
        self,
        function: Function | None = None,
        /,
        *,
        resume: str = ResumeMode.RESTART,
        **options: Unpack[OptionFields],
    ) -> Function | Callable[[Function], Function]:
        """Make ``function`` an action named as it is. The first line of its docstring is the summary.

        It may be an async generator, a generator (run in a thread), or a function that returns one result. A first
        parameter annotated :class:`ActionContext` gets the context; all others are the action's parameters.

        With keywords, ``@plugin.action(resume="checkpointed", idle_timeout_s=60)``: how it goes on after a crash, and
        defaults for the options of its tasks. Raises :class:`TypeError` for what cannot be.
        """

        def add(function: Function) -> Function:
            name = check_id(function.__name__.lower(), "action name")
            if name in self._actions:
                raise TypeError(f"plugin {self.name} has two actions named {name}")
            self._actions[name] = _describe(name, function, check_resume(resume, name), _options(name, options))
            return function

        return add if function is None else add(function)

    def function(self, function: Function, /) -> Function:
        """Make ``function`` one that pipelines may call by name, as ``plugin:name``: a plain or an async function of an
        element (of ``scan`` and ``reduce``: of what came out so far and an element) that gives what JSON can carry.

        It must be deterministic: pipelines call it again for the same elements after a crash. Raises :class:`TypeError` for a
        name that is taken.
        """
        name = check_id(function.__name__.lower(), "function name")
        if name in self._functions:
            raise TypeError(f"plugin {self.name} has two functions named {name}")
        self._functions[name] = function
        return function

    @property
    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """The functions that pipelines may call, by name."""
        return self._functions

    def get_actions(self) -> list[ActionSpec]:
        """All decorated actions."""
        return [action.spec for action in self._actions.values()]

    def streams(self, action_name: str) -> bool:
        """True if the function is a generator."""
        return self._actions[action_name].streams

    def resume_mode(self, action_name: str) -> str:
        """As declared."""
        return self._actions[action_name].spec.resume

    def validate(self, action_name: str, params: Params) -> None:
        """Check ``params`` against the function's annotations."""
        self._bind(action_name, params)

    def execute_action_stream(
        self,
        action_name: str,
        params: Params | None = None,
        progress_callback: ProgressCallback | None = None,
        cancellation_token: CancellationToken | None = None,
    ) -> Any:
        """Call the function with validated parameters; what it returns is iterated by the platform."""
        action = self._actions[action_name]
        function = partial(action.function, **self._bind(action_name, params or {}))
        if action.takes_context:
            function = partial(
                function,
                ActionContext(
                    cancellation_token=cancellation_token or CancellationToken(),
                    progress_callback=progress_callback or _ignore_progress,
                    persistence=StreamPersistence.current(),
                    shared=Coordination.current(),
                ),
            )
        return asyncio.to_thread(function) if action.blocks else function()

    def _bind(self, action_name: str, params: Params) -> dict[str, Any]:
        model = self._actions[action_name].params
        try:
            bound = msgspec.convert(params, model, dec_hook=_read_path)
        except msgspec.ValidationError as problem:
            what, _, place = str(problem).partition(" - at ")
            where = f"{self.name}.{action_name}" + (f" {place.strip('`')}" if place else "")
            raise InvalidParameters(what, where=where, hint=_takes(model)) from None
        return {name: getattr(bound, name) for name in model.__struct_fields__}


def _options(name: str, options: OptionFields) -> TaskOptions:
    try:
        return msgspec.convert(options, TaskOptions)
    except msgspec.ValidationError as problem:
        raise TypeError(f"action {name}: {problem}") from None


def _describe(name: str, function: Callable[..., Any], resume: str, options: TaskOptions) -> _Action:
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    takes_context = bool(parameters) and parameters[0].annotation is ActionContext
    fields = [_field(function, parameter) for parameter in parameters[takes_context:]]
    model = msgspec.defstruct(f"{name}_params", fields, kw_only=True, forbid_unknown_fields=True)
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    spec = ActionSpec(name=name, summary=summary, params_schema=_schema(model), resume=resume, options=options)
    return _Action(function, spec, model, takes_context)


def _field(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    if parameter.kind not in {parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY}:
        raise TypeError(f"action {function.__qualname__}: parameter {parameter} must be an ordinary named parameter")
    if parameter.annotation is parameter.empty:
        raise TypeError(f"action {function.__qualname__}: parameter {parameter.name} needs a type annotation")
    if parameter.default is parameter.empty:
        return (parameter.name, parameter.annotation)
    default = parameter.default
    return (parameter.name, parameter.annotation, msgspec.field(default_factory=lambda: copy.deepcopy(default)))


def _schema(model: type[msgspec.Struct]) -> Mapping[str, Any]:
    (schema,), definitions = msgspec.json.schema_components(
        [model], schema_hook=_path_schema, ref_template="#/$defs/{name}"
    )
    own = dict(definitions.pop(schema["$ref"].rpartition("/")[2]))
    own.pop("title", None)
    for field_info in msgspec.structs.fields(model):
        _show_default(own["properties"][field_info.encode_name], field_info)
    if definitions:
        own["$defs"] = definitions
    return own


def _show_default(schema: dict[str, Any], field_info: msgspec.structs.FieldInfo) -> None:
    if field_info.default_factory is msgspec.NODEFAULT:
        return
    default = field_info.default_factory()
    schema["default"] = msgspec.to_builtins(default, enc_hook=str)


def _takes(model: type[msgspec.Struct]) -> str:
    shown = [
        name if info.required else f"{name}?"
        for name, info in zip(model.__struct_fields__, msgspec.structs.fields(model), strict=True)
    ]
    return f"It takes: {', '.join(shown)}" if shown else "It takes no parameters"


def _read_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise msgspec.ValidationError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")


def _path_schema(kind: type) -> dict[str, Any]:
    if kind is Path:
        return {"type": "string", "format": "path"}
    raise TypeError(f"parameters of type {kind.__name__} are not supported")
