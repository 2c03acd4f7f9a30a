"""Rows B1 to B18 of the bad-input matrix: every hostile value gives one error with the right reason, and nothing else.

B6, B8, B9, B15 and B17 are about schemas and not about values: ``test_schemas.py`` has them.
"""

import time
import tracemalloc
from typing import Any
from uuid import UUID

import pytest

from apexstream.contracts.codec import EVENT_VALUE_BYTES_MAX, STREAM_VALUE_BYTES_MAX, Codec, _Avro
from apexstream.contracts.diagnose import read_record
from apexstream.contracts.fingerprint import fingerprint
from apexstream.contracts.run_codec import write_long, write_text
from apexstream.contracts.schemas import Schema, load_schemas
from apexstream.contracts.shape import Primitive, Record, shape_of
from apexstream.core.chunk import GENESIS, Chunk, ChunkRun, Kind
from apexstream.core.errors import ChunkDecodeError
from apexstream.core.events import (
    ActionInfo,
    ControlCommand,
    ControlVerb,
    RunnerState,
    TaskChange,
    TaskEvent,
    TaskSubmitted,
)

CODEC = Codec(registry_ids={schema.name: 100 + at for at, schema in enumerate(load_schemas().all)})
HUGE = [1 << 62, 1 << 30]
NOW_US = 1_795_000_000_000_000
HASH = bytes(range(16))


def frame(subject: str) -> bytes:
    """That of version 1: it stays readable, so that what is built here stays valid."""
    return b"\xc3\x01" + load_schemas().versions(subject)[0].fingerprint


def run_value(
    *,
    attempt: bytes = b"\x02",
    writer: bytes = b"\x02w",
    first_seq: bytes = b"\x00",
    chunks: bytes | None = None,
    checkpoint: bytes = b"\x00",
    tail: bytes = HASH,
) -> bytes:
    """A run, valid but for the parts that are given; ``chunks`` is everything from the count to the closing zero."""
    listed = b"\x02" + chunk() + b"\x00" if chunks is None else chunks
    return frame("chunk-run") + b"\x02s" + attempt + writer + first_seq + listed + checkpoint + tail


def chunk(
    kind: bytes = b"\x00",
    at: bytes = write_long(NOW_US),
    content_type: bytes = b"\x00",
    payload: bytes = b"\x04{}",
) -> bytes:
    return kind + at + content_type + payload


def with_chunk(**parts: bytes) -> bytes:
    return run_value(chunks=b"\x02" + chunk(**parts) + b"\x00")


def task_value(
    *, task_id: bytes = b"\x02t", params: bytes = b"\x04{}", tier: bytes = b"\x06low", rest: bytes = b"\x02"
) -> bytes:
    return frame("task-submitted") + task_id + b"\x02p\x02a" + params + tier + rest


def command_value(verb: bytes) -> bytes:
    return frame("control-command") + b"\x02t" + verb + b"\x02\x00"


def runner_value(*, partitions: bytes = b"\x00", actions: bytes = b"\x00") -> bytes:
    return frame("runner-state") + b"\x02r\x02\x02" + partitions + actions + b"\x00"


def reason_of(value: bytes | None, kind: type[Any] = ChunkRun) -> str:
    with pytest.raises(ChunkDecodeError) as caught:
        CODEC.decode_run(value) if kind is ChunkRun else CODEC.decode(value, kind)
    return caught.value.reason


def test_the_builders_of_this_file_build_valid_values() -> None:
    run = CODEC.decode_run(run_value())

    assert run == ChunkRun("s", 1, "w", 0, (Chunk(Kind.DATA, b"{}", NOW_US),), None, HASH, run_value()[10:-16])
    assert CODEC.decode(task_value(), TaskSubmitted).tier == "low"
    assert CODEC.decode(command_value(b"\x02"), ControlCommand).verb is ControlVerb.CANCEL
    assert CODEC.decode(runner_value(), RunnerState).capacity == 1


@pytest.mark.parametrize("size", HUGE)
def test_b1_a_length_beyond_the_data_is_truncated_and_nothing_is_allocated(size: int) -> None:
    values: list[tuple[bytes, type[Any]]] = [
        (with_chunk(payload=write_long(size) + b"12345"), ChunkRun),
        (with_chunk(content_type=write_long(size) + b"12345"), ChunkRun),
        (run_value(checkpoint=b"\x02" + write_long(size) + b"12345"), ChunkRun),
        (run_value(writer=write_long(size) + b"12345"), ChunkRun),
        (task_value(params=write_long(size) + b"12345"), TaskSubmitted),
    ]
    tracemalloc.start()
    reasons = [reason_of(value, kind) for value, kind in values]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert reasons == ["truncated"] * len(values)
    assert peak_bytes < 1 << 20


