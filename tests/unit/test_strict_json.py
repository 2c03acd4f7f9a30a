"""JSON in which an object has a key twice is refused, and no other."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexstream.core.errors import InvalidRequest
from apexstream.core.strict_json import check_keys

NAMES = st.text(alphabet='ab:,"\\{}[] é', max_size=3)
VALUES: st.SearchStrategy[str] = st.recursive(
    st.one_of(NAMES.map(json.dumps), NAMES.map(lambda name: json.dumps(name, ensure_ascii=False)), st.just("1")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(NAMES.map(json.dumps), inner), max_size=4).map(
            lambda pairs: "{" + ",".join(f"{key} :{value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=8,
)


def has_a_key_twice(text: str) -> bool:
    found: list[bool] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.append(len({key for key, _ in pairs}) < len(pairs))

    json.loads(text, object_pairs_hook=look)
    return any(found)


@given(text=VALUES, as_bytes=st.booleans())
def test_exactly_what_has_a_key_twice_is_refused(text: str, as_bytes: bool) -> None:
    said = text.encode() if as_bytes else text
    if has_a_key_twice(text):
        with pytest.raises(InvalidRequest, match="twice"):
            check_keys(said, "body")
    else:
        check_keys(said, "body")


@pytest.mark.parametrize(
    "text",
    ['{"a":1,"a":2}', '{"a":"x",":":1,"b":"y",":":2}', '{"a":1,"\\u0061":2}', '[{"b":{"a":1,"c":[{"a":1,"a":1}]}}]'],
)
def test_a_key_that_stands_twice_is_found_however_it_is_written(text: str) -> None:
    with pytest.raises(InvalidRequest, match="twice"):
        check_keys(text, "body")
