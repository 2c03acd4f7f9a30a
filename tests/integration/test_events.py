"""A stream as server-sent events: where it starts and resumes, in which protocol, how it ends, and who is hung up on."""

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
import pytest_asyncio
from tests.support.show import Show, gateway, show, shown
from tests.support.sse import TIMEOUT_S, events
from tests.support.streams import Author, data, numbered

from apexstream.core.chunk import Kind
from apexstream.runtime import meters

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def screen(kafka: str) -> AsyncIterator[Show]:
    async with show(kafka, f"sse{os.getpid()}.") as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def finished(screen: Show) -> str:
    """A stream of ten that has ended."""
    await screen.submit("finished")
    await screen.write("finished", *Author("finished").whole(numbered(10)))
    return "finished"


def url(screen: Show, stream_id: str) -> str:
    return f"{screen.url}/streams/{stream_id}/events"


async def read(screen: Show, stream_id: str, last_id: str = "", **query: Any) -> list[dict[str, Any]]:
    async with asyncio.timeout(TIMEOUT_S), events(url(screen, stream_id), last_id, **query) as answer:
        assert answer.response.status_code == 200
        return [message async for message in answer.messages()]


async def test_a_stream_that_has_ended_is_read_to_its_end_and_the_answer_is_over(screen: Show, finished: str):
    async with events(url(screen, finished)) as answer:
        messages = [message async for message in answer.messages()]
        assert answer.response.headers["content-type"].startswith("text/event-stream")
        assert answer.last_id == messages[-1]["cursor"]
        assert 500 <= answer.retry_ms <= 2_500
    assert shown(messages) == [*range(10), "stream_complete"]


async def test_whoever_comes_back_with_the_last_id_goes_on_behind_it_and_stays_away_behind_the_end(
    screen: Show, finished: str
):
    whole = await read(screen, finished)
    for at, message in enumerate(whole[:-1], 1):
        assert await read(screen, finished, message["cursor"]) == whole[at:]
    async with events(url(screen, finished), whole[-1]["cursor"]) as answer:
        assert answer.response.status_code == 204


@pytest.mark.parametrize("path", ["events", "ui-messages", "ag-ui"])
async def test_whoever_asks_for_the_head_of_a_stream_that_goes_on_is_not_kept(screen: Show, path: str):
    await screen.submit("open")
    async with asyncio.timeout(TIMEOUT_S), httpx.AsyncClient(base_url=screen.url) as http:
        answer = await http.head(f"/streams/open/{path}")
        assert (answer.status_code, answer.headers["content-type"][:17]) == (200, "text/event-stream")
        assert (await http.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    ("query", "first"),
    [({"from_seq": 7}, 7), ({"tail": 3}, 8), ({"from_time": 0}, 0), ({"from_seq": 2, "rate": 50}, 2)],
)
async def test_a_reader_starts_where_it_says(screen: Show, finished: str, query: dict[str, int], first: int):
    assert [message["seq"] for message in await read(screen, finished, **query)] == list(range(first, 11))


async def test_the_last_id_outweighs_the_place_in_the_address(screen: Show, finished: str):
    cursor = (await read(screen, finished))[4]["cursor"]
    assert [message["seq"] for message in await read(screen, finished, cursor, from_seq=0)] == list(range(5, 11))


async def test_an_early_viewer_waits_for_a_stream_and_gets_all_of_it_as_it_comes(screen: Show):
    author = Author("early")
    async with asyncio.timeout(TIMEOUT_S), events(url(screen, "early")) as answer:
        assert answer.response.status_code == 200
        async with aclosing(answer.messages()) as messages:
            await screen.submit("early")
            await screen.write("early", author.claim(0), author.run(numbered(3)))
            assert [(await anext(messages))["data"] for _ in range(3)] == [0, 1, 2]
            await screen.write("early", author.run(data(b"3", b"{}", last=Kind.COMPLETE)))
            assert [message["type"] async for message in messages] == ["stream_update", "stream_complete"]


async def test_a_rewind_is_told_to_those_who_watch_and_to_those_who_come_back(screen: Show):
    one, two = Author("rewound"), Author("rewound", 2, "w2")
    await screen.submit("rewound")
    saved = one.run(numbered(4), b"state")
    place = one.seq, one.hash
    await screen.write("rewound", one.claim(0), saved, one.run(numbered(4, 50)))
    async with (
        asyncio.timeout(TIMEOUT_S),
        events(url(screen, "rewound")) as answer,
        aclosing(answer.messages()) as messages,
    ):
        seen = [await anext(messages) for _ in range(8)]
        later = [two.claim(), two.resume(*place), two.run(numbered(2, 100)), two.run(data(b"{}", last=Kind.COMPLETE))]
        await screen.write("rewound", *later)
        seen += [message async for message in messages]
    assert [message["seq"] for message in seen if message["type"] == "stream_rewind"] == [4]
    assert shown(seen) == [0, 1, 2, 3, 100, 101, "stream_complete"]

    back = await read(screen, "rewound", seen[6]["cursor"])
    assert (back[0]["type"], back[0]["seq"]) == ("stream_rewind", 4)
    assert shown(seen[:7] + back) == shown(seen)