@pytest.mark.parametrize("size", [-1, -100, -(1 << 63)])
def test_b2_a_negative_length_is_a_bad_length(size: int) -> None:
    assert reason_of(with_chunk(payload=write_long(size) + b"{}")) == "bad_length"
    assert reason_of(with_chunk(content_type=write_long(size) + b"{}")) == "bad_length"
    assert reason_of(run_value(checkpoint=b"\x02" + write_long(size))) == "bad_length"
    assert reason_of(run_value(writer=write_long(size))) == "bad_length"
    assert reason_of(task_value(params=write_long(size)), TaskSubmitted) == "bad_length"


@pytest.mark.parametrize("size", [-1, -5, -100, -10_000])
def test_b2_a_negative_length_is_not_taken_for_the_number_without_its_sign(size: int) -> None:
    encoded = write_long(size) + b"x" * (-size - 1)  # what a decoder would find that only halves the number

    assert reason_of(with_chunk(payload=encoded)) == "bad_length"
    assert reason_of(with_chunk(content_type=encoded)) == "bad_length"
    assert reason_of(run_value(writer=encoded)) == "bad_length"
    assert reason_of(run_value(checkpoint=b"\x02" + encoded)) == "bad_length"


def test_b2_a_negative_length_cannot_make_the_hash_part_of_the_record() -> None:
    assert reason_of(run_value(checkpoint=b"\x02" + write_long(-1), tail=HASH[1:])) == "bad_length"
    assert reason_of(run_value(checkpoint=b"\x02" + write_long(-2), tail=HASH[2:])) == "bad_length"


def test_b2_a_negative_length_cannot_lead_back_to_bytes_that_were_read_before() -> None:
    # The first chunk's payload "ends" inside the stream's id, where a second chunk waits that reaches to the true end.
    waiting = b"\x00\x02\x00\xc2\xa8\x01"  # data, time 1, JSON, payload of 10,785 bytes; valid UTF-8 as well
    stream_id = waiting + b"s" * 9_000
    start = frame("chunk-run") + write_long(len(stream_id))
    middle = b"\x02\x02w\x00\x04" + b"\x00" + write_long(NOW_US) + b"\x00"
    back = len(stream_id) + len(middle) + len(write_long(-9_000))
    filler = b"f" * (len(waiting) + 10_785 - back)
    value = start + stream_id + middle + write_long(-back) + filler + b"\x00" + b"\x00" + HASH

    assert reason_of(value) == "bad_length"


