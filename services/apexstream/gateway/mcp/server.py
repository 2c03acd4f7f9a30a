"""The MCP server: lists tools, calls them. The only module that imports the SDK."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import mcp_types as types
import msgspec
import structlog
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from starlette.requests import Request

from apexstream import __version__
from apexstream.client.model import Action
from apexstream.core.errors import ApexError, InvalidParameters
from apexstream.gateway.mcp import tools
from apexstream.gateway.mcp.calls import Call, Tell
from apexstream.gateway.mcp.desk import Desk
from apexstream.gateway.mcp.tools import CancelTask, Outcome, ReadStream, TaskState

KEY = "apexstream/idempotency_key"  # in a call's _meta
KEY_CHARACTERS_MAX = 256
CALLS_MAX = 1_000  # whose tasks are remembered, for a client that cancels one
BODY_BYTES_MAX = 512 * 1024
INSTRUCTIONS = f"""\
Each tool runs one action of a plugin and returns the chunks of its stream. The stream is durable: if a call breaks or returns \
"finished": false, nothing is lost; read on with {tools.READ} and the newest cursor you saw, or start with its stream_id alone."""

_Context = ServerRequestContext[Any, Any]
_log = structlog.get_logger(__name__)


class Tools:
    """The handlers. ``desk_of`` gives the desk of whoever makes a request; ``cancels``: a client that withdraws a call means the
    task, which is only so where a broken connection looks different."""

    def __init__(self, desk_of: Callable[[_Context], Desk], *, cancels: bool = False) -> None:
        self._desk_of = desk_of
        self._cancels = cancels
        self._running: OrderedDict[types.RequestId, str] = OrderedDict()

    def server(self) -> Server[Any]:
        """They as a server."""
        made: Server[Any] = Server(
            "apexstream",
            version=__version__,
            instructions=INSTRUCTIONS,
            on_list_tools=self._list,
            on_call_tool=self._call,
            get_tool_input_schema=lambda _: None,
        )
        if self._cancels:
            made.middleware.append(self._watch)
        return made

    async def _list(self, ctx: _Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:  # noqa: ARG002 - one page
        try:
            offer = await self._desk_of(ctx).offer()
        except ApexError as problem:
            raise _protocol_error(problem) from None
        return types.ListToolsResult(tools=[*map(_tool, offer.actions), *_own()])

    async def _call(self, ctx: _Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        desk = self._desk_of(ctx)
        try:
            kind = tools.OWN.get(params.name)
            if kind is not None:
                return await self._call_own(ctx, desk, _arguments(kind, params.arguments or {}))
            return _result(await self._run(ctx, desk, params))
        except ApexError as problem:
            return _refused(problem)

    async def _call_own(
        self, ctx: _Context, desk: Desk, wanted: ReadStream | CancelTask | TaskState
    ) -> types.CallToolResult:
        if isinstance(wanted, ReadStream):
            wait_s = min(max(wanted.wait_s, 1), tools.WAIT_S_MAX)
            return _result(await Call(desk, wanted.stream_id, wanted.cursor, _tell(ctx)).read(wait_s))
        if isinstance(wanted, CancelTask):
            return _plain(await desk.cancel(wanted.task_id, wanted.reason))
        return _plain(await desk.task(wanted.task_id))

    async def _run(self, ctx: _Context, desk: Desk, params: types.CallToolRequestParams) -> Outcome:
        action = tools.find(params.name, (await desk.offer()).actions)
        if action is None:
            raise MCPError(
                types.INVALID_PARAMS, f"there is no tool {params.name[:100]!r}; tools/list names what there is"
            )
        task_id = await desk.submit(action.plugin, action.action, params.arguments or {}, _key(ctx))
        tell = _tell(ctx)
        await tell(0, f"accepted · stream {task_id}")
        self._remember(ctx.request_id, task_id)
        outcome = await Call(desk, task_id, "", tell).read(tools.WAIT_S_MAX)
        self._forget(ctx.request_id)
        return outcome

    def _remember(self, request_id: types.RequestId | None, task_id: str) -> None:
        if self._cancels and request_id is not None:
            self._running[request_id] = task_id
            if len(self._running) > CALLS_MAX:
                self._running.popitem(last=False)

    def _forget(self, request_id: types.RequestId | None) -> None:
        if request_id is not None:
            self._running.pop(request_id, None)

    async def _watch(self, ctx: _Context, call_next: CallNext) -> HandlerResult:
        """A call that is withdrawn is broken off by the SDK, before or after this sees it: so it stays remembered then."""
        if ctx.method == "notifications/cancelled":
            said = ctx.params or {}
            task_id = self._running.pop(said.get("requestId", ""), None)
            if task_id is not None:
                try:
                    await self._desk_of(ctx).cancel(task_id, str(said.get("reason") or "cancelled over MCP"))
                except ApexError as problem:  # nobody waits for an answer
                    _log.warning("a task could not be cancelled", task=task_id, error=str(problem))
        return await call_next(ctx)


def session_manager(desk_of: Callable[[Request], Desk]) -> StreamableHTTPSessionManager:
    """Streamable HTTP. Without sessions, so that any gateway answers any request."""

    def of_request(ctx: _Context) -> Desk:
        assert isinstance(ctx.request, Request)  # noqa: S101 - every message comes by one
        return desk_of(ctx.request)

    return StreamableHTTPSessionManager(
        Tools(of_request).server(),
        stateless=True,
        # Host and Origin are checked by the guard, as for every route.
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        max_request_body_size=BODY_BYTES_MAX,
    )


async def serve_stdio(desk: Desk) -> None:
    """Standard input and output, until the client closes them."""
    server = Tools(lambda _: desk, cancels=True).server()
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


def _key(ctx: _Context) -> str:
    key = (ctx.meta or {}).get(KEY, "")
    if not isinstance(key, str) or len(key) > KEY_CHARACTERS_MAX:
        raise InvalidParameters(f"not a text of up to {KEY_CHARACTERS_MAX} characters", where=f"_meta {KEY}")
    return key


def _tell(ctx: _Context) -> Tell:
    async def tell(progress: float, words: str) -> None:
        await ctx.session.report_progress(progress, message=words)

    return tell


def _tool(action: Action) -> types.Tool:
    return types.Tool(
        name=tools.tool_name(action.plugin, action.action),
        title=f"{action.plugin} {action.action}",
        description=action.summary or f"The action {action.action} of plugin {action.plugin}.",
        input_schema={"type": "object", **action.params_schema},
        output_schema=tools.schema(Outcome),
    )


def _own() -> list[types.Tool]:
    outputs = {tools.READ: tools.schema(Outcome)}
    return [
        types.Tool(
            name=name,
            description=" ".join((kind.__doc__ or "").split()),
            input_schema=tools.schema(kind),
            output_schema=outputs.get(name),
            annotations=types.ToolAnnotations(read_only_hint=name != tools.CANCEL, idempotent_hint=True),
        )
        for name, kind in tools.OWN.items()
    ]


def _arguments(kind: type[ReadStream | CancelTask | TaskState], given: dict[str, Any]) -> Any:
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as problem:
        raise InvalidParameters(str(problem), where="arguments", hint="See the tool's input schema") from None


def _result(outcome: Outcome) -> types.CallToolResult:
    return _plain(outcome, is_error=outcome.status in {"error", "unreadable"})


def _plain(value: msgspec.Struct, *, is_error: bool = False) -> types.CallToolResult:
    text = types.TextContent(text=msgspec.json.encode(value).decode())
    return types.CallToolResult(content=[text], structured_content=msgspec.to_builtins(value), is_error=is_error)


def _refused(problem: ApexError) -> types.CallToolResult:
    """What a model can mend by itself is a result."""
    text = types.TextContent(text=msgspec.json.encode({"error": problem.as_dict()}).decode())
    return types.CallToolResult(content=[text], is_error=True)


def _protocol_error(problem: ApexError) -> MCPError:
    return MCPError(types.INVALID_REQUEST, str(problem), data=problem.as_dict())
