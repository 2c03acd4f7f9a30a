"""Durable Streams at two gateways that are killed: every message once, in order, whoever writes and reads where."""

import asyncio
import random
from collections.abc import AsyncIterator
from itertools import count, cycle
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.support.killable import Service, gateways

JSON = {"content-type": "application/json"}
DISCONNECTS = 100
CHUNKS = 10_000
BATCH = 20


@pytest.fixture
async def two(kafka: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[list[Service]]:
    async with gateways(kafka, topic_prefix, str(tmp_path), APEX_LONG_POLL_S="5") as started:
        yield started


async def append(
    http: httpx.AsyncClient, places: Any, path: str, body: bytes, headers: dict[str, str]
) -> httpx.Response:
    """Append at one gateway after the other until one of them answers."""
    while True:
        try:
            answer = await http.post(f"{next(places).url}/ds/{path}", content=body, headers=JSON | headers)
        except httpx.TransportError:
            await asyncio.sleep(0.02)
            continue
        if answer.status_code != 503:
            return answer


async def read_all(http: httpx.AsyncClient, url: str) -> list[Any]:
    found: list[Any] = []
    offset = "-1"
    while True:
        answer = await http.get(url, params={"offset": offset})
        assert answer.status_code == 200, answer.text
        found += answer.json()
        offset = answer.headers["stream-next-offset"]
        if answer.headers.get("stream-up-to-date") == "true":
            return found


async def test_appends_at_two_gateways_at_once_all_count_once_and_both_show_the_same(two: list[Service]) -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        await http.put(f"{two[0].url}/ds/race", headers=JSON)

        async def write(gateway: Service, name: str) -> None:
            for number in range(25):
                answer = await http.post(
                    f"{gateway.url}/ds/race", content=msgspec.json.encode({"from": name, "n": number}), headers=JSON
                )
                assert answer.status_code == 204, answer.text

        await asyncio.gather(*(write(gateway, f"{at}{name}") for at, gateway in enumerate(two) for name in "ab"))

        found = [await read_all(http, f"{gateway.url}/ds/race") for gateway in two]
    assert found[0] == found[1]
    for name in ("0a", "0b", "1a", "1b"):
        assert [each["n"] for each in found[0] if each["from"] == name] == list(range(25))


async def test_a_gateway_shows_at_once_what_another_one_has_acknowledged(two: list[Service]) -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        for number in range(10):
            path = f"fresh/{number}"
            made = await http.put(f"{two[0].url}/ds/{path}", headers=JSON, content=b"[1]")
            there = await http.post(f"{two[1].url}/ds/{path}", headers=JSON, content=b"[2]")
            here = await http.get(f"{two[0].url}/ds/{path}")
            await http.delete(f"{two[0].url}/ds/{path}")
            gone = await http.head(f"{two[1].url}/ds/{path}")

            assert (made.status_code, there.status_code, here.json()) == (201, 204, [1, 2])
            async with asyncio.timeout(5):  # learnt from the log, in its own time
                while gone.status_code != 404:
                    gone = await http.head(f"{two[1].url}/ds/{path}")


async def test_an_idempotent_producer_loses_and_repeats_nothing_when_gateways_are_killed(two: list[Service]) -> None:
    places, kills = cycle(two), 6
    async with httpx.AsyncClient(timeout=60) as http:
        await http.put(f"{two[0].url}/ds/once", headers=JSON)
        written = asyncio.Event()

        async def kill() -> None:
            for at in range(kills):
                victim = two[at % 2]
                await asyncio.sleep(random.uniform(0.1, 0.6))
                victim.kill()
                victim.start()
                await victim.ready()
            written.set()

        killing = asyncio.create_task(kill())
        answers = []
        numbers = count()
        for seq in numbers:
            body = msgspec.json.encode([{"n": seq, "part": part} for part in range(3)])
            headers = {"producer-id": "p", "producer-epoch": "0", "producer-seq": str(seq)}
            answers.append((await append(http, places, "once", body, headers)).status_code)
            if written.is_set():
                break
        await killing

        found = await read_all(http, f"{two[0].url}/ds/once")
    assert set(answers) <= {200, 204}
    assert found == [{"n": seq, "part": part} for seq in range(len(answers)) for part in range(3)]


class Reader:
    """Reads a stream and is disconnected again and again, anywhere, at either gateway."""

    def __init__(self, two: list[Service], path: str, live: str) -> None:
        self.found: list[int] = []
        self.disconnects = 0
        self._places = cycle(two)
        self._path = path
        self._live = live
        self._offset = "-1"
        self._closed = False

    async def run(self, http: httpx.AsyncClient) -> None:
        while not self._closed:
            url, params = f"{next(self._places).url}/ds/{self._path}", {"offset": self._offset, "live": self._live}
            try:
                await (self._events(http, url, params) if self._live == "sse" else self._poll(http, url, params))
            except httpx.TransportError:
                await asyncio.sleep(0.02)

    async def _poll(self, http: httpx.AsyncClient, url: str, params: dict[str, str]) -> None:
        try:
            async with asyncio.timeout(random.uniform(0.005, 0.2)):
                answer = await http.get(url, params=params)
        except TimeoutError:
            self.disconnects += 1
            return
        if answer.status_code in {200, 204}:
            self._take(answer.json() if answer.status_code == 200 else [], answer.headers["stream-next-offset"])
            self._closed = answer.headers.get("stream-closed") == "true"

    async def _events(self, http: httpx.AsyncClient, url: str, params: dict[str, str]) -> None:
        left, data = random.randint(1, 30), ""
        async with http.stream("GET", url, params=params) as answer:
            if answer.status_code != 200:
                return
            event = ""
            async for line in answer.aiter_lines():
                if line.startswith("event:"):
                    event = line[6:].strip()
                elif line.startswith("data:") and event == "data":
                    data += line[5:]
                elif line.startswith("data:"):
                    control = msgspec.json.decode(line[5:])
                    self._take(msgspec.json.decode(data) if data else [], control["streamNextOffset"])
                    data = ""
                    self._closed = control.get("streamClosed", False)
                left -= 1
                if left <= 0 and not self._closed:
                    self.disconnects += 1
                    return

    def _take(self, numbers: list[int], offset: str) -> None:
        self.found += numbers
        self._offset = offset


async def test_readers_disconnected_a_hundred_times_have_each_chunk_once(two: list[Service]) -> None:
    readers = [Reader(two, "long", live) for live in ("sse", "long-poll")]
    places = cycle(two)
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as http:
        await http.put(f"{two[0].url}/ds/long", headers=JSON)
        reading = [asyncio.create_task(reader.run(http)) for reader in readers]

        for at in range(0, CHUNKS, BATCH):
            body = msgspec.json.encode(list(range(at, at + BATCH)))
            headers = {"producer-id": "p", "producer-epoch": "0", "producer-seq": str(at // BATCH)}
            assert (await append(http, places, "long", body, headers)).status_code in {200, 204}
            if at in {CHUNKS // 4, CHUNKS // 2}:
                victim = two[at // BATCH % 2]
                victim.kill()
                victim.start()
        for gateway in two:
            await gateway.ready()
        async with asyncio.timeout(120):
            while min(reader.disconnects for reader in readers) < DISCONNECTS:
                await asyncio.sleep(0.05)
        closed = await http.post(f"{two[0].url}/ds/long", headers={"stream-closed": "true"})
        assert closed.status_code == 204
        async with asyncio.timeout(60):
            await asyncio.gather(*reading)

    for reader in readers:
        assert reader.disconnects >= DISCONNECTS
        assert reader.found == list(range(CHUNKS))
