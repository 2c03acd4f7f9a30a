"""One trace a task: from its submission through Kafka to the plugin and the viewers, by W3C ``traceparent``.

Spans are OpenTelemetry's. Without an exporter (``OTEL_…`` variables and the extra ``otel``) they cost next to nothing and the
trace id still travels: logs and exemplars have it either way.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from apexstream.core.errors import InvalidConfiguration

HEADER: Final = "traceparent"
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_EXPORTED_BY = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER")
FLUSH_TIMEOUT_MS = 3_000
_PLAIN: Final = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_unexported: ContextVar[str] = ContextVar("_unexported", default="")

Headers = tuple[tuple[str, bytes], ...]
"""Of a Kafka record."""


def continued(traceparent: str) -> Context:
    """The context in which a remote ``traceparent`` is the parent; an empty one if it is none."""
    return _PROPAGATOR.extract({HEADER: traceparent}) if traceparent else Context()


def current() -> str:
    """The ``traceparent`` of what runs now; empty outside of any span."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get(HEADER, "") or _unexported.get()


def new() -> str:
    """The ``traceparent`` of a trace that begins here."""
    drawn = os.urandom(24).hex()
    return f"00-{drawn[:32]}-{drawn[32:]}-01"


def trace_id_of(traceparent: str) -> str:
    """The trace's id, 32 hexadecimal digits; empty if there is none."""
    return traceparent[3:35]


def headers_of(traceparent: str) -> Headers:
    """What a record about a task carries, for tools that follow traces through Kafka."""
    return ((HEADER, traceparent.encode()),) if traceparent else ()


@contextmanager
def span(
    name: str, traceparent: str = "", *, kind: trace.SpanKind = trace.SpanKind.INTERNAL, **attributes: str | int
) -> Iterator[trace.Span]:
    """A span while the block runs, below ``traceparent`` if there is one, else below what runs now. An exception that
    leaves the block is recorded."""
    if trace._TRACER_PROVIDER is None:  # noqa: SLF001 - the public way looks into the environment each time
        with _passed_on(traceparent):
            yield trace.INVALID_SPAN
        return
    tracer = trace.get_tracer("apexstream")
    parent = continued(traceparent) if traceparent else None
    named = {f"apexstream.{key}": value for key, value in attributes.items()}
    with tracer.start_as_current_span(name, parent, kind, named) as started:
        yield started


@contextmanager
def _passed_on(traceparent: str) -> Iterator[None]:
    """What a span is while nobody exports any: the trace travels on. OpenTelemetry's own way costs ten times as much."""
    within = traceparent if _PLAIN.fullmatch(traceparent) else "" if traceparent else _unexported.get()
    before = _unexported.set(within)
    try:
        yield
    finally:
        _unexported.reset(before)


@contextmanager
def of_task(task_id: str, traceparent: str) -> Iterator[None]:
    """Whatever is logged in the block says which task, stream and trace it is about."""
    with structlog.contextvars.bound_contextvars(task=task_id, stream=task_id, trace=trace_id_of(traceparent)):
        yield


@contextmanager
def exported(service: str, environ: Mapping[str, str] | None = None) -> Iterator[None]:
    """Send spans where the usual OTEL variables say, while the block runs; nowhere if they say nothing.

    Raises :class:`InvalidConfiguration` if they ask for it and the extra is not installed.
    """
    asked = os.environ if environ is None else environ
    wanted = next((name for name in _EXPORTED_BY if asked.get(name, "") not in {"", "none"}), "")
    if not wanted or asked.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as problem:
        raise InvalidConfiguration(
            f"spans are to be exported, and {problem.name} is not installed",
            where=wanted,
            hint="Install apexstream[otel]",
        ) from problem
    provider = TracerProvider(resource=Resource.create({"service.name": f"apexstream-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.force_flush(FLUSH_TIMEOUT_MS)
        provider.shutdown()
