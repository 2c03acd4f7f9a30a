"""The WebSocket beyond the specification: cursors, places to start, one's own view, answers, and the farewell."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import websockets
from tests.support.archive import DEADLINE_S
from tests.support.show import Show, gateway, show, shown
from tests.support.streams import NOW_US, Author, content_of, data, numbered

from apexstream.core.chunk import Kind
from apexstream.gateway.live import TailMemory

pytestmark = pytest.mark.asyncio(loop_scope="module")
PARTITIONS = range(12)


class Socket:
    """A client that says and hears messages one by one."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self.connection = connection

    async def say(self, kind: str, **more: Any) -> None:
        await self.connection.send(msgspec.json.encode({"type": kind, **more}).decode())

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE_S):
            return dict(msgspec.json.decode(await self.connection.recv()))

    async def until(self, kind: str) -> list[dict[str, Any]]:
        """Messages up to one of this kind."""
        heard = [await self.hear()]
        while heard[-1]["type"] != kind:
            heard.append(await self.hear())
        return heard


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Socket]:
    async with websockets.connect(f"ws{url.removeprefix('http')}/stream", max_size=None, compression=None) as socket:
        yield Socket(socket)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def screen(kafka: str) -> AsyncIterator[Show]:
    """A gateway; nothing is sealed."""
    async with show(kafka, f"ws{os.getpid()}.") as made:
        yield made


async def half_written(screen: Show, stream_id: str, count: int = 10) -> Author:
    """A stream with ``count`` chunks and no end yet."""
    author = Author(stream_id)
    await screen.submit(stream_id)
    runs = [author.run(numbered(min(200, count - at), at)) for at in range(0, count, 200)]
    await screen.write(stream_id, author.claim(0), *runs)
    return author


async def ended(screen: Show, author: Author) -> None:
    await screen.write(author.stream_id, author.run(data(b"{}", last=Kind.COMPLETE)))


async def test_a_cursor_resumes_behind_the_message_that_carried_it(screen: Show):
    author = await half_written(screen, "resumed")
    async with connected(screen.url) as socket:
        await socket.say("subscribe", stream_id="resumed", cursors=True)
        heard = [await socket.hear() for _ in range(10)]
    await ended(screen, author)
    for message in heard:
        async with connected(screen.url) as socket:
            await socket.say("subscribe", id=7, stream_id="resumed", cursor=message["cursor"])
            answer, *rest = await socket.until("stream_complete")
        assert (answer["type"], answer["id"], answer["seq"]) == ("subscribed", 7, message["seq"] + 1)
        assert (answer["recovered"], answer["cursor"]) == (True, message["cursor"])
        assert [later["seq"] for later in rest] == list(range(message["seq"] + 1, 11))


@pytest.mark.parametrize("cursor", ["", "x", "0000000000000005_0_AAAAAAAAAAAAAAAAAAAAAA", "9" * 56])
async def test_a_cursor_that_is_none_is_refused_and_the_socket_stays_usable(screen: Show, cursor: str):
    async with connected(screen.url) as socket:
        await socket.say("subscribe", id="a", stream_id="resumed", cursor=cursor)
        answer = await socket.hear()
        assert (answer["type"], answer["id"], answer["error"]["code"]) == ("error", "a", "cursor_invalid")
        await socket.say("ping", id=1)
        assert await socket.hear() == {"type": "pong", "id": 1}


async def rewound(screen: Show, stream_id: str) -> tuple[list[bytes], list[str], Author]:
    """A stream that goes back twice, to 5 and then to 8. Gives the records, and the cursors before and between."""
    one, two, three = (Author(stream_id, attempt, f"w{attempt}") for attempt in (1, 2, 3))
    values = [one.claim(0), one.run(numbered(5), b"state")]
    place = one.seq, one.hash
    values += [one.run(numbered(5, 5))]
    await screen.submit(stream_id)
    await screen.write(stream_id, *values)
    cursors = []
    async with connected(screen.url) as socket:
        await socket.say("subscribe", stream_id=stream_id, cursors=True)
        cursors.append([await socket.hear() for _ in range(10)][-1]["cursor"])
        more = [two.claim(), two.resume(*place), two.run(numbered(3, 100), b"state")]
        place = two.seq, two.hash
        more += [two.run(numbered(4, 103))]
        await screen.write(stream_id, *more)
        cursors.append([await socket.hear() for _ in range(8)][-1]["cursor"])
        values += more
        more = [three.claim(), three.resume(*place), three.run(numbered(4, 200))]
        await screen.write(stream_id, *more)
        cursors.append([await socket.hear() for _ in range(5)][-1]["cursor"])
    return [*values, *more], cursors, three


