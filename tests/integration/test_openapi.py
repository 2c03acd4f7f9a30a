"""The HTTP routes under schemathesis: whatever it makes up, the answer is one that the document promises, and never a 500."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.integration.conftest import Apex, guarded
from tests.support.tokens import Issuer

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
TIME_S_MAX = 600
HOOKS = "tests.support.schemathesis_hooks"
ENDLESS = {
    ("GET", "/streams/{task_id}/events"),
    ("GET", "/streams/{task_id}/view"),
    ("GET", "/streams/{task_id}/ui-messages"),
    ("GET", "/streams/{task_id}/ag-ui"),
    ("GET", "/chat/{plugin}/{action}/{chat_id}/stream"),
    ("POST", "/chat/{plugin}/{action}"),
    ("POST", "/ag-ui/{plugin}/{action}"),
}
ISSUER = Issuer()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apex(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Apex]:
    async with guarded(kafka, tmp_path_factory.mktemp("auth"), ISSUER, user_submissions_per_s=10_000) as started:
        yield started


async def test_every_described_operation_answers_as_its_document_says(
    apex: Apex, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    finished = await apex.submit("count", n=2)
    await apex.follow(finished)
    examples = request.config.getoption("--http-examples")
    options = {
        "--header": f"Authorization: {apex.http.headers['authorization']}",
        "--phases": "examples,coverage,fuzzing" if examples else "examples,coverage",
        "--max-examples": str(examples or 1),
        "--request-timeout": "60",
    }
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        "--config-file",
        Path(__file__).with_name("schemathesis.toml"),
        "run",
        f"{apex.url}/openapi.json",
        *(word for pair in options.items() for word in pair),
        "--generation-deterministic",
        "--no-shrink",
        "--no-color",
        env={**os.environ, "SCHEMATHESIS_HOOKS": HOOKS, "APEX_FINISHED_STREAM": finished, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    try:
        async with asyncio.timeout(TIME_S_MAX):
            report, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, report.decode()[-8_000:]


async def test_what_is_described_is_there_each_under_a_name_of_its_own(apex: Apex) -> None:
    document = (await apex.http.get("/openapi.json")).json()
    described = {(method.upper(), path): each for path, of in document["paths"].items() for method, each in of.items()}
    for method, path in described:
        answer = await apex.http.request("OPTIONS", path.replace("{", "").replace("}", ""))
        assert answer.status_code == 405
        assert method in answer.headers["allow"].split(", ")
    assert ("PATCH", "/tasks/{task_id}") in described
    assert ("POST", "/graphs") in described
    assert len({each["operationId"] for each in described.values()}) == len(described)


async def test_answers_that_go_on_with_a_stream_are_described_as_such(apex: Apex) -> None:
    document = (await apex.http.get("/openapi.json")).json()
    streaming = {
        (method.upper(), path)
        for path, of in document["paths"].items()
        for method, each in of.items()
        if "text/event-stream" in each["responses"].get("200", {}).get("content", {})
    }
    assert streaming == ENDLESS


@pytest.mark.parametrize(
    "body",
    [
        b'{"plugin":"probe","plugin":"probe","action":"count"}',
        b'{"plugin":"probe","action":"count","params":{"n":1,"n":2}}',
        b'{"plugin":"probe","action":"count","params":{"n":1,"\\u006e":2}}',
    ],
)
async def test_b29_a_key_that_is_there_twice_is_refused_by_name(apex: Apex, body: bytes) -> None:
    answer = await apex.http.post("/tasks", content=body, headers={"content-type": "application/json"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["where"]) == (400, "bad_request", "body")
    assert "twice" in error["message"]
