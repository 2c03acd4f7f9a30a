"""Whatever the bytes, decoding gives a value or one error; and the fast decoders agree with the strict one."""

import contextlib
import io
from typing import Any

import fastavro
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from apexstream.contracts import run_codec
from apexstream.contracts.codec import RUN_SUBJECT, SUBJECTS, Codec, _run
from apexstream.contracts.diagnose import read_record
from apexstream.contracts.schemas import Schema, load_schemas, schemas_folder
from apexstream.core.chunk import GENESIS, Chunk, ChunkRun, Kind
from apexstream.core.errors import ChunkDecodeError

SCHEMAS = load_schemas()
CODEC = Codec(registry_ids={schema.name: at for at, schema in enumerate(SCHEMAS.all)})
CODEC_OF_FINGERPRINTS = Codec()
TYPES = {subject: kind for kind, subject in SUBJECTS.items()}
EXAMPLES = {path.stem: path.read_bytes() for path in (schemas_folder() / "examples").glob("*.bin")}
FRAME_BYTES = 10
KNOWN = ["empty", "truncated", "bad_length", "bad_varint", "bad_utf8", "bad_union", "bad_enum", "bad_logical"]
KNOWN += ["out_of_range", "trailing_bytes", "unknown_schema", "too_large"]
REASONS = dict(zip(KNOWN, KNOWN, strict=True))


def schema_of(name: str) -> Schema:
    return next(schema for schema in SCHEMAS.all if name.startswith(schema.name))


def decode(name: str, value: bytes) -> Any:
    """The value, or the reason why there is none. Anything but :class:`ChunkDecodeError` fails the test."""
    kind = TYPES.get(schema_of(name).subject)
    try:
        return CODEC.decode_run(value) if kind is None else CODEC.decode(value, kind)
    except ChunkDecodeError as problem:
        return REASONS[problem.reason]


@st.composite
def mutated(draw: st.DrawFn, value: bytes) -> bytes:
    """``value`` with a few bits flipped, bytes replaced, inserted or cut out; sometimes cut short."""
    body = bytearray(value)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(body) - 1)))
        match draw(st.sampled_from(["flip", "set", "insert", "cut", "shorten", "repeat"])):
            case "flip":
                body[at : at + 1] = bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in body[at : at + 1])
            case "set":
                body[at : at + 1] = bytes([draw(st.sampled_from([0, 1, 2, 127, 128, 255]))])
            case "insert":
                body[at:at] = draw(st.sampled_from([b"\x80", b"\xff" * 10, b"\x80" * 9 + b"\x01", b"\x00", b"\x01"]))
            case "cut":
                del body[at : at + draw(st.integers(1, 8))]
            case "shorten":
                del body[at:]
            case "repeat":
                body[at:at] = body[at : at + draw(st.integers(1, 40))]
    return bytes(body)


@settings(deadline=None)
@given(st.sampled_from(sorted(EXAMPLES)), st.binary(max_size=300))
def test_random_bytes_give_one_error_or_a_value(name: str, junk: bytes) -> None:
    decode(name, junk)
    decode(name, EXAMPLES[name][:FRAME_BYTES] + junk)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_records_give_one_error_or_a_value(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(EXAMPLES)))

    decode(name, data.draw(mutated(EXAMPLES[name])))


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_no_record_can_be_cut_short_and_still_be_read(name: str) -> None:
    value = EXAMPLES[name]

    reasons = {decode(name, value[:end]) for end in range(len(value))}

    assert reasons <= {"empty", "unknown_schema", "truncated", "bad_varint"}


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_every_flipped_bit_gives_one_error_or_a_value(name: str) -> None:
    value = EXAMPLES[name]

    for at in range(len(value) * 8):
        flipped = bytearray(value)
        flipped[at >> 3] ^= 1 << (at & 7)
        decode(name, bytes(flipped))


def strictly(name: str, body: bytes) -> Any:
    schema = schema_of(name)
    try:
        value = read_record(schema.shape, body)
        return _run(value, body, schema.name) if schema.subject == RUN_SUBJECT else value
    except ChunkDecodeError as problem:
        return problem.reason


RUNS = sorted(name for name in EXAMPLES if name.startswith(RUN_SUBJECT))
#: Bytes for which :func:`run_codec.read_run` says that it does not know.
NOT_READ = object()


def quickly(value: bytes) -> Any:
    with contextlib.suppress(*run_codec.NOT_READ):
        return run_codec.read_run(value, FRAME_BYTES)
    return NOT_READ


@settings(max_examples=600, deadline=None)
@given(st.data())
def test_the_hand_written_decoder_never_says_anything_that_the_strict_reader_does_not(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(RUNS))
    value = EXAMPLES[name][:FRAME_BYTES] + data.draw(mutated(EXAMPLES[name][FRAME_BYTES:]))

    assert quickly(value) in (NOT_READ, strictly(name, value[FRAME_BYTES:]))


def of_one_second() -> bytes:
    """A run whose chunks differ as little as chunks do, so that all but the first are read the short way."""
    listed = tuple(Chunk(Kind.DATA, b"x" * size, 1_795_000_000_400_000 + size) for size in (0, 1, 70, 0))
    return CODEC_OF_FINGERPRINTS.encode_run(ChunkRun("s", 1, "w", 0, listed, b"c"), GENESIS)[0]


def test_the_hand_written_decoder_agrees_with_the_strict_reader_on_every_flipped_bit_and_changed_byte() -> None:
    value = of_one_second()

    for at in range(FRAME_BYTES, len(value)):
        for byte in {value[at] ^ 1 << bit for bit in range(8)} | {0, 1, 2, 0x7F, 0x80, 0xFF}:
            changed = value[:at] + bytes([byte]) + value[at + 1 :]
            assert quickly(changed) in (NOT_READ, strictly(RUNS[0], changed[FRAME_BYTES:]))


@settings(deadline=None)
@given(st.sampled_from(RUNS), st.binary(max_size=120))
@example(RUNS[0], b"")
def test_the_hand_written_decoder_never_reads_junk_that_the_strict_reader_refuses(name: str, junk: bytes) -> None:
    body = EXAMPLES[name][FRAME_BYTES : FRAME_BYTES + 60] + junk

    assert quickly(EXAMPLES[name][:FRAME_BYTES] + body) in (NOT_READ, strictly(name, body))


def as_fastavro(schema: Schema, body: bytes) -> tuple[Any, bytes] | None:
    """What fastavro reads and what it would have written; None if it stumbles, which it does in many ways."""
    parsed: Any = fastavro.parse_schema(dict(schema.definition))
    sink = io.BytesIO()
    with contextlib.suppress(Exception):
        value = fastavro.schemaless_reader(io.BytesIO(body), parsed, None)
        fastavro.schemaless_writer(sink, parsed, value)
        return value, sink.getvalue()
    return None


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_what_fastavro_reads_and_would_write_again_is_what_the_strict_reader_reads(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(EXAMPLES)))
    body = data.draw(mutated(EXAMPLES[name][FRAME_BYTES:]))

    outcome = as_fastavro(schema_of(name), body)

    if outcome is not None and outcome[1] == body:
        assert read_record(schema_of(name).shape, body) == outcome[0]


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_both_readers_read_the_examples_alike(name: str) -> None:
    body = EXAMPLES[name][FRAME_BYTES:]

    assert as_fastavro(schema_of(name), body) == (read_record(schema_of(name).shape, body), body)
