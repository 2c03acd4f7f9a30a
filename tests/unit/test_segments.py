"""Segments give back what was put in, or say that they cannot; frames are those of the chunks one by one."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.streams import CODEC, numbered

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.errors import DataCorruption
from apexstream.core.events import Segment, SegmentPage, SegmentRef
from apexstream.gateway.durable.reading import Messages
from apexstream.gateway.encoding import Encoding
from apexstream.gateway.frames import JsonFrames, chunk_message, stream_head, websocket_frame
from apexstream.gateway.replay import encode_sealed
from apexstream.log.segments import (
    SEGMENT_BYTES_MAX,
    SEGMENT_CHUNKS_MAX,
    SealedChunks,
    epoch_of,
    number_of,
    pack_chunks,
    pack_page,
    read_segment_key,
    segment_key,
    split,
    unpack,
)

KINDS = [Kind.DATA, Kind.DATA, Kind.PROGRESS, Kind.COMPLETE, Kind.ERROR, Kind.CANCELLED]
chunks = st.builds(
    Chunk,
    kind=st.sampled_from(KINDS),
    payload=st.binary(max_size=300),
    event_time_us=st.integers(-(1 << 40), 1 << 52),
    content_type=st.sampled_from(["", "", "", "text/plain", "image/png", "sealed:1:"]),
)
json_chunks = st.builds(
    Chunk,
    kind=st.just(Kind.DATA),
    payload=st.one_of(st.just(b""), st.sampled_from([1, 90, 120, 127, 66_000]).map(lambda size: b"1" * size)),
    event_time_us=st.just(0),
)


def ref(value: bytes, count: int, *, number: int = 5, first_seq: int = 1000, index: bool = False) -> SegmentRef:
    return SegmentRef(offset=0, number=number, first_seq=first_seq, count=count, size_bytes=len(value), index=index)


def sealed(content: list[Chunk], count: int | None = None, *, first_seq: int = 1000) -> SealedChunks:
    value = pack_chunks(CODEC, "s", 5, first_seq, content)
    got = unpack(CODEC, value, "s", ref(value, count or len(content), first_seq=first_seq))
    assert isinstance(got, SealedChunks)
    return got


@settings(deadline=None)
@given(st.lists(chunks, min_size=1, max_size=SEGMENT_CHUNKS_MAX))
def test_chunks_come_out_as_they_went_in(content: list[Chunk]) -> None:
    assert sealed(content).chunks() == content


@settings(deadline=None)
@given(st.lists(chunks, min_size=2, max_size=20))
def test_a_segment_that_was_cut_gives_the_chunks_that_count(content: list[Chunk]) -> None:
    assert sealed(content, len(content) - 1).chunks() == content[:-1]


@settings(deadline=None)
@given(
    st.lists(st.one_of(chunks, json_chunks), min_size=1, max_size=30),
    st.sampled_from([0, 5, 95, 980, 9_999, 65_530]),
    st.integers(-1, 31),
    st.integers(0, 31),
    st.booleans(),
    st.sampled_from([JsonFrames(), Messages()]),
)
def test_what_is_written_of_a_segment_is_what_is_written_of_its_chunks(
    content: list[Chunk], first: int, skip: int, stop: int, plain: bool, encoding: Encoding
) -> None:
    if plain:
        content = [Chunk(Kind.DATA, chunk.payload, 0) for chunk in content]
    encoder = encoding.open("s")
    expected = [encoder.chunk(seq, 0, chunk) for seq, chunk in enumerate(content, first)]

    encoded = encode_sealed(encoder, 0, sealed(content, first_seq=first), lambda _, several: several)

    assert sealed(content).plain is all(c.kind is Kind.DATA and not c.content_type for c in content)
    assert (encoded.first_seq, encoded.next_seq) == (first, first + len(content))
    assert encoded.whole == b"".join(expected)
    assert encoded.between(first + skip, first + stop, encoder) == b"".join(expected[max(skip, 0) : stop])


@given(st.lists(st.one_of(chunks, json_chunks), min_size=1, max_size=10), st.integers(0, 10_000))
def test_a_websocket_is_sent_the_messages_of_chunks_a_frame_each(content: list[Chunk], first: int) -> None:
    encoder, head = JsonFrames().open("s"), stream_head("s")

    for seq, chunk in enumerate(content, first):
        assert encoder.chunk(seq, 0, chunk) == websocket_frame(chunk_message(head, seq, chunk))


@settings(deadline=None)
@given(st.lists(st.integers(0, SEGMENT_BYTES_MAX + 10), min_size=1, max_size=12), st.integers(1, 600))
def test_parts_fit_and_lose_nothing(sizes: list[int], many: int) -> None:
    content = [Chunk(Kind.DATA, b"x" * size, 0) for size in sizes] + numbered(many)

    parts = list(split(content))

    assert [chunk for part in parts for chunk in part] == content
    for part in parts:
        assert len(part) <= SEGMENT_CHUNKS_MAX
        assert len(part) == 1 or sum(len(chunk.payload) for chunk in part) <= SEGMENT_BYTES_MAX


def test_a_page_lists_what_it_was_given() -> None:
    below = [ref(b"", 10, number=1, first_seq=0), ref(b"", 20, number=2, first_seq=10)]
    value = pack_page(CODEC, "s", 5, below)

    assert unpack(CODEC, value, "s", ref(value, 30, first_seq=0, index=True)) == SegmentPage(segments=tuple(below))


def test_a_page_with_a_hole_is_refused() -> None:
    value = pack_page(CODEC, "s", 5, [ref(b"", 10, number=1, first_seq=0), ref(b"", 20, number=2, first_seq=11)])

    with pytest.raises(DataCorruption, match="seq 10 should be next, not 11"):
        unpack(CODEC, value, "s", ref(value, 30, first_seq=0, index=True))


@pytest.mark.parametrize(
    "wrong",
    [{"number": 6}, {"first_seq": 999}, {"count": 5}, {"index": True}],
    ids=["number", "first seq", "more chunks than there are", "a page"],
)
def test_another_segment_than_the_state_says_is_refused(wrong: dict[str, int]) -> None:
    value = pack_chunks(CODEC, "s", 5, 1000, numbered(4))

    with pytest.raises(DataCorruption, match="the record says it is"):
        unpack(CODEC, value, "s", msgspec.structs.replace(ref(value, 4), **wrong))
    with pytest.raises(DataCorruption, match="the record says it is"):
        unpack(CODEC, value, "other", ref(value, 4))


@pytest.mark.parametrize("value", [None, b"", b"no segment"])
def test_what_is_no_segment_is_refused(value: bytes | None) -> None:
    with pytest.raises(DataCorruption):
        unpack(CODEC, value, "s", ref(b"", 1))


def test_every_flipped_bit_is_found() -> None:
    content = numbered(40, pad=20)
    value = pack_chunks(CODEC, "s", 5, 1000, content)
    place = ref(value, len(content))

    for bit in range(0, len(value) * 8, 7):
        damaged = bytearray(value)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DataCorruption):
            unpack(CODEC, bytes(damaged), "s", place)


@pytest.mark.parametrize("size", [0, -1, 1 << 40, 10])
def test_a_segment_that_claims_another_size_is_refused_before_memory_is_spent(size: int) -> None:
    value = pack_chunks(CODEC, "s", 5, 1000, numbered(4))
    lying = CODEC.encode(msgspec.structs.replace(CODEC.decode(value, Segment), raw_bytes=size))

    with pytest.raises(DataCorruption):
        unpack(CODEC, lying, "s", ref(lying, 4))


def test_numbers_carry_the_epoch_and_keys_both_ways() -> None:
    number = number_of(12, 34)

    assert epoch_of(number) == 12
    assert number_of(12, 35) > number > number_of(11, 1 << 39)
    assert read_segment_key(segment_key("a.b-c", number)) == ("a.b-c", number)
    with pytest.raises(DataCorruption):
        read_segment_key(b"no-number")
