"""The client's requests against a real HTTP server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from apexstream.client import Client, Problem, TaskOptions
from apexstream.client.credentials import authorization, token_source
from apexstream.core.errors import (
    DataCorruption,
    Forbidden,
    InvalidConfiguration,
    InvalidParameters,
    InvalidRequest,
    LimitReached,
    OutcomeUnknown,
    Unauthenticated,
    Unavailable,
    UnknownAction,
    UnknownTask,
)
from apexstream.core.task import TaskStatus

TASK = {
    "task_id": "t1",
    "stream_id": "t1",
    "status": "waiting",
    "plugin": "p",
    "action": "a",
    "tier": "high",
    "error": None,
}


@dataclass
class Server:
    """Answers every request with ``status`` and ``body``; status 0 hangs up without an answer."""

    status: int
    body: bytes
    url: str = ""
    refusals: int = 0  # of the first requests: 429 with Retry-After
    requests: list[tuple[str, Any]] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next((int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length")), 0)
        body = await reader.readexactly(length)
        self.requests.append((" ".join(head.split(" ")[:2]), msgspec.json.decode(body) if body else None))
        if self.refusals:
            self.refusals -= 1
            writer.write(b"HTTP/1.1 429 X\r\nretry-after: 0\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        elif self.status:
            writer.write(
                b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (self.status, len(self.body))
            )
            writer.write(self.body)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def answering(status: int, body: Any) -> AsyncIterator[tuple[Client, Server]]:
    served = Server(status, body if isinstance(body, bytes) else msgspec.json.encode(body))
    server = await asyncio.start_server(served.handle, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Client(served.url) as client:
        yield client, served


async def test_a_submission_carries_everything_and_returns_the_task() -> None:
    async with answering(202, TASK) as (client, server):
        task = await client.submit("p", "a", {"path": "x"}, tier="high", task_id="t1")

    assert server.requests == [
        ("post /tasks", {"plugin": "p", "action": "a", "params": {"path": "x"}, "tier": "high", "task_id": "t1"})
    ]
    assert (task.task_id, task.stream_id, task.status, task.tier) == ("t1", "t1", TaskStatus.WAITING, "high")


async def test_a_request_that_is_refused_with_a_pause_is_made_again_and_not_for_ever() -> None:
    async with answering(202, TASK) as (client, server):
        server.refusals = 2
        assert (await client.submit("p", "a", task_id="t1")).task_id == "t1"
        assert len(server.requests) == 3

        server.refusals = 100
        async with Client(server.url, retry_max_s=0.003) as hasty:
            with pytest.raises(InvalidRequest, match="429"):
                await hasty.submit("p", "a", task_id="t1")
        assert len(server.requests) == 3 + 4


async def test_options_are_sent_as_far_as_they_are_given() -> None:
    async with answering(202, TASK) as (client, server):
        await client.submit("p", "a", options=TaskOptions(max_attempts=2))

    assert server.requests[0][1]["options"] == {"max_attempts": 2}


async def test_a_refusal_with_a_code_of_a_newer_gateway_is_an_invalid_request() -> None:
    async with answering(413, {"error": {"code": "too_large", "message": "the body is over 5 bytes"}}) as (client, _):
        with pytest.raises(InvalidRequest, match=r"the body is over 5 bytes \(too_large\)"):
            await client.submit("p", "a")


async def test_the_client_chooses_a_new_id_for_each_submission() -> None:
    async with answering(202, TASK) as (client, server):
        await client.submit("p", "a")
        await client.submit("p", "a")

    ids = [body["task_id"] for _, body in server.requests]
    assert len(set(ids)) == 2
    assert all(len(task_id) == 26 for task_id in ids)


async def test_a_submission_without_an_answer_names_the_id_to_ask_for() -> None:
    async with answering(0, b"") as (client, _):
        with pytest.raises(OutcomeUnknown) as caught:
            await client.submit("p", "a", task_id="mine")

    assert caught.value.where == "mine"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "bad_request", InvalidRequest),
        (404, "unknown_action", UnknownAction),
        (404, "unknown_task", UnknownTask),
        (422, "invalid_parameters", InvalidParameters),
        (503, "unavailable", Unavailable),
    ],
)
async def test_the_gateways_error_becomes_its_exception(status: int, code: str, kind: type[Exception]) -> None:
    async with answering(status, {"error": {"code": code, "message": "m", "where": "w", "hint": "h"}}) as (client, _):
        with pytest.raises(kind, match=r"w: m\. h"):
            await client.submit("p", "a")


@pytest.mark.parametrize(("status", "kind"), [(502, Unavailable), (504, Unavailable), (403, InvalidRequest)])
async def test_an_error_of_something_in_between_is_told_apart(status: int, kind: type[Exception]) -> None:
    async with answering(status, b"<html>proxy</html>") as (client, _):
        with pytest.raises(kind, match=f"HTTP {status}"):
            await client.tasks()


async def test_an_answer_that_is_no_gateways_is_refused() -> None:
    async with answering(200, {"hello": "world"}) as (client, _):
        with pytest.raises(DataCorruption, match="not what a gateway sends"):
            await client.task("t1")


async def test_without_a_gateway_the_error_says_how_to_start_one(unused_tcp_port: int) -> None:
    async with Client(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(Unavailable, match="apexstream up"):
            await client.actions()


async def test_actions_come_with_their_schemas() -> None:
    body = {
        "actions": [
            {"plugin": "p", "action": "a", "summary": "s", "streams": True, "params_schema": {"type": "object"}}
        ],
        "broken_plugins": ["q: no module named q"],
        "runners": 2,
    }
    async with answering(200, body) as (client, server):
        offer = await client.actions()

    assert server.requests == [("get /actions", None)]
    assert offer.actions[0].params_schema == {"type": "object"}
    assert (offer.broken_plugins, offer.runners) == (("q: no module named q",), 2)


async def test_tasks_are_listed_and_asked_for_and_cancelled() -> None:
    async with answering(200, {"tasks": [TASK]}) as (client, server):
        assert [task.task_id for task in await client.tasks(limit=5)] == ["t1"]
    assert server.requests == [("get /tasks?limit=5", None)]

    failed = {**TASK, "status": "failed", "error": {"code": "plugin_failed", "message": "boom"}}
    async with answering(200, failed) as (client, server):
        assert (await client.task("t1")).error == Problem(code="plugin_failed", message="boom")
        assert (await client.cancel("t1")).status.final
    assert server.requests == [("get /tasks/t1", None), ("delete /tasks/t1", None)]


async def test_an_id_that_no_task_can_have_is_an_unknown_task() -> None:
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(UnknownTask):
            await client.task("../../etc")


async def test_parameters_that_are_not_json_are_refused_here() -> None:
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(InvalidParameters, match="cannot be written as JSON"):
            await client.submit("p", "a", {"x": object()})


async def test_readiness_is_the_gateways_word() -> None:
    async with answering(503, {}) as (client, _):
        assert not await client.ready()
    async with answering(200, {}) as (client, _):
        assert await client.ready()


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        ({}, ""),
        ({"APEX_TOKEN": "a"}, "a"),
        ({"APEX_TOKEN_FILE": "FILE"}, "b"),
        ({"APEX_TOKEN": "a", "APEX_TOKEN_FILE": "FILE"}, "a"),
    ],
)
def test_a_token_comes_from_the_environment_or_its_file(environ: dict[str, str], shown: str, tmp_path) -> None:
    (tmp_path / "token").write_text("b\n")
    found = {name: value.replace("FILE", str(tmp_path / "token")) for name, value in environ.items()}
    assert token_source(None, found)() == shown
    assert token_source("given", found)() == "given"


@pytest.mark.parametrize("token", ["a\nb", "a b", "é"])
def test_what_no_header_can_hold_is_no_token(token: str) -> None:
    with pytest.raises(InvalidConfiguration, match="APEX_TOKEN"):
        authorization(token)


def test_a_file_that_is_missing_is_named(tmp_path) -> None:
    with pytest.raises(InvalidConfiguration, match="missing"):
        token_source(None, {"APEX_TOKEN_FILE": str(tmp_path / "missing")})()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(401, "unauthenticated", Unauthenticated), (403, "forbidden", Forbidden), (429, "limit_reached", LimitReached)],
)
async def test_refusals_of_access_are_errors_of_their_own(status: int, code: str, kind: type[Exception]) -> None:
    async with answering(status, {"error": {"code": code, "message": "no"}}) as (client, _):
        with pytest.raises(kind, match="no"):
            await client.task("t1")
