"""What the gateway counts: requests by route, and what each live stream gives to its viewers."""

import time
from collections.abc import Callable

from opentelemetry.trace import SpanKind
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apexstream.runtime import meters, tracing

UNKNOWN = "unknown"  # of a stream whose task this gateway does not know any more

ActionOf = Callable[[str], tuple[str, str]]
"""The plugin and the action that write a stream; both ``unknown`` where no task is known."""


def action_unknown(_: str) -> tuple[str, str]:
    """For a gateway that knows no tasks."""
    return UNKNOWN, UNKNOWN


class StreamMeasures:
    """The cells of one live stream. ``now_us`` is the wall clock, microseconds."""

    __slots__ = ("_latency", "_now_us")

    def __init__(self, plugin: str, action: str, now_us: Callable[[], int]) -> None:
        self._latency = meters.VIEWER_LATENCY.of(plugin, action)
        self._now_us = now_us

    def handed_over(self, yielded_us: int) -> None:
        """A run whose newest chunk was yielded then goes to the viewers now."""
        self._latency.observe(max(0, self._now_us() - yielded_us) / 1e6)


class CountRequests:
    """ASGI middleware: how long HTTP requests took, by the route that answered them, each in a span below the client's.
    A stream of events counts up to its first byte: how long somebody watches says nothing of the gateway."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and count what is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_at = time.monotonic()

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                took = meters.REQUESTS.of(_route_of(scope), str(message["status"]))
                took.observe(time.monotonic() - began_at)
            await send(message)

        with tracing.span(f"{scope['method']} {scope['path']}", _traceparent(scope), kind=SpanKind.SERVER) as span:
            await self._app(scope, receive, counted)
            span.update_name(_route_of(scope))


def _traceparent(scope: Scope) -> str:
    values = [value for name, value in scope["headers"] if name == b"traceparent"]
    return values[0].decode("latin-1") if len(values) == 1 else ""


def _route_of(scope: Scope) -> str:
    route = scope.get("route")
    path = getattr(route, "path", "") or "/"
    return f"{scope['method']} {path}" if route is not None else f"{scope['method']} {UNKNOWN}"
