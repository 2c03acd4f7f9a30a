"""A viewer gets the same stream wherever it lies: sealed, in the log, on its way, or in all three at once."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.support.archive import DEADLINE_S, stopped, until
from tests.support.show import Show, show, shown, subscribe
from tests.support.sse import events
from tests.support.streams import CODEC, Author, content_of, data, numbered

from apexstream.core.chunk import Kind
from apexstream.core.events import ControlCommand, ControlVerb, SegmentRef, StreamStatus
from apexstream.log.segments import segment_key

pytestmark = pytest.mark.asyncio(loop_scope="module")

PARTITIONS = range(12)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def screen(kafka: str) -> AsyncIterator[Show]:
    """A gateway and an archiver for all tests that are content with streams of their own."""
    async with show(kafka, f"show{os.getpid()}.") as made, made.rig.archiving(made.archive, *PARTITIONS):
        yield made


async def test_a_sealed_stream_is_shown_whole_and_from_anywhere(screen: Show) -> None:
    await screen.write("whole", *Author("whole").whole(numbered(3000), run_size=30))
    await screen.sealed("whole", 3001)

    everything = await screen.follow("whole")

    assert shown(everything) == [*range(3000), "stream_complete"]
    for from_seq in (1, 1019, 1020, 1021, 2700, 2999, 3000):
        assert await screen.follow("whole", from_seq=from_seq) == everything[from_seq:]
    assert await screen.follow("whole") == everything  # now from the gateway's memory


async def test_a_sealed_stream_needs_the_log_no_more(kafka: str, topic_prefix: str) -> None:
    async with show(kafka, topic_prefix) as made:
        partition = made.rig.partition_of("trimmed")
        await made.write("trimmed", *Author("trimmed").whole(numbered(300)))
        async with made.rig.archiving(made.archive, partition, trim_after_s=0.0):
            chunks = (made.rig.topic("chunks"), partition)
            async with asyncio.timeout(DEADLINE_S):
                while (await made.rig.reader.starts([chunks]))[chunks] < 4:
                    await asyncio.sleep(0.02)
        assert shown(await made.follow("trimmed")) == [*range(300), "stream_complete"]


async def test_kinds_and_content_types_survive_sealing(screen: Show) -> None:
    author = Author("kinds")
    chunks = [*data(b'{"a":1}'), *numbered(1)]
    chunks += [chunk_of(Kind.PROGRESS, b'{"percentage":5.0}'), chunk_of(Kind.DATA, "Grüße".encode(), "text/plain")]
    chunks += [chunk_of(Kind.DATA, b"\x00\xff", "image/png")]
    end = chunk_of(Kind.ERROR, b'{"code":"plugin_failed"}')
    await screen.submit("kinds")
    live = asyncio.create_task(screen.follow("kinds"))
    await screen.write("kinds", author.claim(0), author.run(chunks), author.run([end]))
    await screen.sealed("kinds", 6)

    messages = await screen.follow("kinds")

    assert messages == await live
    assert [message["type"] for message in messages[2:]] == [
        "stream_progress", "stream_update", "stream_update", "stream_error",
    ]  # fmt: skip
    assert (messages[3]["data"], messages[4]["encoding"]) == ("Grüße", "base64")


def chunk_of(kind: Kind, payload: bytes, content_type: str = "") -> Any:
    return replace_chunk(data(payload)[0], kind, content_type)


def replace_chunk(chunk: Any, kind: Kind, content_type: str) -> Any:
    return type(chunk)(kind, chunk.payload, chunk.event_time_us, content_type)


async def test_viewers_who_come_at_any_time_see_one_stream_without_a_seam(screen: Show) -> None:
    rng = random.Random(3)
    author, sent = Author("seam"), []
    await screen.submit("seam")
    viewers = [asyncio.create_task(screen.follow("seam"))]
    for step in range(60):
        value = author.claim(0) if step == 0 else author.run(numbered(rng.choice((1, 40, 256)), step * 1000))
        sent.append(value)
        await screen.write("seam", value)
        if step % 4 == 0:
            at = rng.choice((0, 0, rng.randint(0, author.seq)))
            viewers.append(asyncio.create_task(screen.follow("seam", from_seq=at)))
        await asyncio.sleep(rng.uniform(0, 0.03))
    sent.append(author.run(data(b"{}", last=Kind.COMPLETE)))
    await screen.write("seam", sent[-1])

    expected = [msgspec.json.decode(chunk.payload) for chunk in content_of(sent).chunks]
    for messages in await asyncio.gather(*viewers):
        first = messages[0]["seq"]
        assert [message["seq"] for message in messages] == list(range(first, len(expected)))
        assert [message["data"] for message in messages[:-1]] == expected[first:-1]


async def test_viewers_see_rewinds_wherever_these_lie(screen: Show) -> None:
    old, new = Author("turns", 1, "old"), Author("turns", 2, "new")
    values = [old.claim(0), old.run(numbered(100), b"state")]
    place = old.seq, old.hash
    values += [old.run(numbered(50, 100)), new.claim(), new.resume(*place), new.run(numbered(7, 9000))]
    await screen.submit("turns")
    viewers = [asyncio.create_task(screen.follow("turns"))]
    for value in values:
        await screen.write("turns", value)
        await asyncio.sleep(0.03)
        viewers.append(asyncio.create_task(screen.follow("turns")))
    end = new.run(data(b"{}", last=Kind.COMPLETE))
    await screen.write("turns", end)

    expected = [msgspec.json.decode(chunk.payload) for chunk in content_of([*values, end]).chunks[:-1]]
    for messages in await asyncio.gather(*viewers):
        assert shown(messages) == [*expected, "stream_complete"]


@pytest.mark.parametrize(("from_seq", "told"), [(0, False), (100, False), (101, True), (150, True), (151, False)])
async def test_who_comes_back_to_a_sealed_stream_is_told_what_a_rewind_took(
    screen: Show, from_seq: int, told: bool
) -> None:
    if screen.archive.index.get("return") is None:
        old, new = Author("return", 1, "old"), Author("return", 2, "new")
        values = [old.claim(0), old.run(numbered(100), b"state")]
        place = old.seq, old.hash
        values += [old.run(numbered(50, 100)), new.claim(), new.resume(*place), new.run(numbered(200, 9000))]
        await screen.write("return", *values, new.run(data(b"{}", last=Kind.COMPLETE)))
        await screen.sealed("return", 301)

    messages = await screen.follow("return", from_seq=from_seq)

    assert (messages[0] == {"type": "stream_rewind", "stream_id": "return", "seq": 100}) is told
    assert messages[told]["seq"] == (100 if told else from_seq)


async def test_many_sealed_streams_fit_one_socket(screen: Show) -> None:
    names = [f"many{number}" for number in range(60)]
    chunks = numbered(256, pad=600)  # 160 KiB of frames each, 10 MiB together: far more than a viewer may be behind
    # Side by side: 420 round trips to a broker one after another took most of a minute on a machine that others keep busy.
    await asyncio.gather(*(screen.write(name, *Author(name).whole(chunks, run_size=60)) for name in names))
    await asyncio.gather(*(screen.sealed(name, 257) for name in names))

    ended: dict[str, int] = {}
    async with asyncio.timeout(DEADLINE_S), screen.socket() as socket:
        for name in names:
            await socket.send(subscribe(name))
        while len(ended) < len(names):
            message = msgspec.json.decode(await socket.recv())
            if message["type"] == "stream_complete":
                ended[message["stream_id"]] = message["seq"]

    assert ended == dict.fromkeys(names, 256)


async def forget(screen: Show, stream_id: str) -> None:
    command = ControlCommand(task_id=stream_id, verb=ControlVerb.FORGET, at_us=0)
    await screen.rig.writer.append(screen.rig.topic("control"), stream_id.encode(), CODEC.encode(command))
    await until(screen.archive, stream_id, lambda state: state.status is StreamStatus.ERASED)


async def over_http(screen: Show, stream_id: str) -> list[dict[str, Any]]:
    async with events(f"{screen.url}/streams/{stream_id}/events") as answer:
        return [message async for message in answer.messages()]


async def test_an_erased_stream_says_so_to_those_who_watch_and_those_who_come(screen: Show) -> None:
    author = Author("gone")
    await screen.submit("gone")
    watching = [asyncio.create_task(screen.follow("gone")), asyncio.create_task(over_http(screen, "gone"))]
    await screen.write("gone", author.claim(0), author.run(numbered(3)))
    await screen.sealed("gone", 3)

    await forget(screen, "gone")

    for messages in await asyncio.gather(*watching):
        assert messages[-1]["error"]["code"] == "erased"
    async with events(f"{screen.url}/streams/gone/events") as answer:
        assert answer.response.status_code == 410
    (late,) = await screen.follow("gone")
    assert (late["type"], late["stream_id"], late["error"]["code"]) == ("error", "gone", "erased")


async def test_a_finished_stream_that_was_shown_is_erased_from_memory_too(screen: Show) -> None:
    await screen.write("shown", *Author("shown").whole(numbered(10)))
    await screen.sealed("shown", 11)
    assert len(await screen.follow("shown")) == 11

    await forget(screen, "shown")

    (late,) = await screen.follow("shown")
    assert late["error"]["code"] == "erased"


async def test_an_expired_stream_says_so_even_before_the_archiver_came_to_it(screen: Show) -> None:
    author = Author("old")
    claim = author.claim(0, b'{"ttl_s":0.001}')
    await screen.write("old", claim, author.run(numbered(3)), author.run(data(b"{}", last=Kind.COMPLETE)))
    await screen.sealed("old", 4)

    (late,) = await screen.follow("old")

    assert late["error"]["code"] == "expired"


async def make_unreadable(screen: Show, stream_id: str, change: dict[str, Any]) -> None:
    """A sealed stream whose second segment is not where its state says."""
    await screen.write(stream_id, *Author(stream_id).whole(numbered(3000), run_size=200))
    state = await screen.sealed(stream_id, 3001)
    first, second, *rest = state.segments
    moved: SegmentRef = msgspec.structs.replace(second, **change)
    await screen.publish(msgspec.structs.replace(state, segments=(first, moved, *rest)))


@pytest.mark.parametrize(
    "change", [{"offset": 1 << 40}, {"offset": 0}, {"number": 5}], ids=["beyond the log", "another's", "renumbered"]
)
async def test_a_segment_that_cannot_be_read_is_an_error_for_its_viewer_alone(
    screen: Show, change: dict[str, Any]
) -> None:
    bad, fine = f"bad{change}".translate(str.maketrans("", "", "{}': ")), "fine"
    await screen.write(fine, *Author(fine).whole(numbered(3)))
    await make_unreadable(screen, bad, change)
    await screen.sealed(fine, 4)

    broken, whole = await asyncio.gather(screen.follow(bad), screen.follow(fine))

    assert [message["seq"] for message in broken[:-1]] == list(range(1000))
    assert (broken[-1]["type"], broken[-1]["error"]["code"]) == ("error", "data_corruption")
    assert len(whole) == 4


async def test_a_damaged_segment_is_not_shown(screen: Show) -> None:
    await screen.write("damaged", *Author("damaged").whole(numbered(3000), run_size=200))
    state = await screen.sealed("damaged", 3001)
    ref, partition = state.segments[1], screen.rig.partition_of("damaged")
    at = (screen.rig.topic("segments"), partition)
    async for records, _ in screen.rig.reader.scan(at, ref.offset, ref.offset + 1):
        value = bytearray(records[0].value or b"")
    value[-40] ^= 1
    offset = await screen.rig.writer.append(
        at[0], segment_key("damaged", ref.number), bytes(value), partition=partition
    )
    moved = msgspec.structs.replace(ref, offset=offset)
    await screen.publish(msgspec.structs.replace(state, segments=(state.segments[0], moved, *state.segments[2:])))

    messages = await screen.follow("damaged")

    assert len(messages) == 1001
    assert "digest" in messages[-1]["error"]["message"]


async def test_a_viewer_of_an_open_stream_reads_little_of_the_log(kafka: str, topic_prefix: str) -> None:
    """What neighbours wrote after the stream was last sealed, and is sealed itself, is not read again."""
    async with show(kafka, topic_prefix) as made:
        partition, author = made.rig.partition_of("quiet"), Author("quiet")
        other = next(f"o{n}" for n in range(1 << 20) if made.rig.partition_of(f"o{n}") == partition)
        await made.submit("quiet")
        async with made.rig.archiving(made.archive, partition):
            await made.write("quiet", author.claim(0), author.run(numbered(3)))
            await made.sealed("quiet", 3)
            await made.write(other, *Author(other).whole(numbered(5000), run_size=1))
            end = await made.rig.ends("chunks", partition)
            async with asyncio.timeout(DEADLINE_S):
                while made.archive.index.sealed_to(partition) != end:
                    await asyncio.sleep(0.01)
        # Everything before is deleted: a viewer that still wanted it would be told of a hole.
        from apexstream.log.trim import delete_before

        await delete_before(kafka, {(made.rig.topic("chunks"), partition): end}, client_id="test")
        following = asyncio.create_task(made.follow("quiet"))
        await made.write("quiet", author.run(numbered(2, 3)), author.run(data(b"{}", last=Kind.COMPLETE)))
        assert shown(await following) == [0, 1, 2, 3, 4, "stream_complete"]
        await stopped(following)


async def test_encrypted_streams_are_shown_from_segments_too(
    kafka: str, topic_prefix: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apexstream.core.claims import ClaimWords
    from apexstream.log.cipher import AttemptCipher, LocalKeys, key_words

    monkeypatch.setenv("APEX_HOME", str(tmp_path))
    monkeypatch.setenv("APEX_ENCRYPTION", "local")
    keys = LocalKeys(tmp_path / "keys.db")
    author, data_key = Author("hidden"), bytes(range(32))
    cipher = AttemptCipher("hidden", 1, data_key)
    values = [author.claim(0, ClaimWords(key=key_words(keys.wrap("hidden", data_key))).encode())]
    values += [author.run(cipher.seal(at, numbered(100, at))) for at in (0, 100, 200)]
    values += [author.run(data(b"{}", last=Kind.COMPLETE))]
    async with show(kafka, topic_prefix) as made:
        made.archive = replace(made.archive, keys=keys)
        await made.submit("hidden")
        live = asyncio.create_task(made.follow("hidden"))
        await made.write("hidden", *values)
        assert shown(await live) == [*range(300), "stream_complete"]
        async with made.rig.archiving(made.archive, made.rig.partition_of("hidden")):
            await made.sealed("hidden", 301)
            assert shown(await made.follow("hidden")) == [*range(300), "stream_complete"]
            await forget(made, "hidden")
            (late,) = await made.follow("hidden")
            assert late["error"]["code"] == "erased"
    keys.close()
