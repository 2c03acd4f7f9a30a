"""Actions run in the command's own process."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from apexstream.cli.exits import ExitCode

PLUGINS = Path(__file__).parents[1] / "support" / "plugins"
DEADLINE_S = 30


@pytest.fixture
def local(tmp_path: Path) -> Any:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("APEX_")}
    path = os.pathsep.join([str(PLUGINS), *filter(None, [environ.get("PYTHONPATH")])])

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "apexstream", "run", "probe", *arguments, "--local"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**environ, "PYTHONPATH": path, "APEX_HOME": str(tmp_path)},
            text=True,
        )

    return start


def frames_of(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]]]:
    out, _ = process.communicate(timeout=DEADLINE_S)
    return process.returncode, [msgspec.json.decode(line) for line in out.splitlines()]


def test_a_local_run_gives_the_frames_that_a_gateway_would(local: Any) -> None:
    status, frames = frames_of(local("report", "-p", "n=2", "-o", "json"))

    assert status == ExitCode.OK
    assert [frame["seq"] for frame in frames] == list(range(len(frames)))
    assert [frame["data"] for frame in frames if frame["type"] == "stream_update"] == [0, 1]
    assert frames[0]["progress"] == {"percentage": 0.0, "message": "step 0", "status": "running"}
    assert frames[-1]["type"] == "stream_complete"


def test_chunks_of_every_content_type_look_as_on_the_wire(local: Any) -> None:
    _, frames = frames_of(local("kinds", "-o", "json"))

    assert [{key: frame[key] for key in frame if key in {"data", "content_type", "encoding"}} for frame in frames] == [
        {"data": {"json": True}},
        {"data": "# title", "content_type": "text/markdown"},
        {"data": "AP8=", "content_type": "application/octet-stream", "encoding": "base64"},
        {"data": None},
        {},
    ]


def test_a_blocking_generator_runs_too(local: Any) -> None:
    status, frames = frames_of(local("blocking", "-p", "n=3", "-o", "json"))

    assert (status, len(frames)) == (ExitCode.OK, 4)


def test_an_action_that_raises_ends_its_stream_with_the_place(local: Any) -> None:
    process = local("fail", "-p", "after=1")
    out, err = process.communicate(timeout=DEADLINE_S)

    assert (process.returncode, out) == (ExitCode.FAILED, "0\n")
    assert "error: probe.fail: OSError: the disk is on fire (probe_plugin.py:" in err
    assert "Traceback" not in err


def test_a_chunk_that_cannot_be_one_is_that_streams_error(local: Any) -> None:
    status, frames = frames_of(local("odd", "-p", "what=object", "-o", "json"))

    assert status == ExitCode.FAILED
    assert frames[-1]["error"]["code"] == "invalid_chunk"


def test_parameters_are_checked_before_anything_runs(local: Any) -> None:
    process = local("count", "-p", "m=1")
    out, err = process.communicate(timeout=DEADLINE_S)

    assert (process.returncode, out) == (ExitCode.USAGE, "")
    assert err.count("\n") == 1
    assert "It takes: n?" in err


def test_ctrl_c_cancels_and_the_receipt_says_where_it_stopped(local: Any) -> None:
    process = local("count", "-p", "n=100000", "-p", "interval_s=0.01", "-o", "json")
    process.stdout.readline()

    process.send_signal(signal.SIGINT)
    status, frames = frames_of(process)

    assert status == ExitCode.CANCELLED
    assert frames[-1]["type"] == "stream_cancelled"
    assert frames[-1]["data"]["stopped_at_seq"] == frames[-1]["seq"]


def test_a_second_ctrl_c_leaves_an_action_that_does_not_listen(local: Any) -> None:
    process = local("deaf")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    while "again" not in process.stderr.readline():
        pass

    process.send_signal(signal.SIGINT)

    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == ExitCode.INTERRUPTED
