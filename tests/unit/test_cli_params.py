"""From ``-p`` arguments to parameters."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexstream.cli.params import parse_params
from apexstream.core.errors import InvalidParameters

SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "limit": {"type": "integer", "default": 0},
        "deep": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "either": {"type": ["integer", "string"]},
        "colour": {"enum": ["red", "green"]},
        "size": {"enum": [1, 2]},
        "fixed": {"const": "x"},
        "named": {"$ref": "#/$defs/Name"},
        "nested": {"$ref": "#/$defs/Outer"},
        "loop": {"$ref": "#/$defs/Loop"},
        "lost": {"$ref": "#/$defs/Nowhere"},
        "any": {},
    },
    "$defs": {
        "Name": {"type": "string"},
        "Outer": {"allOf": [{"$ref": "#/$defs/Name"}]},
        "Loop": {"$ref": "#/$defs/Loop"},
    },
}


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("path=docs", {"path": "docs"}),
        ("path=12", {"path": "12"}),
        ("path=", {"path": ""}),
        ("path=a=b", {"path": "a=b"}),
        ("limit=12", {"limit": 12}),
        ("deep=true", {"deep": True}),
        ('tags=["a","b"]', {"tags": ["a", "b"]}),
        ("maybe=null", {"maybe": "null"}),
        ("either=5", {"either": "5"}),
        ("colour=red", {"colour": "red"}),
        ("size=2", {"size": 2}),
        ("fixed=x", {"fixed": "x"}),
        ("named=7", {"named": "7"}),
        ("nested=7", {"nested": "7"}),
        ("any=7", {"any": 7}),
        ("unknown=7", {"unknown": 7}),
        ("unknown=seven", {"unknown": "seven"}),
        ("maybe:=null", {"maybe": None}),
        ("either:=5", {"either": 5}),
        ('path:={"not":"checked here"}', {"path": {"not": "checked here"}}),
    ],
)
def test_a_parameter_is_read_as_the_schema_says(argument: str, expected: dict[str, Any]) -> None:
    assert parse_params([argument], SCHEMA) == expected


@pytest.mark.parametrize(
    ("argument", "where", "said"),
    [
        ("limit=many", "limit", "expected JSON of type integer, got 'many'"),
        ("tags=a", "tags", "expected JSON of type array"),
        ("loop=a", "loop", "expected JSON"),
        ("lost=a", "lost", "expected JSON"),
        ("path:=docs", "path", "expected JSON, got 'docs'"),
        ("limit", "-p", "'limit' is not a parameter"),
        ("=3", "-p", "is not a parameter"),
        (":=3", "-p", "is not a parameter"),
        ("any=" + "[" * 5000, "any", "expected JSON"),
    ],
)
def test_what_cannot_be_read_names_the_parameter(argument: str, where: str, said: str) -> None:
    with pytest.raises(InvalidParameters) as caught:
        parse_params([argument], SCHEMA)

    assert caught.value.where == where
    assert said in caught.value.what


def test_a_parameter_given_twice_is_refused() -> None:
    with pytest.raises(InvalidParameters, match="twice"):
        parse_params(["path=a", "path:=1"], SCHEMA)


def test_without_a_schema_json_is_json_and_everything_else_text() -> None:
    assert parse_params(["n=1", "s=one", "o={}"], {}) == {"n": 1, "s": "one", "o": {}}


@given(st.text(max_size=50).filter(lambda text: "\ud800" not in text))
def test_a_string_parameter_keeps_every_character(text: str) -> None:
    assert parse_params([f"path={text}"], SCHEMA) == {"path": text}


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=10))
def test_json_given_raw_arrives_as_it_is(value: Any) -> None:
    assert parse_params(["any:=" + msgspec.json.encode(value).decode()], SCHEMA) == {"any": value}
