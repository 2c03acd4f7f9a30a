"""The services in this process, on the real broker, for tests that do not kill anything."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest_asyncio
import websockets
from tests.support.tokens import ALL, Issuer, bearer

import apexstream.archiver.build
import apexstream.dispatcher.build
import apexstream.gateway.build
import apexstream.runner.build
from apexstream.contracts.catalogue import load_catalogue
from apexstream.log import admin
from apexstream.log.writer import Writer
from apexstream.runtime.settings import Settings

SERVICES = (apexstream.gateway.build, apexstream.dispatcher.build, apexstream.runner.build, apexstream.archiver.build)
DEADLINE_S = 30
SESSION_S = 60.0

sys.path.insert(0, str(Path(__file__).parents[1] / "support" / "plugins"))  # found like installed plugins


@dataclass
class Apex:
    """A running ApexStream: its HTTP client and a way to follow streams as the specification's browser code does."""

    url: str
    settings: Settings
    http: httpx.AsyncClient

    async def submit(self, action: str, plugin: str = "probe", options: object = None, **params: object) -> str:
        body = {"plugin": plugin, "action": action, "params": params, "options": options or {}}
        answer = await self.http.post("/tasks", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    async def follow(self, stream_id: str, **more: object) -> list[dict[str, object]]:
        """All messages from subscribing to the end of the stream; what a rewind takes back is taken out."""
        messages: list[dict[str, object]] = []
        async with asyncio.timeout(DEADLINE_S), self.socket() as socket:
            await socket.send(msgspec.json.encode({"type": "subscribe", "stream_id": stream_id, **more}).decode())
            while not messages or messages[-1]["type"] not in {
                "stream_complete",
                "stream_error",
                "stream_cancelled",
                "error",
            }:
                message = msgspec.json.decode(await socket.recv())
                if message["type"] == "stream_rewind":
                    messages = [kept for kept in messages if kept["seq"] < message["seq"]]
                else:
                    messages.append(message)
        return messages

    def socket(self) -> websockets.connect:
        shown = {name: self.http.headers[name] for name in ("authorization",) if name in self.http.headers}
        address = f"ws{self.url.removeprefix('http')}/stream"
        return websockets.connect(address, max_size=None, compression=None, additional_headers=shown)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apex(kafka: str) -> AsyncIterator[Apex]:
    """One ApexStream for the tests of a module. It lives in their event loop, which stands still between modules."""
    async with running(Settings(bootstrap_servers=kafka, topic_prefix=f"m{secrets.token_hex(4)}.", port=0)) as started:
        yield started


class running:  # noqa: N801 - reads as a verb: async with running(settings)
    """Start the services with these settings, stop them in the end."""

    def __init__(self, settings: Settings, headers: dict[str, str] | None = None) -> None:
        # They share a loop with the tests and a machine with other tests: what holds it up for 5 s must not end them.
        self._settings = settings.model_copy(update={"session_timeout_s": SESSION_S})
        self._headers = headers or {}
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Apex:
        settings = self._settings
        topics = [
            topic.renamed(settings.topic_prefix)
            for topic in load_catalogue(tiers=settings.tier_order, partitions=settings.partitions)
        ]
        await admin.apply(topics, settings.bootstrap_servers)
        details = await asyncio.gather(*(self._start(service) for service in SERVICES))
        http = httpx.AsyncClient(base_url=details[0], timeout=DEADLINE_S, headers=self._headers)
        apex = Apex(details[0], settings, http)
        async with asyncio.timeout(DEADLINE_S):
            while not (await http.get("/actions")).json()["actions"]:
                await asyncio.sleep(0.05)
        self._apex = apex
        return apex

    async def __aexit__(self, *_: object) -> None:
        await self._apex.http.aclose()
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _start(self, service: object) -> str:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(service.serve(self._settings, ready=ready.set_result, stop=self._stop))
        self._tasks.append(serving)
        await asyncio.wait([serving, ready], timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        return ready.result()


def guarded(kafka: str, folder: Path, issuer: Issuer, **more: Any) -> running:
    """As :class:`running`, with the keys of ``issuer`` in ``folder``; its HTTP client may do everything."""
    settings = Settings(
        bootstrap_servers=kafka,
        topic_prefix=f"m{secrets.token_hex(4)}.",
        port=0,
        home=folder,
        auth_keys=issuer.publish(folder / "jwks.json"),
        **more,
    )
    return running(settings, bearer(issuer.token(*ALL)))


@pytest_asyncio.fixture
async def topic(kafka: str, topic_prefix: str) -> str:
    """A topic of four partitions, empty."""
    (letters,) = (topic for topic in load_catalogue() if topic.name == "apex.dead-letters")
    await admin.apply([letters.renamed(topic_prefix)], kafka)
    return f"{topic_prefix}dead-letters"


@pytest_asyncio.fixture
async def writer(kafka: str, topic: str) -> AsyncIterator[Writer]:
    async with Writer(kafka, client_id="test") as writer:
        await writer.prepare(topic)
        yield writer
