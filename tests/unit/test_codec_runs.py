"""The hand-written codec of runs does what fastavro does, byte for byte and value for value."""

import io
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.contracts.codec import RUN_SUBJECT, Codec
from apexstream.contracts.run_codec import read_run
from apexstream.contracts.schemas import load_schemas
from apexstream.core.chunk import FROM_UNKNOWN, GENESIS, HASH_BYTES, RUN_CHUNKS_MAX, Chunk, ChunkRun, Kind, chain
from apexstream.core.errors import InvalidChunk
from apexstream.core.fold import StreamFold, Verdict

CODEC = Codec()
PARSED: Any = fastavro.parse_schema(dict(load_schemas().newest(RUN_SUBJECT).definition))
FRAME_BYTES = 10
NOW_US = 1_795_000_000_000_000
EDGES_US = [
    0,
    1,
    -1,
    -NOW_US,
    1 << 47,
    1 << 48,
    (1 << 48) - 1,
    1 << 55,
    (1 << 55) - 1,
    (1 << 63) - 1,
    -(1 << 63),
    NOW_US >> 20 << 20,
]

texts = st.text(st.characters(codec="utf-8"), max_size=30)
times = st.one_of(
    st.integers(0, 3_000_000).map(lambda later_us: NOW_US + later_us),  # as runs have them: within seconds
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.sampled_from(EDGES_US),
)
# Where the number of bytes that a length takes changes, and what lies between.
sizes = st.one_of(st.integers(0, 300), st.sampled_from([63, 64, 127, 128, 8191, 8192, 16383, 16384]))
payloads = st.builds(lambda size, filler: filler * size, sizes, st.binary(min_size=1, max_size=1))
content_types = st.one_of(st.just(""), st.just("text/plain"), texts, st.just("x" * 200))
kinds = st.sampled_from([kind for kind in Kind if not kind.fences])
chunks = st.builds(Chunk, kinds, payloads, times, content_types)
hashes = st.binary(min_size=HASH_BYTES, max_size=HASH_BYTES)
runs = st.builds(
    ChunkRun,
    texts,
    st.integers(0, (1 << 63) - 1),
    texts,
    st.integers(FROM_UNKNOWN, (1 << 63) - 1),
    st.lists(chunks, min_size=1, max_size=12).map(tuple),
    st.one_of(st.none(), st.binary(max_size=300)),
)


def fields(value: ChunkRun | Chunk) -> dict[str, Any]:
    return {name: getattr(value, name) for name in type(value).__annotations__}


def changed(run: ChunkRun, **parts: Any) -> ChunkRun:
    return ChunkRun(**fields(run) | parts)


def as_fastavro_writes(run: ChunkRun) -> bytes:
    """The record without its frame."""
    record = fields(run)
    record["chunks"] = [fields(chunk) | {"kind": chunk.kind.name.lower()} for chunk in run.chunks]
    sink = io.BytesIO()
    fastavro.schemaless_writer(sink, PARSED, record)
    return sink.getvalue()


def as_fastavro_reads(body: bytes) -> ChunkRun:
    record: Any = fastavro.schemaless_reader(io.BytesIO(body), PARSED, None)
    listed = (chunk | {"kind": Kind[chunk["kind"].upper()]} for chunk in record["chunks"])
    record["chunks"] = tuple(Chunk(**chunk) for chunk in listed)
    return ChunkRun(**record, body=body[:-HASH_BYTES])


@settings(deadline=None)
@given(runs, hashes)
def test_a_run_is_encoded_to_the_bytes_that_fastavro_writes(run: ChunkRun, previous_hash: bytes) -> None:
    value, run_hash = CODEC.encode_run(run, previous_hash)

    assert value[FRAME_BYTES:] == as_fastavro_writes(changed(run, hash=run_hash))


alike = st.tuples(
    st.sampled_from([(0, 63), (64, 8191), (60, 70), (8185, 8195)]).flatmap(
        lambda bounds: st.lists(st.integers(*bounds), min_size=8, max_size=40)
    ),
    st.integers(0, 1 << 20),
    st.integers(0, 5_000),
)


@settings(deadline=None)
@given(alike, hashes)
def test_chunks_that_are_alike_are_encoded_together_to_the_bytes_that_fastavro_writes(
    alike: tuple[list[int], int, int], previous_hash: bytes
) -> None:
    lengths, start_us, step_us = alike
    base_us = (NOW_US >> 20 << 20) + start_us
    data = tuple(Chunk(Kind.DATA, b"x" * size, base_us + at * step_us) for at, size in enumerate(lengths))
    run = ChunkRun("s", 1, "w", 0, data)

    value, run_hash = CODEC.encode_run(run, previous_hash)

    assert value[FRAME_BYTES:] == as_fastavro_writes(changed(run, hash=run_hash))


@settings(deadline=None)
@given(runs, hashes)
def test_a_run_is_decoded_to_the_value_that_fastavro_reads_without_help(run: ChunkRun, previous_hash: bytes) -> None:
    value, run_hash = CODEC.encode_run(run, previous_hash)

    # Not through the codec, which would ask the strict reader about bytes that this one does not understand.
    read = read_run(value, FRAME_BYTES)

    assert read == as_fastavro_reads(value[FRAME_BYTES:]) == CODEC.decode_run(value)
    assert read == changed(run, hash=run_hash, body=value[FRAME_BYTES:-HASH_BYTES])


@pytest.mark.parametrize("time_us", EDGES_US)
@pytest.mark.parametrize("size", [0, 63, 64, 8191, 8192, 1 << 20])
def test_times_and_sizes_at_the_edges_of_the_short_way_are_written_and_read_alike(time_us: int, size: int) -> None:
    run = ChunkRun("s", 1, "w", 0, (Chunk(Kind.DATA, b"x" * size, time_us),) * 2)

    value, run_hash = CODEC.encode_run(run, GENESIS)

    assert value[FRAME_BYTES:] == as_fastavro_writes(changed(run, hash=run_hash))
    assert read_run(value, FRAME_BYTES) == as_fastavro_reads(value[FRAME_BYTES:])


