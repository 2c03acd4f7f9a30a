"""One trace from a client's submission through Kafka to the plugin and the viewer, in spans, logs, headers and exemplars."""

import asyncio
import secrets
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import msgspec
import pytest
import pytest_asyncio
import websockets
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.support.system import ALL, free_ports, processes

from apexstream.log.broker import EmbeddedBroker
from apexstream.log.fetcher import LogReader
from apexstream.runtime.settings import Settings

pytestmark = [pytest.mark.kafka, pytest.mark.asyncio(loop_scope="module")]
DEADLINE_S = 60
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@dataclass(frozen=True)
class Seen:
    """One span as the collector got it."""

    service: str
    name: str
    trace: str
    span: str
    parent: str


@dataclass
class Collector:
    """What came over OTLP."""

    spans: list[Seen] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
            for scope in resource.scope_spans:
                for span in scope.spans:
                    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
                    self.spans.append(Seen(service, span.name, *ids))


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, str]]:
    got = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield got, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@dataclass
class System:
    url: str
    kafka: str
    runner: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(collector: tuple[Collector, str]) -> AsyncIterator[System]:
    ports = dict(zip(ALL, free_ports(len(ALL)), strict=True))
    otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector[1], "OTEL_BSP_SCHEDULE_DELAY": "200"}
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home), Settings().cache_path, port=0) as broker:
        async with processes(broker.bootstrap_servers, "apex.", metrics_ports=ports, **otel) as url:
            yield System(url, broker.bootstrap_servers, f"http://127.0.0.1:{ports['runner']}")


async def follow(system: System, task: str) -> list[dict[str, object]]:
    messages = []
    async with (
        asyncio.timeout(DEADLINE_S),
        websockets.connect(f"ws{system.url.removeprefix('http')}/stream") as socket,
    ):
        await socket.send(msgspec.json.encode({"type": "subscribe", "stream_id": task}).decode())
        async for text in socket:
            messages.append(msgspec.json.decode(text))
            if messages[-1]["type"] == "stream_complete":
                break
    return messages


async def run_traced(system: System, headers: dict[str, str]) -> tuple[str, str]:
    """Submit the action that yields its own trace context; give (task id, what it yielded)."""
    async with httpx.AsyncClient(base_url=system.url) as http:
        answer = await http.post("/tasks", json={"plugin": "probe", "action": "traced"}, headers=headers)
    task = answer.json()["task_id"]
    messages = await follow(system, task)
    return task, str(next(message["data"] for message in messages if message["type"] == "stream_update"))


async def headers_of(system: System, topic: str, task: str) -> list[tuple[str, bytes]]:
    async with LogReader(system.kafka, client_id="test") as reader:
        for partition in await reader.partitions(topic):
            end = (await reader.ends([partition]))[partition]
            async for records, _ in reader.scan(partition, 0, end):
                for record in records:
                    if record.key == task.encode():
                        return list(record.headers)  # type: ignore[attr-defined]
    return []


async def test_a_clients_trace_reaches_kafka_and_the_plugin_and_is_shown_with_the_task(system: System) -> None:
    trace, caller = secrets.token_hex(16), secrets.token_hex(8)

    task, yielded = await run_traced(system, {"traceparent": f"00-{trace}-{caller}-01"})

    async with httpx.AsyncClient(base_url=system.url) as http:
        shown = (await http.get(f"/tasks/{task}")).json()
        of_trace = (await http.get("/tasks", params={"trace": trace})).json()["tasks"]
    assert yielded[3:35] == trace
    assert yielded[36:52] != caller
    assert shown["traceparent"][3:35] == trace
    assert [each["task_id"] for each in of_trace] == [task]
    for topic in ("apex.tasks.normal", "apex.assignments"):
        assert await headers_of(system, topic, task) == [("traceparent", shown["traceparent"].encode())]


async def test_spans_of_gateway_runner_and_viewer_form_one_trace(
    system: System, collector: tuple[Collector, str]
) -> None:
    trace, caller = secrets.token_hex(16), secrets.token_hex(8)

    _, yielded = await run_traced(system, {"traceparent": f"00-{trace}-{caller}-01"})

    spans: dict[str, Seen] = {}
    async with asyncio.timeout(DEADLINE_S):
        while len(spans) < 3:
            await asyncio.sleep(0.1)
            spans = {span.name: span for span in collector[0].spans if span.trace == trace}
    submitted, attempt, replay = spans["POST /tasks"], spans["probe.traced"], spans["replay"]
    assert (submitted.service, submitted.parent) == ("apexstream-gateway", caller)
    assert (attempt.service, attempt.parent) == ("apexstream-runner", submitted.span)
    assert (replay.service, replay.parent) == ("apexstream-gateway", submitted.span)
    assert yielded[36:52] == attempt.span


async def test_a_task_without_a_clients_trace_begins_one(system: System) -> None:
    _, first = await run_traced(system, {})
    _, second = await run_traced(system, {"traceparent": "rubbish"})

    assert len(first) == len(second) == 55
    assert first[3:35] != second[3:35]


async def test_exemplars_name_the_trace_of_an_observation(system: System) -> None:
    trace = secrets.token_hex(16)
    await run_traced(system, {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"})

    async with httpx.AsyncClient() as http, asyncio.timeout(DEADLINE_S):
        while True:  # the attempt ends a moment after its stream
            page = (await http.get(f"{system.runner}/metrics", headers=OPENMETRICS)).text
            marked = [line for line in page.splitlines() if trace in line]
            if len(marked) == 2:
                break
            await asyncio.sleep(0.1)

    assert all('action="traced"' in line and f'# {{trace_id="{trace}"}}' in line for line in marked)
    assert {line.partition("{")[0] for line in marked} == {
        "apexstream_action_first_chunk_seconds_bucket",
        "apexstream_action_duration_seconds_bucket",
    }
