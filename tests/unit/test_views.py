"""Views: what they show of a chunk, what is refused, and that they are written as their stream is."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexstream.core.chunk import WATERMARK_TYPE, Chunk, Kind
from apexstream.core.views import VIEW_BYTES_MAX, InvalidView, View, read_view
from apexstream.gateway.cursors import Cursors
from apexstream.gateway.frames import JsonFrames
from apexstream.gateway.viewed import Lines, Viewed

EVEN = {"op": "filter", "where": {"path": "$.even", "test": "eq", "value": True}}
PICK = {"op": "map", "pick": {"number": "$.n"}}
CURSORS = Cursors(bytes(32), "log")


def view(*operators: dict[str, Any], **more: Any) -> View:
    return read_view(msgspec.json.encode({"operators": operators, **more}))


def chunk(value: Any, kind: Kind = Kind.DATA, content_type: str = "") -> Chunk:
    return Chunk(kind, value if isinstance(value, bytes) else msgspec.json.encode(value), 7, content_type)


def value_of(shown: Chunk | None) -> Any:
    return None if shown is None else msgspec.json.decode(shown.payload)


@given(st.lists(st.integers(-100, 100)))
def test_a_view_shows_what_the_same_operators_make_of_a_list(numbers: list[int]):
    made = view(EVEN, PICK)
    shown = [made.shown(chunk({"n": n, "even": n % 2 == 0})) for n in numbers]
    assert [value_of(each) for each in shown if each] == [{"number": n} for n in numbers if n % 2 == 0]
    assert all(each.event_time_us == 7 for each in shown if each)


@pytest.mark.parametrize("kind", [kind for kind in Kind if not kind.fences and kind is not Kind.DATA])
def test_everything_but_data_is_shown_as_it_is(kind: Kind):
    said = chunk({"even": False}, kind)
    assert view(EVEN).shown(said) is said


def test_watermarks_are_shown_as_they_are():
    said = chunk(5, content_type=WATERMARK_TYPE)
    assert view(EVEN).shown(said) is said


def test_text_is_a_value():
    assert (
        value_of(
            view({"op": "filter", "where": {"test": "contains", "value": "x"}}).shown(
                chunk(b"axe", content_type="text/plain")
            )
        )
        == "axe"
    )


@pytest.mark.parametrize(
    ("given", "where"),
    [(chunk({"m": 1}), "path"), (chunk(b"\xff", content_type="image/png"), "chunk"), (chunk(b"{"), "chunk")],
)
def test_what_an_operator_cannot_take_is_left_out_or_told(given: Chunk, where: str):
    assert view(PICK).shown(given) is None
    told = value_of(view(PICK, on_failure="tell").shown(given))
    assert (told["error"]["code"], told["error"]["where"]) == ("element_failed", where)


def test_what_would_be_too_large_for_a_chunk_has_failed():
    made = view({"op": "map", "pick": {"a": "$", "b": "$", "c": "$"}}, on_failure="tell")
    assert "more than 524288" in value_of(made.shown(chunk("x" * 200_000)))["error"]["message"]


def test_one_definition_has_one_name_however_it_is_written():
    written = b'{"on_failure":"skip", "operators":[{"where":{"path":"$.even","value":true},"op":"filter"}]}'
    assert read_view(written).name == view(EVEN).name
    assert view(EVEN).name != view(EVEN, PICK).name != view(PICK, EVEN).name


@pytest.mark.parametrize(
    ("given", "where"),
    [
        (b"", "view"),
        (b"{", "view"),
        (b"[" * 4_000, "view"),
        (b" " * (VIEW_BYTES_MAX + 1), "view"),
        (b"{}", "view"),
        (b'{"operators":[]}', "$.operators"),
        (msgspec.json.encode({"operators": [EVEN] * 17}), "$.operators"),
        (msgspec.json.encode({"operators": [EVEN], "more": 1}), "view"),
        (b'{"operators":[{"op":"flat_map","path":"$"}]}', "$.operators[0].op"),
        (b'{"operators":[{"op":"take","count":3}]}', "$.operators[0].op"),
        (b'{"operators":[{"op":"map"}]}', "$.operators[0]"),
        (b'{"operators":[{"op":"map","path":"n"}]}', "$.operators[0].path"),
        (b'{"operators":[{"op":"map","function":"a:b"}]}', "$.operators[0].function"),
        (b'{"operators":[{"op":"filter","where":{"test":"in","value":3}}]}', "$.operators[0].where.value"),
    ],
)
def test_what_is_no_view_is_refused_with_the_place_of_what_is_wrong(given: bytes, where: str):
    with pytest.raises(InvalidView) as refused:
        read_view(given)
    assert refused.value.code == "invalid_view"
    assert refused.value.where == where


def test_a_view_that_would_multiply_what_it_is_given_is_refused():
    double = {"op": "map", "pick": {"a": "$", "b": "$"}}
    view(*[double] * 4)
    with pytest.raises(InvalidView, match="32 times"):
        view(*[double] * 5)
    view(*[{"op": "map", "pick": {"a": "$.a", "b": "$.b", "c": "$.c[0]"}}] * 16)


CHUNKS = [chunk({"n": n, "even": n % 2 == 0}) for n in range(6)] + [chunk({}, Kind.COMPLETE)]


@pytest.mark.parametrize("batches", [False, True])
def test_what_is_shown_is_written_as_its_encoding_writes_it(batches: bool):
    made = view(EVEN)
    inner = JsonFrames(CURSORS, batches, made.name)
    encoder, plain = Viewed(inner, made).open("s"), inner.open("s")
    pieces = [encoder.chunk(seq, 2, each) for seq, each in enumerate(CHUNKS)]
    kept = [plain.chunk(seq, 2, CHUNKS[seq]) for seq in (0, 2, 4, 6)]
    assert [piece for piece in pieces if piece] == kept
    assert encoder.join(pieces) == plain.join(kept)
    assert encoder.join([b"", b""]) == b""
    assert encoder.rewind(1, 3) == plain.rewind(1, 3)


def test_every_line_and_event_carries_the_cursor_behind_it():
    for events in (False, True):
        encoder = Lines(CURSORS, "v", events).open("s")
        cursor = CURSORS.of("s", "v").mint(4, 1)
        message = b'{"type":"stream_update","stream_id":"s","seq":3,"data":1,"cursor":"%b"}' % cursor.encode()
        wanted = b"id: %b\ndata: %b\n\n" % (cursor.encode(), message) if events else message + b"\n"
        assert encoder.chunk(3, 1, chunk(1)) == wanted


def test_names_tell_encodings_apart_and_keep_views_out_of_the_labels_of_metrics():
    names = {Viewed(Lines(CURSORS, "", events), view(one)).name for events in (False, True) for one in (EVEN, PICK)}
    assert len(names) == 4
    assert {name.partition("|")[0] for name in names} == {"ndjson+view", "sse+view"}