async def test_a_cursor_of_one_protocol_resumes_in_every_other(screen: Show, finished: str):
    async with httpx.AsyncClient(base_url=screen.url, timeout=TIMEOUT_S) as http:
        over_socket = (await screen.follow(finished, cursors=True))[2]["cursor"]
        over_events = await read(screen, finished, over_socket)
        assert [message["seq"] for message in over_events] == list(range(3, 11))
        page = await http.get(f"/ds/streams/{finished}", params={"offset": over_events[1]["cursor"]})
        assert [message["seq"] for message in page.json()] == list(range(5, 11))
        tail = (await http.head(f"/ds/streams/{finished}")).headers["stream-next-offset"]
        assert (await http.get(f"/streams/{finished}/events", params={"cursor": tail})).status_code == 204
        again = await screen.follow(finished, cursor=over_events[5]["cursor"])
        assert [message["seq"] for message in again] == [9, 10]


@pytest.mark.parametrize(
    ("query", "last_id", "status", "code"),
    [
        ({"cursor": "x"}, "", 400, "cursor_invalid"),
        ({}, "0000000000000005_0_AAAAAAAAAAAAAAAAAAAAAA", 400, "cursor_invalid"),
        ({"from_seq": 99}, "", 400, "beyond_end"),
        ({"from_seq": -1}, "", 400, "bad_request"),
        ({"from_seq": 1, "tail": 1}, "", 400, "bad_request"),
        ({"colour": "red"}, "", 400, "bad_request"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_a_status(
    screen: Show, finished: str, query: dict[str, Any], last_id: str, status: int, code: str
):
    async with events(url(screen, finished), last_id, **query) as answer:
        body = msgspec.json.decode(await answer.response.aread())
    assert (answer.response.status_code, body["error"]["code"]) == (status, code)


async def test_line_ends_between_the_tokens_of_json_do_not_break_an_event(screen: Show):
    await screen.submit("pretty")
    await screen.write("pretty", *Author("pretty").whole(data(b'{\n  "a": "x\\ny",\r\n  "b": 1\r}')))
    (update, _) = await read(screen, "pretty")
    assert update["data"] == {"a": "x\ny", "b": 1}


async def test_a_gateway_that_stops_ends_events_in_order_and_breaks_off_the_answers_of_chats(screen: Show, kafka: str):
    author = Author("drained")
    await screen.submit("drained")
    await screen.write("drained", author.claim(0), author.run(numbered(3)))

    async def answer_of(address: str, path: str, begun: asyncio.Event) -> str:
        text = ""
        async with httpx.AsyncClient(base_url=address, timeout=TIMEOUT_S) as http, http.stream("GET", path) as answer:
            async for part in answer.aiter_text():
                text += part
                if '"data":2' in text:
                    begun.set()
        return text

    begun = [asyncio.Event(), asyncio.Event()]
    async with asyncio.timeout(TIMEOUT_S):
        async with gateway(kafka, screen.rig.prefix) as (other, _):
            over_events = asyncio.create_task(answer_of(other, "/streams/drained/events", begun[0]))
            of_a_chat = asyncio.create_task(answer_of(other, "/streams/drained/ui-messages", begun[1]))
            await asyncio.gather(*(each.wait() for each in begun))
        last_id = re.findall(r"^id: (.+)$", await over_events, re.MULTILINE)[-1]
        with pytest.raises(httpx.RemoteProtocolError):
            await of_a_chat
    await screen.write("drained", author.run(data(b"{}", last=Kind.COMPLETE)))
    assert [message["seq"] for message in await read(screen, "drained", last_id)] == [3]


async def test_a_reader_that_stops_reading_is_hung_up_on_and_the_others_are_not(screen: Show):
    author, filler = Author("flood"), "x" * 1000
    await screen.submit("flood")
    await screen.write("flood", author.claim(0))
    watching, address = meters.VIEWERS.of("sse"), urlsplit(screen.url)
    before = watching.value
    with socket.socket() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect((address.hostname, address.port))
        stuck.sendall(b"GET /streams/flood/events HTTP/1.1\r\nhost: %b\r\n\r\n" % address.netloc.encode())
        async with asyncio.timeout(TIMEOUT_S), events(url(screen, "flood")) as answer:
            while watching.value < before + 2:
                await asyncio.sleep(0.01)
            for _ in range(8):
                await screen.write("flood", author.run(data(*[msgspec.json.encode(filler)] * 200)))
            await screen.write("flood", author.run(data(b"{}", last=Kind.COMPLETE)))
            assert len([message async for message in answer.messages()]) == 1601
            while watching.value > before:
                await asyncio.sleep(0.05)
