"""What the archiver makes of a stream: at every state, segments and fold are those of the log up to its offset."""

import random
from collections.abc import Sequence

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.streams import CODEC, NOW_US, Author, Content, content_of, data, numbered

from apexstream.archiver.refs import cut_at
from apexstream.archiver.stream import OpenStream, Retention, retention_of
from apexstream.core.chunk import Chunk, Kind
from apexstream.core.events import SegmentRef, StreamState, StreamStatus
from apexstream.core.fold import Verdict
from apexstream.log.index import fold_of
from apexstream.log.segments import SEGMENT_CHUNKS_MAX, split

TTL_S = 60.0


class Store:
    """Segments and the newest state of one stream, as the sealer would keep them in the log."""

    def __init__(self) -> None:
        self.segments: dict[int, list[Chunk]] = {}
        self.state: StreamState | None = None

    def write(self, stream: OpenStream) -> None:
        snapshot = stream.snapshot
        assert snapshot is not None
        segments = list(stream.segments if snapshot.cut is None else cut_at(stream.segments, snapshot.cut).kept)
        for part in snapshot.parts:
            seq = part.first_seq
            for chunks in split(part.chunks):
                number = len(self.segments)
                self.segments[number] = list(chunks)
                segments.append(
                    SegmentRef(offset=number, number=number, first_seq=seq, count=len(chunks), size_bytes=1)
                )
                seq += len(chunks)
        self.state = snapshot.state("s", 1, tuple(segments), TTL_S)
        stream.written(tuple(segments))

    def content(self) -> list[Chunk]:
        assert self.state is not None
        chunks: list[Chunk] = []
        for ref in self.state.segments:
            assert ref.first_seq == len(chunks)
            chunks += self.segments[ref.number][: ref.count]
        return chunks


def take_all(stream: OpenStream, values: Sequence[bytes], first_offset: int = 0, now: float = 0.0) -> None:
    for offset, value in enumerate(values, first_offset):
        stream.take(CODEC.decode_run(value), offset, NOW_US + offset, now)


def written_log(rng: random.Random, length: int) -> list[bytes]:
    """A log of attempts that take over from each other, with zombies that write on and claims that lose."""
    values: list[bytes] = []
    authors: list[Author] = []
    content = Content()

    def put(value: bytes) -> None:
        values.append(value)
        content.take(value)

    for _ in range(length):
        move = rng.random()
        if not authors or move < 0.08:
            author = Author("s", len(authors) + 1, rng.choice("ab"))
            author.seq, author.hash = -1, b""
            authors.append(author)
            put(author.claim())
        elif authors[-1].seq < 0:
            fold = content.fold
            place = rng.choice(
                [(0, bytes(16)), (fold.checkpoint_seq, fold.checkpoint_hash), (fold.next_seq, fold.hash)]
            )
            put(authors[-1].resume(*place))
        elif move < 0.15 and len(authors) > 1 and authors[0].seq >= 0:
            put(authors[0].run(data(b"zombie")))
        elif move < 0.17:
            put(Author("s", max(len(authors) - 1, 0), "c").claim(0))
        else:
            chunks = numbered(rng.choice((1, 1, 3, 90, 256)), start=len(values) * 1000)
            put(authors[-1].run(chunks, b"state" if rng.random() < 0.3 else None))
    if authors and authors[-1].seq >= 0 and rng.random() < 0.5:
        put(authors[-1].run(data(b"{}", last=Kind.COMPLETE)))
        put(Author("s", len(authors) + 5, "late").claim(0))
    return values


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 1 << 30))
def test_every_state_is_that_of_the_log_however_often_the_archiver_is_killed(seed: int) -> None:
    rng = random.Random(seed)
    values = written_log(rng, rng.randint(1, 40))
    store, stream, at = Store(), OpenStream("s", None), 0
    while at < len(values):
        if stream is not None:
            take_all(stream, [values[at]], at)
        at += 1
        if stream is not None and rng.random() < 0.2:
            stream.seal()
        if stream is not None and stream.snapshot is not None and rng.random() < 0.7:
            store.write(stream)
            assert store.state is not None
            expected = content_of(values[: store.state.offset])
            assert store.content() == expected.chunks
            if expected.fold.closed:
                expected.fold.checkpoint = None
            assert fold_of(store.state) == expected.fold
        if rng.random() < 0.1:  # killed: only what was written is left, and reading begins somewhere before what is not
            resumed_at = 0 if store.state is None else store.state.offset
            at = rng.randint(0, min(at, resumed_at))
            ended = store.state is not None and store.state.status is not StreamStatus.OPEN
            stream = None if ended else OpenStream("s", store.state)
    if stream is not None:
        stream.seal()
        store.write(stream)
    assert store.content() == content_of(values).chunks


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1 << 30))
def test_a_viewer_who_comes_back_anywhere_is_told_what_no_longer_counts(seed: int) -> None:
    rng = random.Random(seed)
    values = written_log(rng, 30)
    seen_before: list[list[Chunk]] = []
    content, stream = Content(), OpenStream("s", None)
    for offset, value in enumerate(values):
        content.take(value)
        seen_before.append(list(content.chunks))
        take_all(stream, [value], offset)
    stream.seal()
    state = stream.snapshot.state("s", 1, (), TTL_S)

    for seen in seen_before:  # every content that a viewer may ever have been shown, cut off anywhere
        next_seq = rng.randint(0, len(seen))
        kept = state.rewound_to if state.rewound_to < next_seq <= state.rewound_from else next_seq
        assert seen[:kept] == content.chunks[:kept]


