"""Streams are sealed as the fold says, whatever dies, whoever else believes to be the archiver, however often they go back."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.support import archive as support
from tests.support.archive import Rig, rig, sealed_content, until
from tests.support.streams import CODEC, Author, append, content_of, data, numbered

from apexstream.archiver.build import serve
from apexstream.archiver.claim import Archive, Deposed, claim
from apexstream.archiver.refs import REFS_MAX
from apexstream.archiver.seal import Sealer
from apexstream.archiver.stream import OpenStream
from apexstream.core.chunk import Kind
from apexstream.core.events import ControlCommand, ControlVerb, StreamState, StreamStatus
from apexstream.log.cipher import LocalKeys
from apexstream.log.fetcher import LogReader
from apexstream.log.index import fold_of
from apexstream.log.writer import Writer
from apexstream.runtime.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(kafka: str) -> AsyncIterator[Rig]:
    """Topics for all tests that are content with streams of their own."""
    async with rig(kafka, f"arch{os.getpid()}.") as made:
        yield made


def closed(state: StreamState) -> bool:
    return state.status is not StreamStatus.OPEN


async def test_a_finished_stream_is_sealed_whole(shared: Rig) -> None:
    values = Author("whole").whole(numbered(4000), run_size=7)
    await append(shared.writer, shared.topic("chunks"), "whole", values)

    async with shared.archive("a") as archive, shared.archiving(archive, shared.partition_of("whole")):
        state = await until(archive, "whole", closed)
        chunks = await sealed_content(archive, shared.partition_of("whole"), state)

    expected = content_of(values)
    assert (state.status, state.next_seq, state.data_count) == (StreamStatus.COMPLETE, 4001, 4000)
    assert chunks == expected.chunks
    assert [ref.count for ref in state.segments] == [1022, 1022, 1022, 935]  # whole runs of 7, as many as fit in 1,024


async def test_an_open_stream_is_sealed_after_a_while_and_goes_on(shared: Rig) -> None:
    author, partition = Author("slow"), shared.partition_of("slow")
    values = [author.claim(0), author.run(numbered(3), b"state")]
    async with shared.archive("a") as archive, shared.archiving(archive, partition):
        await append(shared.writer, shared.topic("chunks"), "slow", values)
        first = await until(archive, "slow", lambda state: state.next_seq == 3)
        assert fold_of(first) == content_of(values).fold
        values += [author.run(numbered(2, 3)), author.run(data(b"{}", last=Kind.COMPLETE))]
        await append(shared.writer, shared.topic("chunks"), "slow", values[2:])
        last = await until(archive, "slow", closed)
        assert await sealed_content(archive, partition, last) == content_of(values).chunks
    assert (first.status, first.checkpoint, first.ended_us) == (StreamStatus.OPEN, b"state", 0)
    assert last.segments[: len(first.segments)] == first.segments
    assert last.ended_us > 0


async def test_progress_stops_at_what_is_not_sealed(shared: Rig) -> None:
    waiting, partition = Author("waits"), shared.partition_of("waits")
    async with shared.archive("a") as archive, shared.archiving(archive, partition, seal_after_s=3600):
        (first, *_) = await append(
            shared.writer, shared.topic("chunks"), "waits", [waiting.claim(0), waiting.run(numbered(1))]
        )
        for number in range(3):
            other = next(f"o{n}" for n in range(number * 1000, 1 << 20) if shared.partition_of(f"o{n}") == partition)
            await append(shared.writer, shared.topic("chunks"), other, Author(other).whole(numbered(5)))
            await until(archive, other, closed)
        await asyncio.sleep(0.2)  # a few turns in which it might go too far
        assert archive.index.sealed_to(partition) == first
        await append(shared.writer, shared.topic("chunks"), "waits", [waiting.run(data(b"{}", last=Kind.COMPLETE))])
        await until(archive, "waits", closed)
        end = await shared.ends("chunks", partition)
        async with asyncio.timeout(10):
            while archive.index.sealed_to(partition) != end:
                await asyncio.sleep(0.01)


async def test_a_rewind_drops_what_it_took_back_and_keeps_the_rest(shared: Rig) -> None:
    old, partition = Author("back", 1, "old"), shared.partition_of("back")
    values = [old.claim(0), old.run(numbered(200)), old.run(numbered(200, 200), b"state")]
    kept_hash = old.hash
    values += [old.run(numbered(256, 400))]
    async with shared.archive("a") as archive, shared.archiving(archive, partition):
        await append(shared.writer, shared.topic("chunks"), "back", values)
        before = await until(archive, "back", lambda state: state.next_seq == 656)
        new = Author("back", 2, "new")
        more = [new.claim(), new.resume(400, kept_hash), new.run(numbered(5, 9000))]
        await append(shared.writer, shared.topic("chunks"), "back", more)
        after = await until(archive, "back", lambda state: state.next_seq == 405)
        assert await sealed_content(archive, partition, after) == content_of(values + more).chunks
    assert (before.rewinds, after.rewinds, after.rewound_to, after.rewound_from) == (0, 1, 400, 656)
    await shared.audit()


async def test_a_stream_that_starts_over_keeps_nothing_of_before(shared: Rig) -> None:
    old, new, partition = Author("over", 1, "old"), Author("over", 2, "new"), shared.partition_of("over")
    values = [old.claim(0), old.run(numbered(100)), new.claim(0), new.run(numbered(3, 50))]
    async with shared.archive("a") as archive, shared.archiving(archive, partition):
        await append(shared.writer, shared.topic("chunks"), "over", values[:2])
        await until(archive, "over", lambda state: state.next_seq == 100)
        await append(shared.writer, shared.topic("chunks"), "over", values[2:])
        state = await until(archive, "over", lambda state: state.next_seq == 3)
        assert await sealed_content(archive, partition, state) == content_of(values).chunks
    await shared.audit()


async def test_nothing_opens_a_stream_that_has_ended(shared: Rig) -> None:
    partition = shared.partition_of("ended")
    async with shared.archive("a") as archive, shared.archiving(archive, partition):
        await append(shared.writer, shared.topic("chunks"), "ended", Author("ended").whole(numbered(5)))
        state = await until(archive, "ended", closed)
        zombie = Author("ended", 7, "zombie")
        await append(
            shared.writer, shared.topic("chunks"), "ended", [zombie.claim(0), *Author("ended").whole(numbered(9))]
        )
        end = await shared.ends("chunks", partition)
        async with asyncio.timeout(10):
            while archive.index.sealed_to(partition) != end:
                await asyncio.sleep(0.01)
        assert archive.index.get("ended") == state


async def test_a_very_long_stream_has_pages_and_can_be_cut_inside_one(
    kafka: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apexstream.archiver.stream.SEGMENT_CHUNKS_MAX", 256)
    async with rig(kafka, topic_prefix) as made, made.archive("a") as archive:
        old, partition = Author("long", 1, "old"), made.partition_of("long")
        values = [old.claim(0)]
        values += [old.run(numbered(256, at * 256)) for at in range(20)]
        values += [old.run(numbered(256, 20 * 256), b"state")]
        place = old.seq, old.hash
        values += [old.run(numbered(256, at * 256)) for at in range(21, 400)]
        async with made.archiving(archive, partition):
            await append(made.writer, made.topic("chunks"), "long", values)
            state = await until(archive, "long", lambda state: state.next_seq == 400 * 256)
            assert len(state.segments) <= REFS_MAX
            assert state.segments[0].index
            assert await sealed_content(archive, partition, state) == content_of(values).chunks
            new = Author("long", 2, "new")
            more = [new.claim(), new.resume(*place), new.run(numbered(3)), new.run(data(b"{}", last=Kind.COMPLETE))]
            await append(made.writer, made.topic("chunks"), "long", more)
            state = await until(archive, "long", closed)
            assert await sealed_content(archive, partition, state) == content_of(values + more).chunks
        assert (await made.audit())["long"] == state


async def test_memory_that_runs_out_seals_early(shared: Rig) -> None:
    author, partition = Author("greedy"), shared.partition_of("greedy")
    values = [author.claim(0), author.run(data(*(b'"%b"' % (b"x" * 10_000) for _ in range(6))))]
    limits = {"seal_after_s": 3600, "memory_bytes": 50_000}
    async with shared.archive("a") as archive, shared.archiving(archive, partition, **limits):
        await append(shared.writer, shared.topic("chunks"), "greedy", values)
        state = await until(archive, "greedy", lambda state: state.next_seq == 6)
    assert len(state.segments) == 1


async def forget(made: Rig, stream_id: str) -> None:
    command = ControlCommand(task_id=stream_id, verb=ControlVerb.FORGET, at_us=0)
    await made.writer.append(made.topic("control"), stream_id.encode(), CODEC.encode(command))


async def test_a_forgotten_stream_is_erased_with_its_key_and_stays_so(
    kafka: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with rig(kafka, topic_prefix) as made:
        keys, partition = LocalKeys(tmp_path / "keys"), made.partition_of("secret")
        wrapped = keys.wrap("secret", bytes(32))
        author = Author("secret")
        async with made.archive("a", keys) as archive, made.archiving(archive, partition):
            values = [author.claim(0, b'{"ttl_s":5000}'), author.run(numbered(10), b"state")]
            await append(made.writer, made.topic("chunks"), "secret", values)
            await until(archive, "secret", lambda state: state.next_seq == 10)
            await forget(made, "secret")
            state = await until(archive, "secret", lambda state: state.status is StreamStatus.ERASED)
            await append(made.writer, made.topic("chunks"), "secret", [author.run(numbered(10))])
            end = await made.ends("chunks", partition)
            async with asyncio.timeout(10):
                while archive.index.sealed_to(partition) != end:
                    await asyncio.sleep(0.01)
            assert archive.index.get("secret") == state
        assert (state.segments, state.claims, state.checkpoint) == ((), (), None)
        with pytest.raises(Exception, match="destroyed"):
            keys.unwrap("secret", wrapped)
        keys.close()
        assert await made.audit() == {"secret": state}


async def test_a_stream_expires_when_its_time_is_over(kafka: str, topic_prefix: str) -> None:
    async with rig(kafka, topic_prefix) as made, made.archive("a") as archive:
        for stream_id, retention in (("soon", {"ttl_s": 0.2}), ("kept", {"ttl_s": 0.2, "keep": True})):
            author = Author(stream_id)
            claim = author.claim(0, msgspec.json.encode(retention))
            values = [claim, author.run(numbered(10)), author.run(data(b"{}", last=Kind.COMPLETE))]
            await append(made.writer, made.topic("chunks"), stream_id, values)
        partitions = {made.partition_of("soon"), made.partition_of("kept")}
        async with made.archiving(archive, *partitions, seal_after_s=0.05):
            state = await until(archive, "soon", lambda state: state.status is StreamStatus.EXPIRED)
            kept = await until(archive, "kept", closed)
        assert (state.segments, state.next_seq) == ((), 11)
        assert (kept.status, kept.expires_us) == (StreamStatus.COMPLETE, 0)
        assert len(await made.audit()) == 2


async def test_only_what_is_sealed_and_old_is_trimmed(kafka: str, topic_prefix: str) -> None:
    async with rig(kafka, topic_prefix) as made, made.archive("a") as archive:
        partition = made.partition_of("open")
        other = next(f"o{n}" for n in range(1 << 20) if made.partition_of(f"o{n}") == partition)
        chunks = (made.topic("chunks"), partition)
        await append(made.writer, made.topic("chunks"), other, Author(other).whole(numbered(500), run_size=10))
        async with made.archiving(archive, partition, trim_after_s=3600.0):
            await until(archive, other, closed)
            await asyncio.sleep(0.3)  # a few turns in which it might trim what is sealed but young
            assert (await made.reader.starts([chunks]))[chunks] == 0
        author = Author("open")
        (first, *_) = await append(
            made.writer, made.topic("chunks"), "open", [author.claim(0), author.run(numbered(1))]
        )
        async with made.archiving(archive, partition, trim_after_s=0.0, seal_after_s=3600.0):
            async with asyncio.timeout(10):
                while (await made.reader.starts([chunks]))[chunks] < first:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)  # a few turns in which it might go too far
            assert (await made.reader.starts([chunks]))[chunks] == first


class Fuse(Writer):
    """A writer that dies with its process at the ``lives``-th append: before it is sent, or before its answer is heard."""

    class Killed(Exception):
        """Instead of kill -9."""

    def __init__(self, kafka: str, lives: int, *, after: bool) -> None:
        super().__init__(kafka, client_id="fuse")
        self.lives = lives
        self._after = after

    async def append(self, topic: str, key: bytes, value: bytes | None, *, partition: int | None = None) -> int:
        self.lives -= 1
        if self.lives <= 0 and not (self._after and self.lives == 0):
            raise self.Killed
        offset = await super().append(topic, key, value, partition=partition)
        if self.lives <= 0:
            raise self.Killed
        return offset


@pytest.mark.parametrize("after", [False, True], ids=["before it is sent", "before it is known"])
async def test_a_kill_at_any_append_loses_nothing_and_leaves_nothing(
    kafka: str, topic_prefix: str, after: bool
) -> None:
    async with rig(kafka, topic_prefix) as made:
        streams: dict[str, list[bytes]] = {}
        partition = 0
        names = [name for name in (f"s{n}" for n in range(200)) if made.partition_of(name) == partition]
        for lives in range(1, 16):
            old, new = Author(names[lives], 1, "old"), Author(names[lives], 2, "new")
            values = [old.claim(0), old.run(numbered(300)[:256]), old.run(numbered(30)), new.claim(0)]
            values += [new.run(numbered(40, 100)), new.run(data(b"{}", last=Kind.COMPLETE))]
            streams[names[lives]] = values
            async with made.archive(f"dies-{lives}") as archive, Fuse(kafka, lives, after=after) as fuse:
                dying = msgspec_like_replace(archive, writer=fuse)
                task = asyncio.create_task(made.partition(partition, dying, support.Held()).run())
                for value in values:
                    await append(made.writer, made.topic("chunks"), names[lives], [value])
                    await asyncio.sleep(0.02)
                async with asyncio.timeout(10):
                    while not task.done() and fuse.lives > 0:
                        state = archive.index.get(names[lives])
                        if state is not None and closed(state):
                            break
                        await asyncio.sleep(0.01)
                await support.stopped(task)
        async with made.archive("last") as archive, made.archiving(archive, partition):
            for name, values in streams.items():
                state = await until(archive, name, closed)
                assert await sealed_content(archive, partition, state) == content_of(values).chunks
        await made.audit()


def msgspec_like_replace(archive: Archive, *, writer: Writer) -> Archive:
    from dataclasses import replace

    return replace(archive, writer=writer)


async def test_kill_9_again_and_again_under_load(kafka: str, topic_prefix: str) -> None:
    rng = random.Random(4)
    async with rig(kafka, topic_prefix) as made:
        streams: dict[str, list[bytes]] = {}
        writing = asyncio.create_task(write_streams(made, streams, rng, 60))
        for _ in range(8):
            process = await start_archiver(kafka, topic_prefix)
            await asyncio.sleep(rng.uniform(0.05, 0.6))
            process.kill()
            process.wait()
        await writing
        async with made.archive("last") as archive, made.archiving(archive, *range(12)):
            for name, values in streams.items():
                state = await until(archive, name, closed)
                assert await sealed_content(archive, made.partition_of(name), state) == content_of(values).chunks
        assert len(await made.audit()) == len(streams)


async def write_streams(made: Rig, streams: dict[str, list[bytes]], rng: random.Random, count: int) -> None:
    """Streams of several attempts, all at the same time."""

    async def write(name: str) -> None:
        sent: list[bytes] = []
        streams[name] = sent

        async def put(value: bytes) -> None:
            await made.writer.append(made.topic("chunks"), name.encode(), value)
            sent.append(value)
            await asyncio.sleep(rng.uniform(0, 0.15))

        for attempt in range(1, rng.randint(2, 4)):
            author = Author(name, attempt, f"w{attempt}")
            if attempt == 1:
                await put(author.claim(0))
            else:
                await put(author.claim())
                fold = content_of(sent).fold
                places = [(0, bytes(16)), (fold.checkpoint_seq, fold.checkpoint_hash), (fold.next_seq, fold.hash)]
                await put(author.resume(*rng.choice(places)))
            for _ in range(rng.randint(1, 12)):
                chunks = numbered(rng.choice((1, 20, 256)), start=attempt * 100_000)
                await put(author.run(chunks, b"state" if rng.random() < 0.4 else None))
        await put(author.run(data(b"{}", last=Kind.COMPLETE)))

    await asyncio.gather(*(write(f"load{number}") for number in range(count)))


async def start_archiver(kafka: str, prefix: str) -> "subprocess.Popen[bytes]":
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, support.__file__, kafka, prefix, "0.1"], env=environ, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
    process.stdout.close()
    return process


async def test_what_a_deposed_archiver_writes_does_not_count_and_is_cleaned_up(kafka: str, topic_prefix: str) -> None:
    async with rig(kafka, topic_prefix) as made, made.archive("a") as a, made.archive("b") as b:
        partition = made.partition_of("both")
        values = Author("both").whole(numbered(300), run_size=50)
        await append(made.writer, made.topic("chunks"), "both", values)
        zombie = Sealer(a, await claim(a, partition), 0)
        stream = OpenStream("both", None)
        for offset, value in enumerate(values):
            stream.take(CODEC.decode_run(value), offset, 1, 0.0)

        async with made.archiving(b, partition):
            state = await until(b, "both", closed)
            # The zombie has not heard of it yet: what it writes goes through, and is dead.
            a.index._progress[partition] = zombie._claimed
            with pytest.raises(Deposed):
                await zombie.write([stream])
            async with asyncio.timeout(10):
                while b.index.outranked(partition) or b.index.get("both").epoch == state.epoch - 1:
                    await asyncio.sleep(0.01)
            more = Author("more" if made.partition_of("more") == partition else next(
                f"m{n}" for n in range(1 << 20) if made.partition_of(f"m{n}") == partition
            ))  # fmt: skip
            await append(made.writer, made.topic("chunks"), more.stream_id, more.whole(numbered(3)))
            await until(b, more.stream_id, closed)  # B writes again, and sees that it was not alone
        assert b.index.get("both").segments == state.segments
        assert (await made.audit())["both"].segments == state.segments


async def test_a_zombie_that_wakes_up_changes_nothing(kafka: str, topic_prefix: str) -> None:
    async with rig(kafka, topic_prefix) as made:
        streams: dict[str, list[bytes]] = {}
        zombie = await start_archiver(kafka, topic_prefix)
        try:
            writing = asyncio.create_task(write_streams(made, streams, random.Random(5), 30))
            await asyncio.sleep(0.3)
            zombie.send_signal(signal.SIGSTOP)
            async with made.archive("b") as archive, made.archiving(archive, *range(12)):
                await asyncio.sleep(0.5)
                zombie.send_signal(signal.SIGCONT)
                await writing
                for name in streams:
                    await until(archive, name, closed)
                zombie.kill()
                zombie.wait()
        finally:
            zombie.kill()
            zombie.wait()
        async with made.archive("c") as archive, made.archiving(archive, *range(12)):
            for name, values in streams.items():
                state = await until(archive, name, closed)
                assert await sealed_content(archive, made.partition_of(name), state) == content_of(values).chunks
            async with asyncio.timeout(10):
                while any(archive.index.outranked(partition) for partition in range(12)):
                    await asyncio.sleep(0.01)
        await made.audit()


async def test_two_members_share_the_partitions_and_commit_what_is_sealed(kafka: str, topic_prefix: str) -> None:
    settings = Settings(bootstrap_servers=kafka, topic_prefix=topic_prefix, seal_after_s=0.2)
    async with rig(kafka, topic_prefix) as made:
        values = {f"s{n}": Author(f"s{n}").whole(numbered(10)) for n in range(40)}
        stop = asyncio.Event()
        members = [
            asyncio.create_task(serve(settings.model_copy(update={"instance": name}), ready=lambda _: None, stop=stop))
            for name in ("one", "two")
        ]
        for stream_id, records in values.items():
            await append(made.writer, made.topic("chunks"), stream_id, records)
        async with made.archive("looks") as archive:
            for stream_id in values:
                await until(archive, stream_id, closed)
            owners = set()
            async with asyncio.timeout(60):
                while len(owners) < 2 or any(archive.index.progress(n) is None for n in range(12)):
                    owners = {
                        archive.index.progress(n).archiver.split(".")[0] for n in range(12) if archive.index.progress(n)
                    }
                    await asyncio.sleep(0.1)
        stop.set()
        await asyncio.gather(*members)
        assert owners == {"one", "two"}
        await made.audit()


async def test_topics_that_do_not_match_are_refused(kafka: str, topic_prefix: str) -> None:
    from apexstream.contracts.catalogue import load_catalogue
    from apexstream.core.errors import InvalidConfiguration
    from apexstream.log import admin

    topics: list[Any] = [topic.renamed(topic_prefix) for topic in load_catalogue()]
    from dataclasses import replace

    await admin.apply([replace(t, partitions=3) if t.name.endswith("segments") else t for t in topics], kafka)
    settings = Settings(bootstrap_servers=kafka, topic_prefix=topic_prefix)
    with pytest.raises(InvalidConfiguration, match="differ in their number of partitions"):
        await serve(settings, ready=lambda _: None, stop=asyncio.Event())


async def test_the_group_shows_how_far_the_archive_is(kafka: str, topic_prefix: str) -> None:
    from aiokafka.admin import AIOKafkaAdminClient

    settings = Settings(bootstrap_servers=kafka, topic_prefix=topic_prefix, seal_after_s=0.2)
    async with rig(kafka, topic_prefix) as made, LogReader(kafka, client_id="x"):
        stop = asyncio.Event()
        serving = asyncio.create_task(serve(settings, ready=lambda _: None, stop=stop))
        await append(made.writer, made.topic("chunks"), "s", Author("s").whole(numbered(10)))
        partition = made.partition_of("s")
        end = await made.ends("chunks", partition)
        client = AIOKafkaAdminClient(bootstrap_servers=kafka)
        await client.start()
        try:
            async with asyncio.timeout(30):
                while True:
                    found = await client.list_consumer_group_offsets(f"{topic_prefix}archivers")
                    if {tp.partition: at.offset for tp, at in found.items()}.get(partition) == end:
                        break
                    await asyncio.sleep(0.1)
        finally:
            await client.close()
            stop.set()
            await serving
