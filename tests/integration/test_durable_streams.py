"""Durable Streams on the real broker beside the other protocols: cursors, tasks' streams, forks, seals, erasure, encryption."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from durable_streams import AsyncDurableStream, RetentionGoneError, astream
from tests.integration.conftest import Apex, running

from apexstream.log.fetcher import LogReader
from apexstream.runtime.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}
PRODUCER = {"producer-id": "secret-producer", "producer-epoch": "3"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def quick(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Apex]:
    """An ApexStream that encrypts, seals after a moment and answers polls soon."""
    settings = Settings(
        bootstrap_servers=kafka,
        topic_prefix=f"m{secrets.token_hex(4)}.",
        port=0,
        home=tmp_path_factory.mktemp("home"),
        encryption="local",
        seal_after_s=0.3,
        long_poll_s=0.5,
    )
    async with running(settings) as started:
        yield started


async def subscribed(apex: Apex, stream_id: str, until: int, **more: Any) -> list[dict[str, Any]]:
    """Messages of a subscription until there are so many."""
    messages: list[dict[str, Any]] = []
    async with asyncio.timeout(30), apex.socket() as socket:
        await socket.send(msgspec.json.encode({"type": "subscribe", "stream_id": stream_id, **more}).decode())
        while len(messages) < until:
            messages.append(msgspec.json.decode(await socket.recv()))
    return messages


async def made(apex: Apex, path: str, body: bytes, **headers: str) -> httpx.Response:
    answer = await apex.http.put(f"/ds/{path}", content=body, headers=JSON | headers)
    assert answer.status_code == 201, answer.text
    return answer


async def test_an_offset_resumes_over_a_websocket_and_a_cursor_of_a_websocket_resumes_at_ds(apex: Apex) -> None:
    answer = await made(apex, "both", b"[0,1,2]")
    stream_id, offset = answer.headers["stream-id"], answer.headers["stream-next-offset"]
    await apex.http.post("/ds/both", content=b"[3,4,5]", headers=JSON)

    updates = await subscribed(apex, stream_id, 3, cursor=offset, cursors=True)
    read = await apex.http.get("/ds/both", params={"offset": updates[0]["cursor"]})

    assert [message["data"] for message in updates] == [3, 4, 5]
    assert read.json() == [4, 5]


async def test_a_stream_that_is_closed_at_ds_ends_for_every_viewer(apex: Apex) -> None:
    stream_id = (await made(apex, "ends", b"[1]")).headers["stream-id"]
    closed = await apex.http.post("/ds/ends", content=b"2", headers=JSON | {"stream-closed": "true"})

    messages = await apex.follow(stream_id)

    assert [message.get("data") for message in messages if message["type"] == "stream_update"] == [1, 2]
    assert messages[-1]["type"] == "stream_complete"
    assert closed.headers["stream-next-offset"].startswith("0000000000000002_")


async def test_a_tasks_stream_reads_as_its_websocket_messages(apex: Apex) -> None:
    task_id = await apex.submit("report", n=3)
    messages = [message for message in await apex.follow(task_id) if "seq" in message]

    whole = await apex.http.get(f"/ds/streams/{task_id}")
    first = await apex.http.head(f"/ds/streams/{task_id}")
    events = await apex.http.get(f"/ds/streams/{task_id}", params={"offset": "-1", "live": "sse"})

    assert whole.json() == messages
    assert whole.headers["stream-closed"] == first.headers["stream-closed"] == "true"
    assert whole.headers["stream-next-offset"] == first.headers["stream-next-offset"]
    assert '"streamClosed":true' in events.text
    assert (await apex.http.post(f"/ds/streams/{task_id}", content=b"1", headers=JSON)).status_code == 405
    assert (await apex.http.get("/ds/streams/nobody")).status_code == 404


async def test_what_a_rewind_took_back_is_gone_and_the_answer_says_where_to_go_on(apex: Apex, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = await apex.submit("rewinding", gate=str(gate), options={"backoff_s": 0.01})
    offset = "-1"
    async with asyncio.timeout(30):
        seen: list[Any] = []
        while len(seen) < 3:
            answer = await apex.http.get(f"/ds/streams/{task_id}", params={"offset": offset, "live": "long-poll"})
            seen += answer.json() if answer.status_code == 200 else []
            offset = answer.headers.get("stream-next-offset", offset)
    gate.touch()
    whole = await apex.follow(task_id)

    refused = await apex.http.get(f"/ds/streams/{task_id}", params={"offset": offset})
    again = await apex.http.get(f"/ds/streams/{task_id}", params={"offset": refused.headers["stream-next-offset"]})

    assert refused.status_code == 410
    assert refused.json()["error"]["code"] == "rewound"
    assert again.json() == [message for message in whole if "seq" in message]


async def test_a_cursor_of_a_fork_is_refused_by_protocols_that_see_only_its_own_part(apex: Apex) -> None:
    await made(apex, "source", b"[1,2,3]")
    fork = await apex.http.put("/ds/fork", headers={"stream-forked-from": "/ds/source"})
    await apex.http.post("/ds/fork", content=b"4", headers=JSON)

    (refused,) = await subscribed(apex, fork.headers["stream-id"], 1, cursor=fork.headers["stream-next-offset"])

    assert (await apex.http.get("/ds/fork")).json() == [1, 2, 3, 4]
    assert refused["error"]["code"] == "cursor_invalid"


async def test_offsets_of_other_streams_and_made_up_ones_are_refused(apex: Apex) -> None:
    await made(apex, "mine", b"[1]")
    other = (await made(apex, "other", b"[1]")).headers["stream-next-offset"]

    for offset in (other, other[:-1] + "A", "0000000000000001_0", "0000000000000000_0000000000000000"):
        assert (await apex.http.get("/ds/mine", params={"offset": offset})).status_code == 400


async def test_paths_are_told_apart_as_they_are_written(apex: Apex) -> None:
    for at, path in enumerate(("a/b", "a%2Fb", "a%2fb", "A/b", "a/b/", "a//b")):
        await made(apex, path, str(at).encode())

    assert (await apex.http.get("/ds/a/b")).json() == [0]
    assert (await apex.http.get("/ds/a%2Fb")).json() == [1]


async def test_an_append_of_many_records_is_taken_once_however_often_it_is_sent(apex: Apex) -> None:
    await made(apex, "large", b"[]")
    numbers = [{"n": number, "pad": "x" * 700} for number in range(2_000)]
    headers = JSON | {"producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}

    answers = await asyncio.gather(
        *(apex.http.post("/ds/large", content=msgspec.json.encode(numbers), headers=headers) for _ in range(3))
    )

    found: list[Any] = []
    offset = "-1"
    while len(found) < len(numbers):
        answer = await apex.http.get("/ds/large", params={"offset": offset})
        found += answer.json()
        offset = answer.headers["stream-next-offset"]
    assert sorted(answer.status_code for answer in answers) == [200, 204, 204]
    assert found == numbers
    assert (await apex.http.get("/ds/large", params={"offset": offset})).json() == []


async def test_bodies_that_are_too_large_are_refused_before_they_are_read(apex: Apex) -> None:
    await apex.http.put("/ds/small", headers=TEXT)

    answer = await apex.http.post("/ds/small", content=b"x" * (4 * 1024 * 1024 + 1), headers=TEXT)

    assert answer.status_code == 413


async def test_the_python_client_of_the_protocols_authors_works_unchanged(apex: Apex) -> None:
    url = f"{apex.url}/ds/python"
    async with await AsyncDurableStream.create(url, content_type="application/json") as stream:
        for number in range(5):
            await stream.append({"n": number})
        head = await stream.head()
        async with astream(url, live=False) as answer:
            whole = await answer.read_json()
        async with astream(url, offset="-1", live="sse") as answer:
            live = []
            async for item in answer.iter_json():
                live.append(item)
                if len(live) == 5:
                    await stream.append({"n": 5})
                elif len(live) == 6:
                    break

    assert whole == [{"n": number} for number in range(5)]
    assert live == [{"n": number} for number in range(6)]
    assert head.offset.startswith("0000000000000005_")


async def test_what_is_sealed_reads_as_before_and_still_knows_who_closed_it(quick: Apex) -> None:
    stream_id = (await made(quick, "sealed", b"[]")).headers["stream-id"]
    last = {**JSON, **PRODUCER, "producer-seq": "0", "stream-closed": "true"}
    answer = await quick.http.post("/ds/sealed", content=msgspec.json.encode(list(range(300))), headers=last)
    assert answer.status_code == 200, answer.text
    await _sealed(quick, stream_id)
    async with second_gateway(quick) as other:  # it has never seen the stream being written
        again = await other.post("/ds/sealed", content=b"[0]", headers=last)
        late = await other.post("/ds/sealed", content=b"[0]", headers={**last, "producer-seq": "1"})
        read = await other.get("/ds/sealed")
        events = await other.get("/ds/sealed", params={"offset": answer.headers["stream-next-offset"], "live": "sse"})

    assert (again.status_code, late.status_code) == (204, 409)
    assert again.headers["stream-closed"] == late.headers["stream-closed"] == "true"
    assert read.json() == list(range(300))
    assert read.headers["stream-next-offset"] == answer.headers["stream-next-offset"]
    assert events.text.count("event: data") == 0


async def test_a_gateway_that_takes_over_an_encrypted_stream_knows_its_producers(quick: Apex) -> None:
    await made(quick, "handed", b"[]")
    headers = [{**JSON, **PRODUCER, "producer-seq": str(seq)} for seq in range(3)]
    await quick.http.post("/ds/handed", content=b'"top-secret"', headers=headers[0])
    async with second_gateway(quick) as other:
        repeated = await other.post("/ds/handed", content=b'"top-secret"', headers=headers[0])
        there = await other.post("/ds/handed", content=b'"there"', headers=headers[1])
        here = await quick.http.post("/ds/handed", content=b'"here"', headers=headers[2])
        read = await other.get("/ds/handed")

    assert (repeated.status_code, there.status_code, here.status_code) == (204, 200, 200)
    assert read.json() == ["top-secret", "there", "here"]
    assert not await _in_the_log(quick, b"top-secret", b"secret-producer")


async def test_a_deleted_stream_is_erased_for_all_and_its_path_is_free(quick: Apex) -> None:
    stream_id = (await made(quick, "doomed", b"[1,2,3]")).headers["stream-id"]
    await _sealed(quick, stream_id)
    reading = asyncio.create_task(quick.http.get("/ds/doomed", params={"offset": "now", "live": "sse"}))

    deleted = await quick.http.delete("/ds/doomed")

    assert deleted.status_code == 204
    assert (await quick.http.get("/ds/doomed")).status_code == 404
    assert (await quick.http.delete("/ds/doomed")).status_code == 404
    async with asyncio.timeout(30):
        await reading
        while (answer := (await subscribed(quick, stream_id, 1))[0])["type"] != "error":
            await asyncio.sleep(0.1)
    assert answer["error"]["code"] == "erased"
    assert (await made(quick, "doomed", b"[4]")).headers["stream-id"] != stream_id
    assert (await quick.http.get("/ds/doomed")).json() == [4]


async def test_a_fork_reads_its_source_after_that_was_deleted_and_then_nothing_is_left(quick: Apex) -> None:
    source = (await made(quick, "old", b"[1,2,3]")).headers["stream-id"]
    await quick.http.put("/ds/new", headers={"stream-forked-from": "/ds/old"})
    await _sealed(quick, source)

    await quick.http.delete("/ds/old")

    assert (await quick.http.get("/ds/old")).status_code == 410
    assert (await quick.http.put("/ds/old", headers=JSON)).status_code == 409
    assert (await quick.http.get("/ds/new")).json() == [1, 2, 3]
    await quick.http.delete("/ds/new")
    async with asyncio.timeout(30):
        while (await subscribed(quick, source, 1))[0]["type"] != "error":
            await asyncio.sleep(0.1)


async def test_a_path_whose_time_is_over_is_erased_though_nobody_asks_for_it(quick: Apex) -> None:
    stream_id = (await made(quick, "brief", b"[1]", **{"stream-ttl": "1"})).headers["stream-id"]

    async with asyncio.timeout(30):
        while (await subscribed(quick, stream_id, 1))[0]["type"] != "error":
            await asyncio.sleep(0.2)

    assert (await quick.http.get("/ds/brief")).status_code == 404


async def test_the_python_client_is_told_that_a_stream_is_gone(quick: Apex) -> None:
    await made(quick, "parent", b"[1]")
    await quick.http.put("/ds/child", headers={"stream-forked-from": "/ds/parent"})
    await quick.http.delete("/ds/parent")

    with pytest.raises(RetentionGoneError):
        async with astream(f"{quick.url}/ds/parent", live=False) as answer:
            await answer.read_json()


class second_gateway:  # noqa: N801 - reads as a noun: async with second_gateway(apex) as other
    """Another gateway of the same installation; gives its HTTP client."""

    def __init__(self, apex: Apex) -> None:
        self._settings = apex.settings
        self._stop = asyncio.Event()

    async def __aenter__(self) -> httpx.AsyncClient:
        import apexstream.gateway.build

        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        serving = apexstream.gateway.build.serve(self._settings, ready=ready.set_result, stop=self._stop)
        self._serving = asyncio.create_task(serving)
        await asyncio.wait([self._serving, ready], timeout=60, return_when=asyncio.FIRST_COMPLETED)
        self._http = httpx.AsyncClient(base_url=ready.result(), timeout=60)
        return self._http

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()
        self._stop.set()
        await self._serving


async def _sealed(apex: Apex, stream_id: str) -> None:
    """Wait until the archiver has written a state of the stream."""
    topic = apex.settings.topic("streams")
    async with asyncio.timeout(60), LogReader(apex.settings.bootstrap_servers, client_id="auditor") as reader:
        places = await reader.partitions(topic)
        while True:
            for place, end in (await reader.ends(places)).items():
                async for records, _ in reader.scan(place, 0, end):
                    if any(record.key == stream_id.encode() for record in records):
                        return
            await asyncio.sleep(0.1)


async def _in_the_log(apex: Apex, *texts: bytes) -> bool:
    topic = apex.settings.topic("chunks")
    async with LogReader(apex.settings.bootstrap_servers, client_id="auditor") as reader:
        for place, end in (await reader.ends(await reader.partitions(topic))).items():
            async for records, _ in reader.scan(place, 0, end):
                if any(text in (record.value or b"") for record in records for text in texts):
                    return True
    return False