def test_a_segment_is_full_at_so_many_chunks_and_what_comes_next_waits() -> None:
    author, stream = Author("s"), OpenStream("s", None)
    runs = [author.run(numbered(1, at)) for at in range(SEGMENT_CHUNKS_MAX + 44)]

    take_all(stream, [author.claim(0), *runs])

    assert stream.snapshot is not None
    assert [len(part.chunks) for part in stream.snapshot.parts] == [SEGMENT_CHUNKS_MAX]
    assert stream.snapshot.offset == 1 + SEGMENT_CHUNKS_MAX
    assert stream.since == (0, 0.0)
    stream.written(())
    assert stream.since == (1 + SEGMENT_CHUNKS_MAX, 0.0)


def test_large_chunks_fill_a_segment_by_bytes_and_the_largest_is_alone_in_its_own() -> None:
    chunks = data(*(b"x" * size for size in (200_000, 50_000, 500_000, 10)))

    assert [[len(chunk.payload) for chunk in part] for part in split(chunks)] == [[200_000, 50_000], [500_000], [10]]


def test_the_end_seals_at_once_and_drops_the_checkpoint() -> None:
    author, stream = Author("s"), OpenStream("s", None)

    take_all(stream, [author.claim(0), author.run(numbered(2), b"state"), author.run(data(b"{}", last=Kind.COMPLETE))])

    state = stream.snapshot.state("s", 7, (), TTL_S)
    assert (state.status, state.next_seq, state.data_count, state.checkpoint) == (StreamStatus.COMPLETE, 3, 2, None)
    assert (state.created_us, state.ended_us) == (NOW_US, NOW_US + 2)
    assert state.expires_us == state.ended_us + 60_000_000


def test_what_the_state_has_is_not_taken_again() -> None:
    author, stream = Author("s"), OpenStream("s", None)
    values = [author.claim(0), author.run(numbered(3))]
    take_all(stream, values)
    stream.seal()
    again = OpenStream("s", stream.snapshot.state("s", 1, (), TTL_S))

    outcomes = [again.take(CODEC.decode_run(value), offset, NOW_US, 0.0) for offset, value in enumerate(values)]

    assert outcomes == [None, None]
    assert again.since is None


def test_zombies_and_violations_leave_nothing_to_be_written() -> None:
    author, stream = Author("s", 2), OpenStream("s", None)
    take_all(stream, [author.claim(0)])
    stream.seal()
    stream.written(())

    zombie = stream.take(CODEC.decode_run(Author("s", 1).claim(0)), 1, NOW_US, 5.0)
    early = stream.take(CODEC.decode_run(Author("s", 9).run(numbered(1))), 2, NOW_US, 5.0)

    assert [zombie.verdict, early.verdict] == [Verdict.DEAD, Verdict.VIOLATION]
    assert stream.since is None


def test_retention_is_what_the_newest_claim_that_says_anything_asks_for() -> None:
    ask = msgspec.json.encode

    assert retention_of([(1, ask({"ttl_s": 5.0})), (2, ask({"key": "a2V5"}))]) == Retention(ttl_s=5.0)
    assert retention_of([(1, ask({"ttl_s": 5.0})), (2, ask({"keep": True, "max_attempts": 3}))]) == Retention(keep=True)
    assert retention_of([(1, b"not JSON")]) == Retention()
    assert Retention(ttl_s=5.0).expires_us(1_000_000, TTL_S) == 6_000_000
    assert Retention(ttl_s=5.0, keep=True).expires_us(1_000_000, TTL_S) == 0
    assert Retention().expires_us(1_000_000, 0.0) == 0
    assert Retention(ttl_s=1e300).expires_us(0, 0.0) < 1 << 62
