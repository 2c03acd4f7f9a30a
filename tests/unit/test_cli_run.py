"""The commands that talk to a gateway, against a real server that plays one, as processes of their own."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from apexstream.cli.exits import ExitCode
from apexstream.cli.main import run_command_line

SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}, "limit": {"type": "integer"}}}
DEADLINE_S = 30


class PlayedGateway:
    """Offers `demo count`; its streams are ``frames``, and hang after them until the task is cancelled."""

    def __init__(self) -> None:
        self.frames: list[dict[str, Any]] = []
        self.submitted: list[dict[str, Any]] = []
        self.cancelled: asyncio.Event | None = None
        self.sends_receipt = True
        self.status = "running"
        self.url = ""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/actions", self.actions),
                Route("/readyz", lambda _: JSONResponse({})),
                Route("/tasks", self.submit, methods=["POST"]),
                Route("/tasks", lambda _: JSONResponse({"tasks": [self.task("t1")]})),
                Route("/tasks/{id}", self.one),
                Route("/tasks/{id}", self.cancel, methods=["DELETE"]),
                WebSocketRoute("/stream", self.stream),
            ]
        )

    def task(self, task_id: str) -> dict[str, Any]:
        names = {"plugin": "demo", "action": "count", "tier": "normal"}
        return {"task_id": task_id, "stream_id": task_id, "status": self.status, **names}

    async def actions(self, _: Request) -> JSONResponse:
        action = {"plugin": "demo", "action": "count", "summary": "s", "streams": True, "params_schema": SCHEMA}
        return JSONResponse({"actions": [action], "broken_plugins": ["bad: ImportError: x"], "runners": 1})

    async def submit(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.submitted.append(body)
        return JSONResponse(self.task(body["task_id"]), 202)

    async def one(self, request: Request) -> JSONResponse:
        if request.path_params["id"] == "t1":
            return JSONResponse(self.task("t1"))
        return JSONResponse({"error": {"code": "unknown_task", "message": "there is no such task"}}, 404)

    async def cancel(self, request: Request) -> JSONResponse:
        if request.path_params["id"] == "t0":
            return await self.one(request)
        self._event().set()
        return JSONResponse({**self.task(request.path_params["id"]), "status": "cancelling"}, 202)

    async def stream(self, socket: WebSocket) -> None:
        await socket.accept()
        stream_id = (await socket.receive_json())["stream_id"]
        for frame in self.frames:
            await socket.send_json({"stream_id": stream_id, **frame})
        await self._event().wait()
        if self.sends_receipt:
            receipt = {"reason": "asked", "stopped_at_seq": len(self.frames)}
            end = {"type": "stream_cancelled", "stream_id": stream_id, "seq": len(self.frames), "data": receipt}
            await socket.send_json(end)
        await socket.receive()

    def _event(self) -> asyncio.Event:
        self.cancelled = self.cancelled or asyncio.Event()
        return self.cancelled


@pytest.fixture
def gateway() -> Iterator[PlayedGateway]:
    played = PlayedGateway()
    config = uvicorn.Config(played.app(), port=0, log_config=None, lifespan="off", ws="websockets-sansio")
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    played.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield played
    server.should_exit = server.force_exit = True
    thread.join(DEADLINE_S)
    listener.close()


def update(seq: int, data: Any) -> dict[str, Any]:
    return {"type": "stream_update", "seq": seq, "data": data}


DONE = [update(0, {"text": "one"}), update(1, {"n": 2}), {"type": "stream_complete", "seq": 2}]


class Command:
    """A running `apexstream` process."""

    def __init__(self, tmp_path: Path, gateway: PlayedGateway, *arguments: str, stdout: int = subprocess.PIPE) -> None:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("APEX_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "apexstream", *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            env={**environ, "APEX_HOME": str(tmp_path), "APEX_GATEWAY_URL": gateway.url},
            text=True,
        )

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out, err

    def says(self, text: str) -> None:
        """Read standard error until ``text`` is said."""
        assert self.process.stderr is not None
        while text not in (line := self.process.stderr.readline()):
            assert line, f"ended without saying {text!r}"


@pytest.fixture
def ended(tmp_path: Path, gateway: PlayedGateway, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Runs a command in this process; returns status, standard output and standard error."""
    for name in [name for name in os.environ if name.startswith("APEX_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    monkeypatch.setenv("APEX_GATEWAY_URL", gateway.url)
    return lambda *arguments: (run_command_line(arguments), *capsys.readouterr())


@pytest.fixture
def apexstream(tmp_path: Path, gateway: PlayedGateway) -> Any:
    return lambda *arguments, **options: Command(tmp_path, gateway, *arguments, **options)


def test_run_shows_the_stream_and_ends_well(gateway: PlayedGateway, ended: Any) -> None:
    gateway.frames = DONE

    status, out, err = ended("run", "demo", "count", "-p", "path=7", "-p", "limit=7", "--tier", "high")

    assert (status, out) == (ExitCode.OK, 'one\n{"n":2}\n')
    submitted = gateway.submitted[0]
    assert submitted["params"] == {"path": "7", "limit": 7}
    assert submitted["tier"] == "high"
    assert err == f"task {submitted['task_id']}\n"


def test_run_as_json_writes_the_frames(gateway: PlayedGateway, ended: Any) -> None:
    gateway.frames = DONE

    _, out, _ = ended("run", "demo", "count", "-o", "json")

    frames = [msgspec.json.decode(line) for line in out.splitlines()]
    stream_id = gateway.submitted[0]["task_id"]
    assert frames == [{"stream_id": stream_id, **frame} for frame in DONE]


def test_run_of_a_task_that_fails_says_why_and_ends_with_1(gateway: PlayedGateway, ended: Any) -> None:
    error = {"code": "plugin_failed", "message": "OSError: on fire", "where": "demo.count"}
    gateway.frames = [{"type": "stream_error", "seq": 0, "error": error}]

    status, out, err = ended("run", "demo", "count")

    assert (status, out) == (ExitCode.FAILED, "")
    assert err.splitlines()[1:] == ["error: demo.count: OSError: on fire"]


def test_run_detached_prints_the_task_and_leaves(gateway: PlayedGateway, ended: Any) -> None:
    status, out, _ = ended("run", "demo", "count", "--detach")

    assert (status, out) == (ExitCode.OK, gateway.submitted[0]["task_id"] + "\n")


def test_the_first_ctrl_c_cancels_and_waits_for_the_receipt(gateway: PlayedGateway, apexstream: Any) -> None:
    gateway.frames = DONE[:1]
    command = apexstream("run", "demo", "count")
    command.process.stdout.readline()

    command.process.send_signal(signal.SIGINT)
    status, _, err = command.end()

    assert status == ExitCode.CANCELLED
    assert "Ctrl-C again leaves without it" in err
    assert "cancelled at seq 1: reason asked, stopped_at_seq 1" in err


def test_the_second_ctrl_c_leaves_without_the_receipt(gateway: PlayedGateway, apexstream: Any) -> None:
    gateway.frames, gateway.sends_receipt = DONE[:1], False
    command = apexstream("run", "demo", "count")
    command.process.stdout.readline()
    command.process.send_signal(signal.SIGINT)
    command.says("Ctrl-C again")

    command.process.send_signal(signal.SIGINT)
    status, _, err = command.end()

    assert status == ExitCode.INTERRUPTED
    assert "apexstream tail" in err


def test_sigterm_leaves_the_task_alone(gateway: PlayedGateway, apexstream: Any) -> None:
    gateway.frames = DONE[:1]
    command = apexstream("run", "demo", "count")
    command.process.stdout.readline()

    command.process.terminate()
    status, _, _ = command.end()

    assert status == ExitCode.TERMINATED
    assert gateway.cancelled is not None
    assert not gateway.cancelled.is_set()


def test_a_reader_that_stops_reading_ends_the_command_quietly(gateway: PlayedGateway, apexstream: Any) -> None:
    gateway.frames = [update(seq, "x" * 1000) for seq in range(2000)]
    reading, writing = os.pipe()
    command = apexstream("run", "demo", "count", stdout=writing)
    os.close(writing)
    os.read(reading, 100)
    os.close(reading)

    status, _, err = command.end()

    assert status == ExitCode.READER_GONE
    assert len(err.splitlines()) == 1  # which task


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("run", "demo", "cuont"), 3, "demo cuont: no such action. Did you mean demo count?"),
        (("run", "bad", "x"), 3, "bad: the plugin could not be loaded: ImportError: x"),
        (("run", "demo", "count", "-p", "limit=many"), 2, "limit: expected JSON of type integer, got 'many'"),
        (("run", "demo", "count", "--local", "--detach"), 2, "apexstream run: Invalid value for --detach"),
        (("run", "demo"), 2, "apexstream run: Missing argument 'action'"),
        (("run", "demo", "count", "--url", "ftp://x"), 2, "ftp://x: not the address of a gateway"),
        (("run", "demo", "count", "--url", "http://127.0.0.1:1"), 4, "no gateway answers. Start one"),
        (("cancel", "t0"), 3, "there is no such task"),
        (("cancel", "../etc"), 3, "not a valid task_id"),
        (("tail", "t0"), 3, "there is no such task"),
        (("tail", "t1", "--from", "end"), 2, "--from: a stream cannot be read from 'end'"),
        (("frobnicate",), 2, "No such command 'frobnicate'"),
        (("topics",), 2, "apexstream topics: Missing command"),
        (("up", "--once"), 2, "it needs --run"),
    ],
)
def test_an_error_is_one_line_with_its_own_status(
    arguments: tuple[str, ...], status: int, said: str, ended: Any
) -> None:
    code, out, err = ended(*arguments)

    assert (code, out) == (status, "")
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1


