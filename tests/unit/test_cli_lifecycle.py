"""A service's process: its signals, its bounds, its logs."""

import io
import logging
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import structlog

from apexstream.runtime.lifecycle import ABANDONED_STATUS
from apexstream.runtime.logs import configure_logs
from apexstream.runtime.settings import Settings

DEADLINE_S = 30

PROGRAM = """
import asyncio, sys, time
from apexstream.core.errors import Unavailable
from apexstream.runtime import lifecycle
from apexstream.runtime.lifecycle import StopTimedOut, StoppedByItself, run_service
from apexstream.runtime.settings import Settings

lifecycle.ABANDON_GRACE_S = 0.1
settings = Settings(drain_timeout_s={drain_timeout_s})

async def serve(settings, *, ready, stop):
{body}

try:
    run_service(serve, settings, ready=lambda detail: print(detail, flush=True))
    print("ended in order")
except (StopTimedOut, StoppedByItself, Unavailable) as problem:
    print(type(problem).__name__)
"""


def start(body: str, drain_timeout_s: float = 20) -> "subprocess.Popen[str]":
    program = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), "    "), drain_timeout_s=drain_timeout_s)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def end(process: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    out, _ = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out.splitlines()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_a_service_to_stop_and_it_ends_in_order(number: signal.Signals) -> None:
    process = start("ready('up'); await stop.wait()")
    process.stdout.readline()

    process.send_signal(number)

    assert end(process) == (0, ["ended in order"])


def test_work_that_outlives_the_bound_is_cancelled() -> None:
    process = start("ready('up'); await asyncio.sleep(60)", drain_timeout_s=0.1)
    process.stdout.readline()

    process.terminate()

    assert end(process) == (0, ["StopTimedOut"])


def test_a_second_signal_cancels_at_once() -> None:
    process = start("ready('up')\nawait stop.wait()\nready('stopping')\nawait asyncio.sleep(60)")
    process.stdout.readline()
    process.terminate()
    process.stdout.readline()

    process.terminate()

    assert end(process) == (0, ["ended in order"])


@pytest.mark.parametrize(
    "stubborn",
    [
        "time.sleep(60)",
        "while True: pass",
        """
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass
        """,
    ],
    ids=["sleeps", "computes", "swallows its cancellation"],
)
def test_a_process_that_will_not_stop_is_left(stubborn: str) -> None:
    body = "ready('up')\nawait stop.wait()\n" + textwrap.dedent(stubborn)
    process = start(body, drain_timeout_s=0.1)
    process.stdout.readline()

    process.terminate()

    assert end(process)[0] == ABANDONED_STATUS


def test_a_service_that_returns_unasked_is_not_taken_for_one_that_stopped() -> None:
    assert end(start("return")) == (0, ["StoppedByItself"])


def test_what_a_service_raises_is_raised() -> None:
    assert end(start("raise Unavailable('no Kafka')")) == (0, ["Unavailable"])


@pytest.fixture
def logged() -> Iterator[Any]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    sink = io.StringIO()

    def configure(**settings: Any) -> Any:
        own_errors = settings.pop("own_errors", False)
        configure_logs(Settings(**settings), service="runner", own_errors=own_errors, stream=sink)
        return lambda: [msgspec.json.decode(line) for line in sink.getvalue().splitlines()]

    yield configure
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def test_our_logs_and_a_librarys_have_one_form(logged: Any) -> None:
    lines = logged()

    structlog.get_logger("apexstream.x").info("ours", task="t1")
    logging.getLogger("aiokafka").warning("theirs %d", 7)

    ours, theirs = lines()
    assert (ours["event"], ours["task"], ours["level"], ours["logger"]) == ("ours", "t1", "info", "apexstream.x")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("theirs 7", "warning", "aiokafka")
    assert {ours["service"], theirs["service"]} == {"runner"}
    assert set(theirs) <= set(ours)


def test_the_level_holds_and_libraries_are_shown_from_warning_on(logged: Any) -> None:
    lines = logged(log_level="info")

    structlog.get_logger("apexstream.x").debug("no")
    logging.getLogger("aiokafka").info("no")
    logging.getLogger("uvicorn.error").info("no")
    structlog.get_logger("apexstream.x").info("yes")

    assert [line["event"] for line in lines()] == ["yes"]


def test_commands_that_say_errors_themselves_hear_no_library(logged: Any) -> None:
    lines = logged(own_errors=True)

    logging.getLogger("aiokafka").error("no")

    assert lines() == []


def test_what_a_library_repeats_is_counted_and_not_repeated(logged: Any) -> None:
    lines = logged()
    (handler,) = logging.getLogger().handlers
    (flood,) = handler.filters
    now = 0.0
    flood._monotonic = lambda: now

    def complain(times: int) -> None:
        for _ in range(times):
            logging.getLogger("aiokafka").error("no connection to %s", "node 1")

    complain(500)
    logging.getLogger("aiokafka").error("something else")
    structlog.get_logger("apexstream.x").error("ours")
    structlog.get_logger("apexstream.x").error("ours")
    now = 11.0
    complain(2)

    assert [(line["event"], line.get("repeated")) for line in lines()] == [
        ("no connection to node 1", None),
        ("something else", None),
        ("ours", None),
        ("ours", None),
        ("no connection to node 1", 499),
    ]


def test_an_exception_is_one_line_of_json(logged: Any) -> None:
    lines = logged()

    structlog.get_logger("apexstream.x").error("failed", odd=object, exc_info=OSError("on fire"))

    (line,) = lines()
    assert "OSError: on fire" in line["exception"]


def test_a_warning_becomes_a_log(logged: Any) -> None:
    lines = logged()

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        logging.captureWarnings(capture=True)
        warnings.warn("beware", stacklevel=1)

    assert "beware" in lines()[0]["event"]


def test_console_logs_are_for_people(logged: Any, capsys: pytest.CaptureFixture[str]) -> None:
    sink = io.StringIO()
    configure_logs(Settings(log_format="console"), service="gateway", stream=sink)

    structlog.get_logger("apexstream.x").info("ready", url="http://x")

    assert "ready" in sink.getvalue()
    assert not sink.getvalue().startswith("{")
    assert os.linesep in sink.getvalue()
