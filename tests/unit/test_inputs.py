"""References in parameters: found, named anew, filled in."""

from typing import Any

import pytest

from apexstream.core.chunk import WATERMARK_TYPE, Chunk, Kind
from apexstream.core.errors import InvalidParameters
from apexstream.core.inputs import INPUTS_MAX, InputMissing, Ref, filled, may_refer, references, renamed, values_of

PARAMS = {"a": {"$result": "one"}, "b": [1, {"c": {"$stream": "two", "default": []}}], "d": "$result"}


def test_references_are_found_wherever_they_are_and_nothing_else_is() -> None:
    assert references(PARAMS) == (Ref("result", "one", ("a",)), Ref("stream", "two", ("b", 1, "c")))
    assert may_refer(b'{"a":{"$result":"one"}}')
    assert not may_refer(b'{"a":"result"}')


def test_names_of_a_graph_become_ids_and_others_stay() -> None:
    assert renamed(PARAMS, {"one": "g.one"}) == {
        "a": {"$result": "g.one"},
        "b": [1, {"c": {"$stream": "two", "default": []}}],
        "d": "$result",
    }


def test_values_take_the_places_of_references() -> None:
    assert filled(PARAMS, lambda ref: ref.task_id.upper()) == {"a": "ONE", "b": [1, {"c": "TWO"}], "d": "$result"}


def test_a_default_is_taken_where_there_is_nothing_and_without_one_that_is_told() -> None:
    def nothing(_: Ref) -> Any:
        raise InputMissing("the stream was erased", where="two")

    assert filled({"b": {"$stream": "two", "default": None}}, nothing) == {"b": None}
    with pytest.raises(InputMissing, match="erased"):
        filled(PARAMS, nothing)


@pytest.mark.parametrize(
    "params",
    [
        {"$result": "one"},
        {"a": {"$result": 1}},
        {"a": {"$result": ""}},
        {"a": {"$result": "one", "more": 1}},
        {"a": {"$result": "one", "$stream": "two"}},
        {"a": [{"$result": "one"}] * (INPUTS_MAX + 1)},
    ],
)
def test_a_reference_that_cannot_be_one_is_refused(params: Any) -> None:
    with pytest.raises(InvalidParameters):
        references(params)


def test_values_of_chunks_are_json_whatever_they_hold() -> None:
    chunks = [
        Chunk(Kind.DATA, b'{"a":1}', 0),
        Chunk(Kind.PROGRESS, b"{}", 0),
        Chunk(Kind.DATA, "# é".encode(), 0, "text/markdown"),
        Chunk(Kind.DATA, b"\x00\xff", 0, "application/octet-stream"),
        Chunk(Kind.DATA, b"{}", 0, WATERMARK_TYPE),
        Chunk(Kind.COMPLETE, b"{}", 0),
    ]

    assert values_of(chunks) == [{"a": 1}, "# é", "AP8="]
