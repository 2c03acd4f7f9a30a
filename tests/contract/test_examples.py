"""The examples under ``schemas/examples``: what other languages can check themselves against is what we read and write."""

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest

from apexstream.contracts.codec import SUBJECTS, Codec
from apexstream.contracts.schemas import Schema, load_schemas, schemas_folder
from apexstream.core.chunk import ChunkRun, Kind, chain
from apexstream.core.events import Event
from apexstream.core.fold import StreamFold, Verdict

FOLDER = schemas_folder() / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.bin"))
TYPES = {subject: kind for kind, subject in SUBJECTS.items()}
FRAME_BYTES = 10


def schema_of(example: str) -> Schema:
    subject, version, *_ = example.split(".")
    return next(schema for schema in load_schemas().all if schema.name == f"{subject}.{version}")


def decoded(example: str) -> Event | ChunkRun:
    value = (FOLDER / f"{example}.bin").read_bytes()
    kind = TYPES.get(schema_of(example).subject)
    return Codec().decode_run(value) if kind is None else Codec().decode(value, kind)


def as_avro_json(body: bytes, schema: Schema) -> Any:
    parsed: Any = fastavro.parse_schema(dict(schema.definition))
    text = io.StringIO()
    fastavro.json_writer(text, parsed, [fastavro.schemaless_reader(io.BytesIO(body), parsed, None)])
    return json.loads(text.getvalue())


def test_every_version_of_every_subject_has_an_example() -> None:
    assert {schema.name for schema in load_schemas().all} <= set(EXAMPLES)
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_bytes_say_what_the_json_says(example: str) -> None:
    value = (FOLDER / f"{example}.bin").read_bytes()

    said = as_avro_json(value[FRAME_BYTES:], schema_of(example))

    assert value[:FRAME_BYTES] == b"\xc3\x01" + schema_of(example).fingerprint
    assert said == json.loads((FOLDER / f"{example}.json").read_text())


@pytest.mark.parametrize("example", EXAMPLES)
def test_what_is_decoded_from_the_bytes_encodes_to_the_same_bytes(example: str) -> None:
    schema, value = schema_of(example), decoded(example)

    encoded = newest_bytes_of_run(example, value) if isinstance(value, ChunkRun) else Codec().encode(value)

    if schema.name == load_schemas().newest(schema.subject).name:
        assert encoded == (FOLDER / f"{example}.bin").read_bytes()


def newest_bytes_of_run(example: str, run: ChunkRun) -> bytes:
    """Chained to what the example is chained to: the last run before it in the little stream that the examples are."""
    before = decoded("chunk-run.v1") if example == "chunk-run.v1.complete" else None
    return Codec().encode_run(run, before.hash if isinstance(before, ChunkRun) else bytes(16))[0]


def test_the_example_runs_fold_to_a_stream() -> None:
    fold = StreamFold()
    names = ("chunk-run.v1.claim", "chunk-run.v1.resume", "chunk-run.v1", "chunk-run.v1.complete")
    runs = [run for run in map(decoded, names) if isinstance(run, ChunkRun)]

    verdicts = [fold.apply(run).verdict for run in runs]

    assert verdicts == [Verdict.CLAIMED, Verdict.RESUMED, Verdict.ACCEPTED, Verdict.ACCEPTED]
    assert (fold.next_seq, fold.closed, fold.checkpoint) == (4, Kind.COMPLETE, b'{"line": 3}')


def test_the_hash_of_an_example_can_be_worked_out_from_its_bytes() -> None:
    value = (FOLDER / "chunk-run.v1.bin").read_bytes()

    assert chain(bytes(16), value[FRAME_BYTES:-16]) == value[-16:]


def test_the_folder_holds_nothing_else() -> None:
    assert {Path(path).suffix for path in FOLDER.iterdir()} == {".bin", ".json"}
