"""No version of a schema shuts out the readers of another."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import avro.compatibility
import avro.schema
import pytest

from apexstream.contracts.evolution import violations
from apexstream.contracts.schemas import load_schemas, schemas_folder

Definition = dict[str, Any]


def objections(reader: Any, writer: Any) -> list[str]:
    """The verdict of Apache's own package."""
    checker = avro.compatibility.ReaderWriterCompatibilityChecker()
    result = checker.get_compatibility(avro.schema.parse(json.dumps(reader)), avro.schema.parse(json.dumps(writer)))
    if result.compatibility is avro.compatibility.SchemaCompatibilityType.compatible:
        return []
    return [f"{kind.value} at {' '.join(sorted(result.locations))}" for kind in result.incompatibilities]


def test_every_version_of_every_subject_reads_every_other() -> None:
    assert violations(load_schemas(), objections) == ()


def without(field: str) -> Callable[[Definition], None]:
    def change(definition: Definition) -> None:
        definition["fields"] = [each for each in definition["fields"] if each["name"] != field]

    return change


def with_field(**field: Any) -> Callable[[Definition], None]:
    return lambda definition: definition["fields"].append(field)


def retyped(field: str, kind: Any) -> Callable[[Definition], None]:
    def change(definition: Definition) -> None:
        next(each for each in definition["fields"] if each["name"] == field)["type"] = kind

    return change


def paused(definition: Definition) -> None:
    definition["fields"][1]["type"]["symbols"].append("paused")


def heartbeat(definition: Definition) -> None:
    definition["fields"][4]["type"]["items"]["fields"][0]["type"]["symbols"].append("heartbeat")


def second_version(tmp_path: Path, subject: str, change: Callable[[Definition], None]) -> Path:
    """A schemas folder in which ``subject`` has a version 2 that differs from version 1 by ``change``."""
    first = json.loads((schemas_folder() / "events" / f"{subject}.v1.avsc").read_text())
    second = copy.deepcopy(first)
    change(second)
    events = tmp_path / "events"
    events.mkdir()
    (events / f"{subject}.v1.avsc").write_text(json.dumps(first))
    (events / f"{subject}.v2.avsc").write_text(json.dumps(second))
    return tmp_path


@pytest.mark.parametrize(
    ("subject", "change", "complaint"),
    [
        ("task-event", without("by"), "task-event.v1 cannot read task-event.v2: reader_field_missing_default_value"),
        (
            "task-event",
            with_field(name="node", type="string"),
            "task-event.v2 cannot read task-event.v1: reader_field_missing_default_value",
        ),
        ("task-event", retyped("at_us", "string"), "task-event.v1 cannot read task-event.v2: type_mismatch"),
        ("task-event", retyped("at_us", "double"), "task-event.v1 cannot read task-event.v2: type_mismatch"),
        ("chunk-run", heartbeat, "chunk-run.v1 cannot read chunk-run.v2: missing_enum_symbols"),
    ],
    ids=["field removed", "field without default", "another type", "wider type", "symbol for an enum without default"],
)
def test_an_incompatible_second_version_is_found(
    tmp_path: Path, subject: str, change: Callable[[Definition], None], complaint: str
) -> None:
    schemas = load_schemas(second_version(tmp_path, subject, change))

    found = violations(schemas, objections)

    assert found
    assert found[0].startswith(complaint)


@pytest.mark.parametrize(
    "change",
    [with_field(name="node", type="string", default=""), without("reason"), paused],
    ids=["field with default", "field with default removed", "symbol added to an enum with default"],
)
def test_a_compatible_second_version_is_let_through(tmp_path: Path, change: Callable[[Definition], None]) -> None:
    assert violations(load_schemas(second_version(tmp_path, "task-event", change)), objections) == ()


def test_a_gap_in_the_version_numbers_is_found(tmp_path: Path) -> None:
    folder = second_version(tmp_path, "task-event", with_field(name="node", type="string", default=""))
    (folder / "events" / "task-event.v2.avsc").rename(folder / "events" / "task-event.v3.avsc")

    assert violations(load_schemas(folder), objections) == (
        "task-event: versions are [1, 3]; number them from 1 without a gap",
    )


def test_a_run_whose_hash_is_not_last_is_found(tmp_path: Path) -> None:
    folder = second_version(tmp_path, "chunk-run", with_field(name="trace", type="string", default=""))

    assert [line.split(":")[0] for line in violations(load_schemas(folder), objections)] == ["chunk-run.v2"]
