"""The allow-list of schemas: where it is found, what it refuses, how its members are told apart."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from typing import Any

import fastavro
import pytest

from apexstream.contracts.catalogue import load_catalogue
from apexstream.contracts.codec import RUN_SUBJECT, SUBJECTS
from apexstream.contracts.fingerprint import canonical_form, fingerprint
from apexstream.contracts.schemas import load_schemas, schemas_folder
from apexstream.contracts.shape import UnsafeSchema, shape_of
from apexstream.core.errors import InvalidConfiguration

ROOT = Path(__file__).resolve().parents[2]


def record(*types: Any) -> dict[str, Any]:
    fields = [{"name": f"f{at}", "type": kind} for at, kind in enumerate(types)]
    return {"type": "record", "name": "R", "namespace": "t", "fields": fields}


def test_the_checkout_has_a_schema_for_every_message() -> None:
    schemas = load_schemas()

    assert {schema.subject for schema in schemas.all} == {*SUBJECTS.values(), RUN_SUBJECT}
    assert schemas_folder() == ROOT / "schemas"


def test_the_wheel_carries_the_schemas_and_finds_them_there(tmp_path: Path) -> None:
    source = tmp_path / "source"
    copytree(
        ROOT / "services" / "apexstream", source / "services" / "apexstream", ignore=ignore_patterns("__pycache__")
    )
    copytree(ROOT / "schemas", source / "schemas")
    copy(ROOT / "pyproject.toml", source)
    copy(ROOT / "LICENSE", source)
    (source / "README.md").write_text("ApexStream")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    installed = tmp_path / "installed"
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(installed)

    program = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "from apexstream.contracts.catalogue import load_catalogue\n"
        "from apexstream.contracts.codec import Codec\n"
        "from apexstream.contracts.schemas import schemas_folder\n"
        "Codec(); print(schemas_folder(), len(load_catalogue()))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)

    assert run.stdout.split() == [str(installed / "apexstream" / "_schemas"), str(len(load_catalogue()))]


def test_a_package_without_schemas_says_where_they_should_be(tmp_path: Path) -> None:
    package = tmp_path / "a" / "b" / "apexstream"

    with pytest.raises(InvalidConfiguration, match="the schemas are missing") as caught:
        schemas_folder(package)

    assert str(package / "_schemas") in caught.value.where


@pytest.mark.parametrize("schema", load_schemas().all, ids=lambda schema: schema.name)
def test_fingerprints_are_those_of_other_avro_libraries(schema: Any) -> None:
    form = fastavro.schema.to_parsing_canonical_form(fastavro.parse_schema(dict(schema.definition)))

    assert canonical_form(schema.definition) == form
    assert schema.fingerprint.hex() == fastavro.schema.fingerprint(form, "CRC-64-AVRO")


def test_canonical_forms_resolve_names_as_other_avro_libraries_do() -> None:
    point = {"type": "record", "name": "Point", "fields": [{"name": "x", "type": {"type": "long"}, "doc": "d"}]}
    fixed = {"type": "fixed", "name": "other.Id", "size": 4}
    enum = {"type": "enum", "name": "E", "namespace": "third", "symbols": ["A"], "default": "A"}
    schema = record(point, "Point", fixed, "other.Id", enum, {"type": "map", "values": "third.E"}, ["null", "string"])

    form = fastavro.schema.to_parsing_canonical_form(fastavro.parse_schema(schema))

    assert canonical_form(schema) == form
    assert fingerprint(schema).hex() == fastavro.schema.fingerprint(form, "CRC-64-AVRO")


@pytest.mark.parametrize(
    "items",
    [
        "null",
        {"type": "record", "name": "Empty", "fields": []},
        {"type": "record", "name": "Hollow", "fields": [{"name": "nothing", "type": "null"}]},
    ],
    ids=["null", "empty record", "record of null"],
)
def test_b6_array_items_that_take_no_bytes_are_refused(items: Any) -> None:
    with pytest.raises(UnsafeSchema, match=r"^schema\.f0: array items that take no bytes"):
        shape_of(record({"type": "array", "items": items}))


@pytest.mark.parametrize(
    "link",
    [["null", "R"], ["null", "t.R"], {"type": "array", "items": "R"}, {"type": "map", "values": "R"}],
    ids=["union", "full name", "array", "map"],
)
def test_b8_recursive_schemas_are_refused(link: Any) -> None:
    with pytest.raises(UnsafeSchema, match=r"t\.R contains itself"):
        shape_of(record("long", link))


def test_b8_recursion_through_another_record_is_refused() -> None:
    inner = {"type": "record", "name": "Inner", "fields": [{"name": "back", "type": ["null", "R"]}]}

    with pytest.raises(UnsafeSchema, match=r"^schema\.f0\.back\[1\]: t\.R contains itself"):
        shape_of(record(inner))


def test_b9_a_record_that_contains_itself_directly_is_refused() -> None:
    with pytest.raises(UnsafeSchema, match=r"t\.R contains itself"):
        shape_of(record("R"))


@pytest.mark.parametrize(
    "decimal",
    [
        {"type": "bytes", "logicalType": "decimal", "precision": 9},
        {"type": "fixed", "name": "D", "size": 8, "logicalType": "decimal", "precision": 9},
    ],
    ids=["bytes", "fixed"],
)
def test_b15_decimals_are_refused(decimal: Any) -> None:
    with pytest.raises(UnsafeSchema, match="its cost grows with the square of its length"):
        shape_of(record(decimal))


@pytest.mark.parametrize("size", [2**31, -1, 0, 257, "16"])
def test_b17_fixed_sizes_out_of_bounds_are_refused(size: Any) -> None:
    with pytest.raises(UnsafeSchema, match=r"1 to 256 are allowed"):
        shape_of(record({"type": "fixed", "name": "F", "size": size}))


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (record("int"), "use long: it takes the same bytes"),
        (record({"type": "long", "logicalType": "time-micros"}), "logical type time-micros on long"),
        (record("Unknown"), r"unknown type t\.Unknown"),
        (record([]), "a union without branches"),
        (record({"type": {"type": "bytes"}, "logicalType": "decimal"}), "attributes belong inside"),
        (record(7), "not a type: 7"),
        (record(*[{"type": "enum", "name": "E", "symbols": ["A"]}] * 2), r"t\.E is defined twice"),
    ],
    ids=["int", "logical type", "unknown name", "empty union", "outer attribute", "number", "name twice"],
)
def test_schemas_that_could_be_misread_are_refused(definition: Any, reason: str) -> None:
    with pytest.raises(UnsafeSchema, match=reason):
        shape_of(definition)


def write(folder: Path, **files: Any) -> Path:
    events = folder / "events"
    events.mkdir()
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (events / f"{name}.avsc").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("thing.v1", "{", "not an Avro schema"),
        ("thing.v1", {"type": "record", "name": "R"}, "not an Avro schema: KeyError"),
        ("thing.v1", ["null", "long"], "the outermost type must be a record"),
        ("thing.v1", record("R"), "contains itself"),
        ("thing", record("long"), r"not named <subject>\.v<N>\.avsc"),
        ("thing.v0", record("long"), r"not named <subject>\.v<N>\.avsc"),
    ],
    ids=["not JSON", "no fields", "union", "recursive", "no version", "version 0"],
)
def test_a_refused_schema_is_named_with_its_file(tmp_path: Path, name: str, content: Any, reason: str) -> None:
    with pytest.raises(InvalidConfiguration, match=reason) as caught:
        load_schemas(write(tmp_path, **{name: content}))

    assert caught.value.where.endswith(f"{name}.avsc")


def test_versions_that_records_could_not_tell_apart_are_refused(tmp_path: Path) -> None:
    first, second = record("long"), record("long")
    second["fields"][0]["default"] = 7

    with pytest.raises(InvalidConfiguration, match=r"thing\.v2 cannot be told from thing\.v1"):
        load_schemas(write(tmp_path, **{"thing.v1": first, "thing.v2": second}))


def test_the_newest_version_is_the_highest_number(tmp_path: Path) -> None:
    versions = {f"thing.v{number}": record(*["long"] * number) for number in (2, 10, 1)}

    schemas = load_schemas(write(tmp_path, **versions))

    assert [schema.version for schema in schemas.versions("thing")] == [1, 2, 10]
    assert schemas.newest("thing").name == "thing.v10"
    with pytest.raises(InvalidConfiguration, match="no schema for other"):
        schemas.newest("other")