@pytest.mark.parametrize(
    "number",
    [b"\xff" * 40, b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01", b"\x80" * 10 + b"\x00"],
    ids=["40 times ff", "65 bits", "71 bits", "11 bytes"],
)
def test_b3_a_number_of_more_than_64_bits_is_a_bad_varint(number: bytes) -> None:
    assert reason_of(run_value(attempt=number)) == "bad_varint"
    assert reason_of(with_chunk(at=number)) == "bad_varint"
    assert reason_of(with_chunk(payload=number)) == "bad_varint"
    assert reason_of(task_value(rest=number), TaskSubmitted) == "bad_varint"


def test_b3_a_number_that_the_data_cuts_off_is_a_bad_varint() -> None:
    assert reason_of(frame("chunk-run") + b"\x02s\xff\xff") == "bad_varint"
    assert reason_of(task_value(rest=b"\xff\xff"), TaskSubmitted) == "bad_varint"


def test_b3_a_megabyte_of_ff_is_refused_at_once() -> None:
    started = time.perf_counter()

    assert reason_of(frame("chunk-run") + b"\x02s" + b"\xff" * STREAM_VALUE_BYTES_MAX)[:3] == "too"
    assert reason_of(frame("chunk-run") + b"\x02s" + b"\xff" * (STREAM_VALUE_BYTES_MAX - 100)) == "bad_varint"

    assert time.perf_counter() - started < 1


@pytest.mark.parametrize("value", [b"", None], ids=["no bytes", "tombstone"])
def test_b4_no_bytes_are_empty(value: bytes | None) -> None:
    assert reason_of(value) == "empty"
    assert reason_of(value, TaskSubmitted) == "empty"


def test_b4_a_frame_without_a_record_is_truncated() -> None:
    assert reason_of(frame("chunk-run")) == "truncated"
    assert reason_of(frame("task-submitted"), TaskSubmitted) == "truncated"


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xed\xa0\x80", b"\xc3"], ids=["no UTF-8", "lone surrogate", "cut"])
def test_b5_text_that_is_not_utf8_is_bad_utf8(text: bytes) -> None:
    encoded = write_long(len(text)) + text

    assert reason_of(run_value(writer=encoded)) == "bad_utf8"
    assert reason_of(with_chunk(content_type=encoded)) == "bad_utf8"
    assert reason_of(task_value(task_id=encoded), TaskSubmitted) == "bad_utf8"
    assert reason_of(task_value(tier=encoded), TaskSubmitted) == "bad_utf8"


@pytest.mark.parametrize("count", [10**9, -(10**9), (1 << 63) - 1, -(1 << 63)])
def test_b7_an_array_count_without_data_is_truncated(count: int) -> None:
    block = write_long(count) + (b"\x00" if count < 0 else b"")

    assert reason_of(run_value(chunks=block)) == "truncated"
    assert reason_of(runner_value(partitions=block), RunnerState) == "truncated"
    assert reason_of(runner_value(actions=block), RunnerState) == "truncated"


def test_b7_a_count_that_the_rest_could_just_not_hold_is_truncated_before_it_is_read() -> None:
    rest = runner_value(partitions=write_long(64) + b"\x00" * 61)  # with the two empty arrays, 63 bytes for 64 items

    with pytest.raises(ChunkDecodeError, match="64 items announced and 63 bytes left") as caught:
        CODEC.decode(rest, RunnerState)

    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("size", [-1, 1, 1000])
def test_b7_a_block_of_another_size_than_it_says_is_a_bad_length(size: int) -> None:
    assert reason_of(run_value(chunks=b"\x01" + write_long(size) + chunk() + b"\x00")) == "bad_length"


@pytest.mark.parametrize("branch", [7, 2, -3, -1])
def test_b10_b11_a_union_branch_that_does_not_exist_is_a_bad_union(branch: int) -> None:
    assert reason_of(run_value(checkpoint=write_long(branch))) == "bad_union"
    assert reason_of(run_value(checkpoint=write_long(branch) + b"\x00")) == "bad_union"


@pytest.mark.parametrize("symbol", [99, 7, -1, -2, 1 << 40])
def test_b12_an_enum_symbol_that_does_not_exist_is_a_bad_enum(symbol: int) -> None:
    assert reason_of(with_chunk(kind=write_long(symbol))) == "bad_enum"
    assert reason_of(with_chunk(kind=write_long(symbol), at=b"\x02")) == "bad_enum"
    assert reason_of(command_value(write_long(symbol)), ControlCommand) == "bad_enum"


def test_b12_a_tier_that_does_not_exist_is_a_bad_enum() -> None:
    assert reason_of(task_value(tier=write_text("No Tier")), TaskSubmitted) == "bad_enum"


def action(streams: bytes) -> bytes:
    return b"\x02p\x02a\x00" + streams + b"\x04{}"


def test_b13_a_boolean_is_0_or_1() -> None:
    state = CODEC.decode(runner_value(actions=b"\x02" + action(b"\x01") + b"\x00"), RunnerState)

    assert state.actions == (ActionInfo(plugin="p", action="a", summary="", streams=True, params_schema=b"{}"),)
    assert reason_of(runner_value(actions=b"\x02" + action(b"\x07") + b"\x00"), RunnerState) == "out_of_range"


def record_codec(*types: Any) -> _Avro:
    """A codec for kinds of values that no message has yet."""
    fields = [{"name": f"f{at}", "type": kind} for at, kind in enumerate(types)]
    definition = {"type": "record", "name": "R", "fields": fields}
    shape = shape_of(definition)
    assert isinstance(shape, Record)
    schema = Schema("r", 1, definition, shape, fingerprint(definition))
    return _Avro(schema, schema)


@pytest.mark.parametrize("number", [1 << 31, -(1 << 31) - 1, (1 << 63) - 1])
def test_b13_an_int_has_32_bits(number: int) -> None:
    shape = Record("R", (("f0", Primitive("int", "", 1)),), 1)

    with pytest.raises(ChunkDecodeError) as caught:
        read_record(shape, write_long(number))

    assert caught.value.reason == "out_of_range"
    assert read_record(shape, write_long((1 << 31) - 1)) == {"f0": (1 << 31) - 1}


@pytest.mark.parametrize(
    "value",
    [run_value(attempt=b"\x01"), run_value(first_seq=b"\x03"), run_value(chunks=b"\x82\x04" + chunk() * 257 + b"\x00")],
    ids=["attempt -1", "first seq -2", "257 chunks"],
)
def test_b13_values_beyond_what_a_run_can_mean_are_out_of_range(value: bytes) -> None:
    assert reason_of(value) == "out_of_range"


def test_b13_a_negative_attempt_of_an_event_is_out_of_range() -> None:
    event = TaskEvent(task_id="t", change=TaskChange.STARTED, at_us=1, attempt=-1, by="r")

    assert reason_of(CODEC_OF_FINGERPRINTS.encode(event), TaskEvent) == "out_of_range"


def test_b14_bytes_after_the_record_are_trailing_bytes() -> None:
    assert reason_of(run_value(tail=HASH + b"\x00")) == "trailing_bytes"
    assert reason_of(task_value() + b"\x00", TaskSubmitted) == "trailing_bytes"
    assert reason_of(task_value() + task_value(), TaskSubmitted) == "trailing_bytes"


DATE = {"type": "int", "logicalType": "date"}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
A_UUID = {"type": "string", "logicalType": "uuid"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (DATE, write_long((1 << 31) - 1)),
        (DATE, write_long(-(1 << 31))),
        (MILLIS, write_long((1 << 63) - 1)),
        (MILLIS, write_long(-(1 << 63))),
        (MICROS, write_long((1 << 63) - 1)),
        (A_UUID, write_text("not-a-uuid")),
        (A_UUID, b"\x00"),
    ],
    ids=["date", "negative date", "millis", "negative millis", "micros", "uuid", "empty uuid"],
)
def test_b16_values_that_their_logical_type_cannot_hold_are_bad_logical(kind: Any, body: bytes) -> None:
    with pytest.raises(ChunkDecodeError) as caught:
        record_codec(kind).read(body)

    assert caught.value.reason == "bad_logical"


