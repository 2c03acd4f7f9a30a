"""Traces: what is sent along, what is logged, and when spans are exported."""

import sys

import pytest
import structlog
from structlog.testing import capture_logs

from apexstream.core.errors import InvalidConfiguration
from apexstream.runtime import tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_inside_a_span_the_trace_is_the_parents_and_outside_there_is_none() -> None:
    with tracing.span("work", PARENT):
        inside = tracing.current()

    assert tracing.trace_id_of(inside) == tracing.trace_id_of(PARENT)
    assert tracing.current() == ""


@pytest.mark.parametrize("broken", ["", "rubbish", "00-" + "0" * 32 + "-b7ad6b7169203331-01", PARENT.upper() + "-x"])
def test_what_is_no_trace_context_is_no_parent(broken: str) -> None:
    with tracing.span("work", broken):
        assert tracing.current() == ""


def test_new_traces_differ_and_are_understood() -> None:
    one, other = tracing.new(), tracing.new()

    with tracing.span("work", one):
        assert tracing.current() == one
    assert tracing.trace_id_of(one) != tracing.trace_id_of(other)


def test_what_is_logged_about_a_task_says_which_stream_and_trace() -> None:
    log = structlog.get_logger("apexstream.test")
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logged:
        with tracing.of_task("t1", PARENT):
            log.info("inside")
        log.info("outside")

    inside, outside = logged
    assert (inside["task"], inside["stream"], inside["trace"]) == ("t1", "t1", "0af7651916cd43dd8448eb211c80319c")
    assert "trace" not in outside


def test_nothing_is_exported_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)

    with tracing.exported("runner", {"OTEL_TRACES_EXPORTER": "none"}):
        pass
    with tracing.exported("runner", {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}):
        pass
    with (
        pytest.raises(InvalidConfiguration, match=r"Install apexstream\[otel\]"),
        tracing.exported("runner", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}),
    ):
        pass