async def test_who_comes_back_is_told_the_lowest_seq_taken_back_since_its_cursor(screen: Show):
    values, cursors, author = await rewound(screen, "twice")
    end = author.run(data(b"{}", last=Kind.COMPLETE))
    await screen.write("twice", end)
    expected = [msgspec.json.decode(chunk.payload) for chunk in content_of([*values, end]).chunks[:-1]]
    for cursor, told in zip(cursors, (5, 8, None), strict=True):
        async with connected(screen.url) as socket:
            await socket.say("subscribe", id=1, stream_id="twice", cursor=cursor)
            answer, *rest = await socket.until("stream_complete")
        assert answer["recovered"] is (told is None)
        if told is None:
            assert [message["type"] for message in rest] == ["stream_complete"]
        else:
            assert (rest[0]["type"], rest[0]["seq"], answer["seq"]) == ("stream_rewind", told, told)
            assert [message["seq"] for message in rest[1:]] == list(range(told, len(expected) + 1))
    async with connected(screen.url) as socket:
        await socket.say("subscribe", stream_id="twice")
        assert shown(await socket.until("stream_complete")) == [*expected, "stream_complete"]


async def test_reading_starts_at_the_tail_or_at_a_time(screen: Show):
    author = await half_written(screen, "places", 100)
    places = [({"tail": 3}, 97), ({"tail": 0}, 100), ({"tail": 1000}, 0)]
    places += [({"from_time": NOW_US + 40}, 40), ({"from_time": 0}, 0), ({"from_time": NOW_US + 10**9}, 100)]
    async with AsyncExitStack() as stack:
        sockets = [(await stack.enter_async_context(connected(screen.url)), seq) for _, seq in places]
        for (socket, seq), (place, _) in zip(sockets, places, strict=True):
            await socket.say("subscribe", id=1, stream_id="places", **place)
            assert (await socket.hear())["seq"] == seq
        await ended(screen, author)
        for socket, seq in sockets:
            heard = await socket.until("stream_complete")
            assert [message["seq"] for message in heard] == list(range(seq, 101))


async def test_a_view_that_is_held_misses_nothing_and_holds_nobody_else(screen: Show):
    author = await half_written(screen, "held", 3)
    async with connected(screen.url) as socket, connected(screen.url) as other:
        for one in (socket, other):
            await one.say("subscribe", stream_id="held")
            assert [(await one.hear())["seq"] for _ in range(3)] == [0, 1, 2]
        await socket.say("hold", id=1, stream_id="held")
        done = await socket.hear()
        assert (done["type"], done["id"]) == ("done", 1)
        await screen.write("held", author.run(numbered(200, 3)))
        assert [(await other.hear())["seq"] for _ in range(200)] == list(range(3, 203))
        await socket.say("ping")
        assert await socket.hear() == {"type": "pong"}
        await socket.say("release", stream_id="held")
        await ended(screen, author)
        assert [message["seq"] for message in await socket.until("stream_complete")] == list(range(3, 204))


async def test_a_paced_view_gets_everything_at_its_rate(screen: Show):
    author = await half_written(screen, "paced", 60)
    await ended(screen, author)
    async with connected(screen.url) as socket:
        begun = asyncio.get_running_loop().time()
        await socket.say("subscribe", stream_id="paced", rate=100)
        heard = await socket.until("stream_complete")
        took = asyncio.get_running_loop().time() - begun
    assert [message["seq"] for message in heard] == list(range(61))
    assert took >= 0.4  # 60 at 100 a second, of which the first 10 and the last come at once


async def test_a_pace_can_be_taken_away_again(screen: Show):
    author = await half_written(screen, "freed", 500)
    await ended(screen, author)
    async with connected(screen.url) as socket:
        await socket.say("subscribe", stream_id="freed", rate=10)
        assert (await socket.hear())["seq"] == 0
        await socket.say("pace", stream_id="freed", rate=0)
        heard = await socket.until("stream_complete")  # 50 s at the rate before
    assert [message["seq"] for message in heard] == list(range(1, 501))


async def test_messages_that_come_together_are_one_array_for_who_asked(screen: Show):
    author = await half_written(screen, "arrays", 500)
    await ended(screen, author)
    arrays, heard = 0, []
    async with connected(screen.url) as socket:
        await socket.say("subscribe", stream_id="arrays", batches=True)
        while not heard or heard[-1]["type"] != "stream_complete":
            message = msgspec.json.decode(await socket.connection.recv())
            arrays += isinstance(message, list)
            heard += message if isinstance(message, list) else [message]
    assert [message["seq"] for message in heard] == list(range(501))
    assert arrays


async def test_a_stream_that_is_not_there_yet_is_waited_for_and_that_is_said(screen: Show):
    async with connected(screen.url) as socket:
        await socket.say("subscribe", id=1, stream_id="later")
        assert await socket.hear() == {"type": "waiting", "id": 1, "stream_id": "later"}
        author = await half_written(screen, "later", 1)
        await ended(screen, author)
        answer, *rest = await socket.until("stream_complete")
    assert (answer["type"], answer["id"], answer["seq"]) == ("subscribed", 1, 0)
    assert len(rest) == 2


async def test_going_on_behind_the_end_of_a_stream_is_an_error(screen: Show):
    author = await half_written(screen, "short", 3)
    await ended(screen, author)
    async with connected(screen.url) as socket:
        await socket.say("subscribe", stream_id="short", from_seq=9)
        assert (await socket.hear())["error"]["code"] == "beyond_end"


