"""A view of a stream over the WebSocket and HTTP: what it shows, wherever the stream lies; where it resumes; what is refused."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from tests.support.archive import DEADLINE_S
from tests.support.show import Show, show
from tests.support.streams import Author, data
from tests.support.web import drive

from apexstream.client import Client
from apexstream.core.chunk import Kind

pytestmark = pytest.mark.asyncio(loop_scope="module")
OPERATORS = [{"op": "filter", "where": {"path": "$.third", "test": "eq", "value": True}}, {"op": "map", "path": "$.n"}]
THIRDS = {"operators": OPERATORS}
TEXT = msgspec.json.encode(THIRDS).decode()


def values(count: int, first: int = 0) -> list[bytes]:
    return [msgspec.json.encode({"n": n, "third": n % 3 == 0}) for n in range(first, first + count)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def screen(kafka: str) -> AsyncIterator[Show]:
    async with show(kafka, f"view{os.getpid()}.") as made, made.rig.archiving(made.archive, *range(12)):
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sealed(screen: Show) -> str:
    """A stream of 3,000 that is sealed."""
    await screen.write("sealed", *Author("sealed").whole(data(*values(3000)), run_size=100))
    await screen.sealed("sealed", 3001)
    return "sealed"


async def lines(screen: Show, stream_id: str, **query: Any) -> list[dict[str, Any]]:
    """What ``GET`` answers, line by line."""
    async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
        answer = await http.get(f"{screen.url}/streams/{stream_id}/view", params={"view": TEXT, **query})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [msgspec.json.decode(line) for line in answer.content.splitlines()]


def seen(messages: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(message["seq"], message["data"]) for message in messages if message["type"] == "stream_update"]


ALL = [(n, n) for n in range(0, 3000, 3)]


async def test_a_view_shows_the_same_of_a_stream_that_is_sealed_and_of_one_that_is_being_written(
    screen: Show, sealed: str
):
    author = Author("live")
    await screen.submit("live")
    await screen.write("live", author.claim(0), author.run(data(*values(250))))
    live = asyncio.create_task(screen.follow("live", view=THIRDS, cursors=True))
    for first in range(250, 3000, 250):
        await screen.write("live", author.run(data(*values(250, first))))
    await screen.write("live", author.run(data(b"{}", last=Kind.COMPLETE)))

    shown = await live

    assert seen(shown) == ALL
    assert shown[-1]["type"] == "stream_complete"
    assert seen(await screen.follow(sealed, view=THIRDS)) == ALL
    assert seen(await lines(screen, sealed)) == ALL


async def test_whoever_comes_back_with_a_cursor_of_the_view_goes_on_behind_it(screen: Show, sealed: str):
    shown = await screen.follow(sealed, view=THIRDS, cursors=True)
    for at in (0, 1, 499, 998):
        message = shown[at]
        assert seen(await screen.follow(sealed, view=THIRDS, cursor=message["cursor"])) == ALL[at + 1 :]
        assert seen(await lines(screen, sealed, cursor=message["cursor"])) == ALL[at + 1 :]


async def test_a_cursor_of_another_view_or_of_the_stream_itself_is_refused(screen: Show, sealed: str):
    cursor = (await screen.follow(sealed, cursors=True))[9]["cursor"]
    own = (await lines(screen, sealed))[3]["cursor"]
    for view, token in ((THIRDS, cursor), (None, own), ({"operators": OPERATORS[:1]}, own)):
        (answer,) = await screen.follow(sealed, view=view, cursor=token)
        assert (answer["type"], answer["error"]["code"]) == ("error", "cursor_invalid")


async def test_a_rewind_is_told_to_those_that_have_something_of_it(screen: Show):
    one, two = Author("turned"), Author("turned", 2, "w2")
    await screen.submit("turned")
    await screen.write("turned", one.claim(0), one.run(data(*values(4)), b"state"))
    place = one.seq, one.hash
    await screen.write("turned", one.run(data(*values(6, 4))))
    live = asyncio.create_task(screen.follow("turned", view=THIRDS))
    (*_, last) = await lines(screen, "turned")  # not live: it is told where to go on
    assert (last["type"], last["reason"]) == ("to_be_continued", "caught_up")
    end = two.resume(*place)
    await screen.write(
        "turned", two.claim(), end, two.run(data(*values(3, 3))), two.run(data(b"{}", last=Kind.COMPLETE))
    )

    back = await lines(screen, "turned", cursor=last["cursor"])

    told = [("stream_rewind", 4), ("stream_update", 4), ("stream_complete", 7)]
    assert [(message["type"], message["seq"]) for message in back] == told
    assert (await live)[-1]["type"] == "stream_complete"


async def test_an_answer_that_is_not_live_ends_where_the_stream_is_and_says_where_to_go_on(screen: Show):
    author = Author("growing")
    await screen.submit("growing")
    await screen.write("growing", author.claim(0), author.run(data(*values(5))))
    first = await lines(screen, "growing")
    assert seen(first) == [(0, 0), (3, 3)]
    again = await lines(screen, "growing", cursor=first[-1]["cursor"])
    assert [message["type"] for message in again] == ["to_be_continued"]
    await screen.write("growing", author.run(data(*values(5, 5))))
    rest: list[dict[str, Any]] = []
    while len(seen(rest)) < 2:  # until the gateway has read them
        rest = await lines(screen, "growing", cursor=first[-1]["cursor"])
    assert seen(rest) == [(6, 6), (9, 9)]


async def events(answer: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any] | None]]:
    """(id, message) of each event; None: one that only says where the reader is."""
    name, said = "", None
    async for line in answer.aiter_lines():
        if line.startswith("id: "):
            name = line[4:]
        elif line.startswith("data: "):
            said = msgspec.json.decode(line[6:])
        elif not line:
            yield name, said
            said = None


async def test_events_go_on_at_the_last_id_and_whoever_has_all_is_told_to_stay_away(screen: Show, sealed: str):
    url, params = f"{screen.url}/streams/{sealed}/view", {"view": TEXT, "from_seq": "2990"}
    accept = {"accept": "text/event-stream"}
    heard: list[tuple[str, dict[str, Any]]] = []
    async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
        for _ in range(2):
            last = {"last-event-id": heard[-1][0]} if heard else {}
            async with http.stream("GET", url, params=params, headers=accept | last) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                async with aclosing(events(answer)) as said:  # type: ignore[type-var]
                    async for name, message in said:
                        if message is not None:
                            heard.append((name, message))
                        if len(heard) == 2:
                            break
        done = await http.get(url, params=params, headers=accept | {"last-event-id": heard[-1][0]})
    assert [(message["type"], message["seq"]) for _, message in heard] == [
        ("stream_update", 2991), ("stream_update", 2994), ("stream_update", 2997), ("stream_complete", 3000),
    ]  # fmt: skip
    assert all(message["cursor"] == name for name, message in heard)
    assert done.status_code == 204


async def test_both_clients_follow_a_view_and_miss_nothing_that_it_shows(screen: Show, sealed: str):
    async with Client(screen.url) as client, aclosing(client.follow(sealed, view=THIRDS)) as following:
        frames = [frame async for frame in following]
    assert [frame.seq for frame in frames] == [*range(0, 3000, 3), 3000]
    events = await drive("follow", screen.url, sealed, "", TEXT)
    assert [(event["seq"], event["cursor"]) for event in events] == [(frame.seq, frame.cursor) for frame in frames]
    assert await drive("follow", screen.url, sealed, frames[-3].cursor, TEXT) == events[-2:]


@pytest.mark.parametrize(
    ("query", "status", "code", "where"),
    [
        ({}, 400, "bad_request", "query"),
        ({"view": "{"}, 422, "invalid_view", "view"),
        ({"view": '{"operators":[{"op":"take","count":2}]}'}, 422, "invalid_view", "$.operators[0].op"),
        ({"view": TEXT, "from_seq": "1", "tail": "2"}, 400, "bad_request", "query"),
        ({"view": TEXT, "from_seq": "-1"}, 400, "bad_request", "query"),
        ({"view": TEXT, "from": "1"}, 400, "bad_request", "query"),
        ({"view": TEXT, "cursor": "x"}, 400, "cursor_invalid", "cursor"),
        ({"view": TEXT, "from_seq": "9999"}, 400, "beyond_end", "sealed"),
    ],
)
async def test_what_cannot_be_shown_is_refused_before_anything_is_sent(
    screen: Show, sealed: str, query: dict[str, str], status: int, code: str, where: str
):
    async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
        answer = await http.get(f"{screen.url}/streams/{sealed}/view", params=query)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["where"]) == (status, code, where)
    assert error["message"]


async def test_a_view_of_a_stream_that_does_not_exist_is_refused_over_http_and_waited_for_on_a_socket(screen: Show):
    async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
        answer = await http.get(f"{screen.url}/streams/nothing/view", params={"view": TEXT})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_task")
    waiting = asyncio.create_task(screen.follow("late", view=THIRDS))
    await screen.submit("late")
    await screen.write("late", *Author("late").whole(data(*values(9))))
    assert seen(await waiting) == ALL[:3]


async def test_a_view_that_shows_nothing_still_shows_the_end(screen: Show, sealed: str):
    nothing = {"operators": [{"op": "filter", "where": {"path": "$.n", "test": "lt", "value": 0}}]}
    assert [message["type"] for message in await screen.follow(sealed, view=nothing)] == ["stream_complete"]
    shown = await lines(screen, sealed, view=msgspec.json.encode(nothing).decode())
    assert [message["type"] for message in shown] == ["stream_complete"]