def test_cancel_says_how_the_task_stands(ended: Any) -> None:
    assert ended("cancel", "t1")[:2] == (ExitCode.OK, "cancelling\n")


def test_tasks_are_listed(ended: Any) -> None:
    status, out, _ = ended("tasks")

    assert status == ExitCode.OK
    assert out.splitlines()[1].split("\t") == ["t1", "demo", "count", "normal", "running", "0", ""]


def test_tail_shows_a_stream_from_a_seq_on(gateway: PlayedGateway, ended: Any) -> None:
    gateway.frames = DONE

    status, out, _ = ended("tail", "t1", "--from", "1")

    assert (status, out) == (ExitCode.OK, '{"n":2}\n')


def test_tail_without_following_ends_when_a_running_stream_is_quiet(gateway: PlayedGateway, ended: Any) -> None:
    gateway.frames = DONE[:2]

    status, out, err = ended("tail", "t1", "--no-follow")

    assert (status, out) == (ExitCode.OK, 'one\n{"n":2}\n')
    assert "the stream goes on" in err


def test_ctrl_c_leaves_a_tail_and_cancels_nothing(gateway: PlayedGateway, apexstream: Any) -> None:
    gateway.frames = DONE[:1]
    command = apexstream("tail", "t1")
    command.process.stdout.readline()

    command.process.send_signal(signal.SIGINT)

    assert command.end()[0] == ExitCode.INTERRUPTED
    assert gateway.cancelled is not None
    assert not gateway.cancelled.is_set()