@pytest.mark.parametrize("kind", ["hold", "release", "pace"])
async def test_a_view_of_a_stream_that_is_not_watched_cannot_be_changed(screen: Show, kind: str):
    async with connected(screen.url) as socket:
        await socket.say(kind, id=3, stream_id="nothing", **({"rate": 1} if kind == "pace" else {}))
        answer = await socket.hear()
    assert (answer["type"], answer["id"], answer["error"]["code"]) == ("error", 3, "bad_request")


async def test_unsubscribing_says_where_the_client_is(screen: Show):
    await half_written(screen, "left", 4)
    async with connected(screen.url) as socket:
        await socket.say("subscribe", stream_id="left", cursors=True)
        heard = [await socket.hear() for _ in range(4)]
        await socket.say("unsubscribe", id=1, stream_id="left")
        assert await socket.hear() == {"type": "done", "id": 1, "cursor": heard[-1]["cursor"]}


async def test_a_gateway_that_stops_tells_every_client_where_to_go_on_at_another(kafka: str, screen: Show):
    prefix = screen.rig.prefix
    authors = [await half_written(screen, f"moved{number}", 5) for number in range(3)]
    async with AsyncExitStack() as stack, gateway(kafka, prefix) as (going, _):
        socket = await stack.enter_async_context(connected(going))
        for author in authors:
            await socket.say("subscribe", stream_id=author.stream_id)
        for _ in range(15):
            assert (await socket.hear())["type"] == "stream_update"
        leaving = asyncio.create_task(socket.until("closing"))
    (farewell,) = await leaving
    assert (farewell["code"], set(farewell["cursors"])) == (4000, {author.stream_id for author in authors})
    assert socket.connection.close_code == 4000
    async with connected(screen.url) as other:
        for author in authors:
            await ended(screen, author)
            await other.say("subscribe", stream_id=author.stream_id, cursor=farewell["cursors"][author.stream_id])
            assert [message["seq"] for message in await other.until("stream_complete")] == [5]


async def test_the_close_reason_is_the_cursor_where_there_is_one_stream(kafka: str, screen: Show):
    await half_written(screen, "reason", 2)
    async with AsyncExitStack() as stack, gateway(kafka, screen.rig.prefix) as (going, _):
        socket = await stack.enter_async_context(connected(going))
        await socket.say("subscribe", stream_id="reason", cursors=True)
        heard = [await socket.hear() for _ in range(2)]
        leaving = asyncio.create_task(socket.until("closing"))
    await leaving
    assert socket.connection.close_reason == heard[-1]["cursor"]


async def test_a_cursor_ahead_of_this_gateway_waits_for_its_tail(screen: Show):
    """Another gateway has shown chunks that this one has not read yet."""
    author = await half_written(screen, "ahead", 3)
    async with connected(screen.url) as socket:
        await socket.say("subscribe", id=1, stream_id="ahead", from_seq=5)
        assert (await socket.hear())["seq"] == 5
        await screen.write("ahead", author.run(numbered(4, 3)))
        assert [(await socket.hear())["seq"] for _ in range(2)] == [5, 6]
        await ended(screen, author)
        assert (await socket.hear())["type"] == "stream_complete"


async def test_what_memory_does_not_hold_any_more_comes_from_the_log(kafka: str, topic_prefix: str, monkeypatch: Any):
    """With rewinds in it, unsealed, while it is being written, and for several viewers at once."""
    monkeypatch.setattr(TailMemory.__init__, "__defaults__", (40_000,))
    async with show(kafka, topic_prefix) as made:
        old, new = Author("small", 1, "old"), Author("small", 2, "new")
        values = [
            old.claim(0),
            *(old.run(numbered(50, at)) for at in range(0, 500, 50)),
            old.run(numbered(50), b"state"),
        ]
        place = old.seq, old.hash
        values += [old.run(numbered(100, 5000)), new.claim(), new.resume(*place)]
        values += [new.run(numbered(100, at)) for at in range(10_000, 12_000, 100)]
        await made.submit("small")
        first = asyncio.create_task(made.follow("small"))
        for value in values:
            await made.write("small", value)
        late = [asyncio.create_task(made.follow("small", from_seq=at)) for at in (0, 100, 549, 551, 900)]
        await asyncio.sleep(0.1)
        end = new.run(data(b"{}", last=Kind.COMPLETE))
        await made.write("small", end)
        expected = [msgspec.json.decode(chunk.payload) for chunk in content_of([*values, end]).chunks[:-1]]
        assert shown(await first) == [*expected, "stream_complete"]
        for task, at in zip(late, (0, 100, 549, 551, 900), strict=True):
            messages = [message for message in await task if message["type"] != "stream_rewind"]
            seqs = [message["seq"] for message in messages]
            assert seqs == list(range(seqs[0], len(expected) + 1))
            assert seqs[0] <= at
            assert [message["data"] for message in messages[:-1]] == expected[seqs[0] :]


async def test_a_record_that_cannot_be_read_is_skipped_for_every_viewer_alike(screen: Show):
    author = await half_written(screen, "garbled", 2)
    await screen.write("garbled", b"\xff\xff not a record")
    await ended(screen, author)
    assert [message["seq"] for message in await screen.follow("garbled")] == [0, 1, 2]