def test_b16_values_that_their_logical_type_can_hold_are_read_alike_by_both_readers() -> None:
    codec = record_codec(DATE, MILLIS, MICROS, A_UUID)
    text = "6f1c1f9e-7a53-4e0e-8b4e-0a4b3f0d2c11"
    body = write_long(20_000) + write_long(1_795_000_000_123) + write_long(-1) + write_text(text)

    assert codec.read(body) == codec.judge(body)
    assert codec.judge(body)["f3"] == UUID(text)


CODEC_OF_FINGERPRINTS = Codec()


@pytest.mark.parametrize(
    "value",
    [
        b"\xc3",
        b"\xc3\x01",
        b"\xc3\x01" + bytes(8),
        b"\xc3\x02" + bytes(8),
        b"\x00",
        b"\x00\x00\x00\x00\x07{}",
        b"\x00\xff\xff\xff\xff",
        b"{}",
        b"Obj\x01",
        frame("task-event") + b"\x00",
        frame("chunk-run")[::-1],
    ],
    ids=lambda value: value[:6].hex(),
)
def test_b18_another_start_than_that_of_a_known_schema_is_an_unknown_schema(value: bytes) -> None:
    assert reason_of(value) == "unknown_schema"
    assert reason_of(value, TaskSubmitted) == "unknown_schema"


def test_b18_a_registered_id_is_unknown_to_a_codec_without_a_registry() -> None:
    value, _ = CODEC.encode_run(CODEC.decode_run(run_value()), GENESIS)

    with pytest.raises(ChunkDecodeError) as caught:
        CODEC_OF_FINGERPRINTS.decode_run(value)

    assert caught.value.reason == "unknown_schema"


def test_values_larger_than_the_limits_are_too_large() -> None:
    assert (
        reason_of(run_value(checkpoint=b"\x02" + write_long(STREAM_VALUE_BYTES_MAX) + bytes(STREAM_VALUE_BYTES_MAX)))
        == "too_large"
    )
    assert reason_of(task_value(rest=bytes(EVENT_VALUE_BYTES_MAX)), TaskSubmitted) == "too_large"


def test_an_error_says_where_in_the_record_the_fault_is() -> None:
    with pytest.raises(ChunkDecodeError) as caught:
        CODEC.decode_run(run_value(chunks=b"\x04" + chunk() + chunk(kind=b"\x0e") + b"\x00"))

    assert caught.value.where.startswith("ChunkRun.chunks[1].kind at byte ")


@pytest.mark.parametrize(
    "value",
    [
        run_value(chunks=b"\x01" + write_long(len(chunk())) + chunk() + b"\x00"),
        run_value(chunks=b"\x02" + chunk() + b"\x02" + chunk() + b"\x00"),
        run_value(attempt=b"\x82\x00"),
        with_chunk(kind=b"\x80\x00"),
        with_chunk(payload=b"\x84\x00{}"),
        run_value(chunks=b"\x00"),
    ],
    ids=["block with size", "two blocks", "long attempt", "long kind", "long length", "no chunks"],
)
def test_unusual_but_valid_avro_is_read_as_the_usual(value: bytes) -> None:
    run = CODEC.decode_run(value)

    listed = (Chunk(Kind.DATA, b"{}", NOW_US),) * len(run.chunks)
    assert run == ChunkRun("s", 1, "w", 0, listed, None, HASH, body=value[10:-16])
