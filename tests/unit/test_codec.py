"""Messages to bytes and back: nothing is lost, in either framing, and every version is read as the newest."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.contracts.codec import EVENT_VALUE_BYTES_MAX, RUN_SUBJECT, SUBJECTS, Codec
from apexstream.contracts.schemas import Schemas, load_schemas, schemas_folder
from apexstream.core.chunk import GENESIS, Chunk, ChunkRun, Kind
from apexstream.core.errors import ChunkDecodeError, InvalidConfiguration, InvalidRequest
from apexstream.core.events import (
    ActionInfo,
    ArchiveProgress,
    Assignment,
    ClaimSaid,
    ControlCommand,
    ControlVerb,
    DeadLetter,
    Event,
    RunnerState,
    Segment,
    SegmentChunks,
    SegmentPage,
    SegmentRef,
    StreamState,
    StreamStatus,
    TaskChange,
    TaskEvent,
    TaskSubmitted,
)
from apexstream.core.tiers import TIER_PATTERN

CODEC = Codec()
IDS = {schema.name: 7 + at for at, schema in enumerate(load_schemas().all)}
REGISTERED = Codec(registry_ids=IDS)

texts = st.text(st.characters(codec="utf-8"), max_size=40)
longs = st.integers(-(1 << 63), (1 << 63) - 1)
counts = st.integers(0, (1 << 63) - 1)
tasks = st.builds(
    TaskSubmitted,
    task_id=texts,
    plugin=texts,
    action=texts,
    params=st.binary(max_size=200),
    tier=st.from_regex(TIER_PATTERN, fullmatch=True),
    submitted_us=longs,
    options=st.binary(max_size=40),
)
hashes = st.binary(min_size=16, max_size=16)
segment_refs = st.builds(
    SegmentRef, offset=longs, number=longs, first_seq=longs, count=longs, size_bytes=longs, index=st.booleans()
)
actions = st.builds(
    ActionInfo, plugin=texts, action=texts, summary=texts, streams=st.booleans(), params_schema=st.binary(max_size=40)
)
events: st.SearchStrategy[Event] = st.one_of(
    tasks,
    st.builds(
        TaskEvent,
        task_id=texts,
        change=st.sampled_from(TaskChange),
        at_us=longs,
        attempt=counts,
        by=texts,
        reason=texts,
        detail=st.binary(max_size=80),
    ),
    st.builds(Assignment, task=tasks, attempt=counts, assigned_us=longs),
    st.builds(
        RunnerState,
        runner_id=texts,
        at_us=longs,
        capacity=longs,
        partitions=st.lists(longs, max_size=30).map(tuple),
        actions=st.lists(actions, max_size=3).map(tuple),
        broken_plugins=st.lists(texts, max_size=3).map(tuple),
    ),
    st.builds(
        StreamState,
        stream_id=texts,
        status=st.sampled_from(StreamStatus),
        epoch=longs,
        offset=longs,
        attempt=counts,
        writer=texts,
        fenced=st.booleans(),
        next_seq=longs,
        data_count=longs,
        hash=hashes,
        checkpoint=st.none() | st.binary(max_size=40),
        checkpoint_seq=longs,
        checkpoint_hash=hashes,
        checkpoint_data_count=longs,
        checkpoint_attempt=longs,
        claims=st.lists(st.builds(ClaimSaid, attempt=longs, payload=st.binary(max_size=40)), max_size=2).map(tuple),
        rewinds=longs,
        rewound_to=longs,
        rewound_from=longs,
        segments=st.lists(segment_refs, max_size=3).map(tuple),
        payload_bytes=longs,
        created_us=longs,
        updated_us=longs,
        ended_us=longs,
        expires_us=longs,
        options=st.binary(max_size=40),
    ),
    st.builds(
        Segment,
        stream_id=texts,
        number=longs,
        first_seq=longs,
        count=longs,
        index=st.booleans(),
        raw_bytes=longs,
        data=st.binary(max_size=200),
        digest=st.binary(min_size=32, max_size=32),
    ),
    st.builds(
        SegmentChunks,
        kinds=st.binary(max_size=9),
        sizes=st.binary(max_size=36),
        times=st.binary(max_size=72),
        content_types=st.lists(texts, max_size=3).map(tuple),
        content_type_of=st.binary(max_size=9),
        payloads=st.binary(max_size=200),
    ),
    st.builds(SegmentPage, segments=st.lists(segment_refs, max_size=3).map(tuple)),
    st.builds(
        ArchiveProgress,
        partition=longs,
        epoch=longs,
        archiver=texts,
        sealed_to=longs,
        segments_to=longs,
        control_to=longs,
        at_us=longs,
    ),
    st.builds(
        DeadLetter,
        task_id=texts,
        plugin=texts,
        action=texts,
        params=st.binary(max_size=40),
        tier=st.from_regex(TIER_PATTERN, fullmatch=True),
        options=st.binary(max_size=40),
        attempts=longs,
        error_class=texts,
        error=st.binary(max_size=40),
        reason=texts,
        at_us=longs,
    ),
    st.builds(ControlCommand, task_id=texts, verb=st.sampled_from(ControlVerb), at_us=longs, reason=texts),
)


@settings(deadline=None)
@given(events)
def test_every_message_survives_the_way_there_and_back(event: Event) -> None:
    assert CODEC.decode(CODEC.encode(event), type(event)) == event


@settings(deadline=None)
@given(events)
def test_one_decoder_reads_both_framings(event: Event) -> None:
    single, registered = CODEC.encode(event), REGISTERED.encode(event)

    assert single[10:] == registered[5:]
    assert registered[:5] == b"\x00" + IDS[load_schemas().newest(SUBJECTS[type(event)]).name].to_bytes(4, "big")
    assert REGISTERED.decode(single, type(event)) == event == REGISTERED.decode(registered, type(event))


def test_one_decoder_reads_both_framings_of_runs() -> None:
    run = ChunkRun("s", 1, "w", 0, (Chunk(Kind.DATA, b"{}", 1),))
    (single, run_hash), (registered, same_hash) = CODEC.encode_run(run, GENESIS), REGISTERED.encode_run(run, GENESIS)

    assert run_hash == same_hash
    assert REGISTERED.decode_run(single) == REGISTERED.decode_run(registered)


@pytest.mark.parametrize("kind", SUBJECTS, ids=lambda kind: kind.__name__)
def test_messages_and_their_newest_schemas_agree_on_fields_and_defaults(kind: type[Event]) -> None:
    schema = load_schemas().newest(SUBJECTS[kind])
    fields = msgspec.structs.fields(kind)

    declared = {field["name"]: field.get("default", msgspec.NODEFAULT) for field in schema.definition["fields"]}
    own = {field.name: field.default for field in fields}

    assert list(declared) == [field.name for field in fields]
    for name, default in own.items():
        if default is not msgspec.NODEFAULT:
            same = [*default] if isinstance(default, tuple) else "" if default == b"" else default
            assert declared[name] in (same, msgspec.to_builtins(default))


def test_enums_and_their_newest_schemas_agree_on_symbols() -> None:
    def symbols(subject: str, *path: Any) -> list[str]:
        node: Any = load_schemas().newest(subject).definition
        for step in path:
            node = node[step]
        return list(node["symbols"])

    assert symbols("task-event", "fields", 1, "type") == [change.value for change in TaskChange]
    assert symbols("control-command", "fields", 1, "type") == [verb.value for verb in ControlVerb]
    assert symbols("stream-state", "fields", 1, "type") == [status.value for status in StreamStatus]
    kinds = symbols(RUN_SUBJECT, "fields", 4, "type", "items", "fields", 0, "type")
    assert kinds == [kind.name.lower() for kind in sorted(Kind)]


@pytest.mark.parametrize(
    "event",
    [
        ControlCommand(task_id="t", verb=ControlVerb.CANCEL, at_us=1 << 63),
        ControlCommand(task_id="lone \ud800", verb=ControlVerb.CANCEL, at_us=1),
        ControlCommand(task_id="t", verb=ControlVerb.CANCEL, at_us=1, reason="x" * (EVENT_VALUE_BYTES_MAX + 1)),
    ],
    ids=["65 bits", "lone surrogate", "too large"],
)
def test_what_no_reader_would_accept_is_refused_before_it_is_written(event: Event) -> None:
    with pytest.raises(InvalidRequest) as caught:
        CODEC.encode(event)

    assert caught.value.where.startswith("control-command.v")


def test_a_message_of_another_type_is_an_unknown_schema() -> None:
    value = CODEC.encode(ControlCommand(task_id="t", verb=ControlVerb.CANCEL, at_us=1))

    with pytest.raises(ChunkDecodeError, match=r"starts with control-command\.v\d+, which is no task-event"):
        CODEC.decode(value, TaskEvent)


@pytest.mark.parametrize("number", [-1, 1 << 32])
def test_a_registry_id_of_more_than_32_bits_is_refused(number: int) -> None:
    with pytest.raises(InvalidConfiguration, match="is not an id"):
        Codec(registry_ids=IDS | {"task-event.v2": number})


def test_a_registry_that_lacks_a_schema_is_refused() -> None:
    ids = {name: number for name, number in IDS.items() if name != "segment.v1"}

    with pytest.raises(InvalidConfiguration, match=r"segment\.v1 has no id"):
        Codec(registry_ids=ids)


def next_version(tmp_path: Path, subject: str, change: Callable[[dict[str, Any]], None]) -> Schemas:
    """All schemas, and one more version of ``subject``, which differs from the newest by ``change``."""
    events_folder = tmp_path / "events"
    copytree(schemas_folder() / "events", events_folder)
    newest = load_schemas().newest(subject)
    definition = copy.deepcopy(dict(newest.definition))
    change(definition)
    (events_folder / f"{subject}.v{newest.version + 1}.avsc").write_text(json.dumps(definition))
    return load_schemas(tmp_path)


def with_code(definition: dict[str, Any]) -> None:
    definition["fields"].append({"name": "code", "type": "long", "default": 0})


COMMAND = ControlCommand(task_id="t", verb=ControlVerb.CANCEL, at_us=5, reason="why")


def test_an_older_version_is_read_as_the_newest_one(tmp_path: Path) -> None:
    newer = Codec(schemas=next_version(tmp_path, "control-command", with_code))

    assert newer.decode(CODEC.encode(COMMAND), ControlCommand) == COMMAND


def test_a_version_that_is_not_installed_is_an_unknown_schema(tmp_path: Path) -> None:
    newest = next_version(tmp_path, "control-command", with_code).newest("control-command")
    value = b"\xc3\x01" + newest.fingerprint + CODEC.encode(COMMAND)[10:] + b"\x00"

    with pytest.raises(ChunkDecodeError) as caught:
        CODEC.decode(value, ControlCommand)

    assert caught.value.reason == "unknown_schema"


def test_a_symbol_that_the_newest_version_lacks_is_read_as_its_default(tmp_path: Path) -> None:
    def without_cancel(definition: dict[str, Any]) -> None:
        definition["fields"][1]["type"]["symbols"].remove("cancel")

    newer = Codec(schemas=next_version(tmp_path, "control-command", without_cancel))

    assert newer.decode(CODEC.encode(COMMAND), ControlCommand).verb is ControlVerb.UNKNOWN


def test_an_older_version_of_a_run_is_read_with_its_own_body(tmp_path: Path) -> None:
    def without_checkpoint(definition: dict[str, Any]) -> None:
        definition["fields"] = [field for field in definition["fields"] if field["name"] != "checkpoint"]

    # The hand-written codec must know the newest version, so the one without checkpoints takes the older one's place.
    next_version(tmp_path, RUN_SUBJECT, without_checkpoint)
    first, second = (tmp_path / "events" / f"{RUN_SUBJECT}.v{number}.avsc" for number in (1, 2))
    old, new = second.read_bytes(), first.read_bytes()
    first.write_bytes(old)
    second.write_bytes(new)
    schemas = load_schemas(tmp_path)
    run = ChunkRun("s", 1, "w", 0, (Chunk(Kind.PROGRESS, b"{}", 1, "text/plain"),))
    value, run_hash = CODEC.encode_run(run, GENESIS)
    body = value[10:-17]  # without the byte that says that there is no checkpoint

    read = Codec(schemas=schemas).decode_run(
        b"\xc3\x01" + schemas.versions(RUN_SUBJECT)[0].fingerprint + body + run_hash
    )

    assert read == ChunkRun("s", 1, "w", 0, run.chunks, None, run_hash, body)


def test_a_run_schema_that_the_hand_written_codec_does_not_know_is_refused(tmp_path: Path) -> None:
    schemas = next_version(tmp_path, RUN_SUBJECT, with_code)

    with pytest.raises(InvalidConfiguration, match=r"chunk-run\.v2 is not the schema that run_codec"):
        Codec(schemas=schemas)