@settings(deadline=None)
@given(runs, hashes)
def test_the_hash_of_a_run_covers_its_body_and_the_hash_before_it(run: ChunkRun, previous_hash: bytes) -> None:
    value, run_hash = CODEC.encode_run(run, previous_hash)

    assert run_hash == chain(previous_hash, CODEC.decode_run(value).body) == value[-HASH_BYTES:]


@settings(deadline=None)
@given(st.sampled_from([Kind.CLAIM, Kind.RESUME]), hashes, hashes, st.integers(FROM_UNKNOWN, 1 << 40))
def test_a_fence_keeps_the_hash_that_it_has(kind: Kind, own: bytes, previous_hash: bytes, first_seq: int) -> None:
    fence = ChunkRun("s", 2, "w", first_seq, (Chunk(kind, b"", NOW_US),), None, own)

    value, run_hash = CODEC.encode_run(fence, previous_hash)

    assert run_hash == own
    assert changed(CODEC.decode_run(value), body=b"") == fence


def test_a_fence_that_shares_its_record_is_chained_like_any_run() -> None:
    listed = (Chunk(Kind.CLAIM, b"", NOW_US), Chunk(Kind.DATA, b"", NOW_US))

    value, run_hash = CODEC.encode_run(ChunkRun("s", 1, "w", 0, listed), GENESIS)

    assert run_hash == chain(GENESIS, value[FRAME_BYTES:-HASH_BYTES])


def test_the_encoder_of_an_attempt_takes_the_hash_of_a_fence_in_place_of_the_one_before() -> None:
    fence = (Chunk(Kind.RESUME, b"", NOW_US),)

    value, run_hash = CODEC.run_encoder("s", 2, "w").encode(7, fence, None, b"h" * HASH_BYTES)

    assert run_hash == b"h" * HASH_BYTES
    assert (value, run_hash) == CODEC.encode_run(ChunkRun("s", 2, "w", 7, fence, None, run_hash), GENESIS)


@settings(deadline=None)
@given(runs, hashes)
def test_the_encoder_of_an_attempt_writes_what_the_codec_writes(run: ChunkRun, previous_hash: bytes) -> None:
    encoder = CODEC.run_encoder(run.stream_id, run.attempt, run.writer)

    assert encoder.encode(run.first_seq, run.chunks, run.checkpoint, previous_hash) == CODEC.encode_run(
        run, previous_hash
    )


@pytest.mark.parametrize("count", [1, 2, 255, RUN_CHUNKS_MAX])
def test_runs_of_all_lengths_survive_the_way_there_and_back(count: int) -> None:
    listed = tuple(Chunk(Kind.DATA, b"x" * (at * 7 % 300), NOW_US + at * 100_003) for at in range(count))
    run = ChunkRun("stream", 3, "writer", 12, listed, b"state")

    value, run_hash = CODEC.encode_run(run, GENESIS)

    assert read_run(value, FRAME_BYTES) == changed(run, hash=run_hash, body=value[FRAME_BYTES:-HASH_BYTES])


def test_encoded_runs_fold_to_their_stream() -> None:
    encoder, fold = CODEC.run_encoder("s", 1, "w"), StreamFold()
    claim, last = encoder.encode(0, [Chunk(Kind.CLAIM, b"", NOW_US)], None, GENESIS)
    first, last = encoder.encode(0, [Chunk(Kind.DATA, b"1", NOW_US), Chunk(Kind.DATA, b"2", NOW_US)], b"ck", last)
    end, _ = encoder.encode(2, [Chunk(Kind.COMPLETE, b"", NOW_US)], None, last)

    verdicts = [fold.apply(CODEC.decode_run(value)).verdict for value in (claim, first, end)]

    assert verdicts == [Verdict.RESUMED, Verdict.ACCEPTED, Verdict.ACCEPTED]


A_CHUNK = Chunk(Kind.DATA, b"{}", NOW_US)


@pytest.mark.parametrize(
    "run",
    [
        ChunkRun("s", 1, "w", 0, ()),
        ChunkRun("s", 1, "w", 0, (A_CHUNK,) * (RUN_CHUNKS_MAX + 1)),
        ChunkRun("s", 1, "w", -2, (A_CHUNK,)),
        ChunkRun("s", 1, "w", 1 << 63, (A_CHUNK,)),
        ChunkRun("s", -1, "w", 0, (A_CHUNK,)),
        ChunkRun("s", 1 << 63, "w", 0, (A_CHUNK,)),
        ChunkRun("lone \ud800", 1, "w", 0, (A_CHUNK,)),
        ChunkRun("s", 1, "w", 0, (Chunk(Kind.DATA, b"", 1 << 63),)),
        ChunkRun("s", 1, "w", 0, (Chunk(Kind.DATA, b"", NOW_US, "lone \ud800"),)),
        ChunkRun("s", 1, "w", 0, (Chunk(Kind.CLAIM, b"", NOW_US),), None, b"short"),
    ],
    ids=[
        "no chunks",
        "257 chunks",
        "first seq -2",
        "first seq of 65 bits",
        "attempt -1",
        "attempt of 65 bits",
        "lone surrogate in an id",
        "time of 65 bits",
        "lone surrogate in a content type",
        "short hash",
    ],
)
def test_what_no_reader_would_accept_is_refused_before_it_is_written(run: ChunkRun) -> None:
    with pytest.raises(InvalidChunk):
        CODEC.encode_run(run, GENESIS)
