"""Bodies to messages, messages to bodies and SSE events."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexstream.core.chunk import CHUNK_BYTES_MAX, RUN_BYTES_MAX, RUN_CHUNKS_MAX
from apexstream.gateway.durable.messages import (
    PIECE_BYTES_MAX,
    body_of,
    control_event,
    data_event,
    messages_of,
    next_cursor,
    parts_of,
    prefix_of,
)
from apexstream.gateway.durable.requests import Refused

JSON, TEXT, BYTES = "application/json; charset=utf-8", "text/plain", "application/octet-stream"


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        (b'{"a":1}', [b'{"a":1}']),
        (b' [1, "x" ,null] ', [b"1", b'"x"', b"null"]),
        (b"[[1,2],[3]]", [b"[1,2]", b"[3]"]),
        (b"[[[1]]]", [b"[[1]]"]),
        (b"7", [b"7"]),
        (b"", []),
    ],
)
def test_an_array_becomes_its_elements_and_anything_else_itself(body: bytes, messages: list[bytes]) -> None:
    assert messages_of(body, JSON, creates=False) == messages


@pytest.mark.parametrize("body", [b"{", b"[1,]", b"[1] 2", b'"\xff"', b'["\xff"]', b"[" * 100_000, b"NaN", b"nul"])
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        messages_of(body, JSON, creates=False)
    assert refused.value.status == 400


def test_an_empty_array_creates_an_empty_stream_and_appends_nothing() -> None:
    assert messages_of(b"[]", JSON, creates=True) == []
    with pytest.raises(Refused, match="empty array"):
        messages_of(b"[]", JSON, creates=False)


def test_a_message_that_no_chunk_holds_is_too_large() -> None:
    with pytest.raises(Refused) as refused:
        messages_of(b'"' + b"x" * CHUNK_BYTES_MAX + b'"', JSON, creates=False)
    assert refused.value.status == 413


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(_values, min_size=1), st.sampled_from([None, 1, "\t"]))
def test_json_comes_back_as_it_was_sent(values: list[object], indent: int | str | None) -> None:
    messages = messages_of(json.dumps(values, indent=indent, ensure_ascii=False).encode(), JSON, creates=False)

    assert json.loads(body_of(messages, JSON)) == values


@given(st.text(min_size=1, max_size=40), st.integers(1, 60_000))
def test_long_text_is_cut_between_characters(text: str, times: int) -> None:
    body = (text * times)[: 2 * PIECE_BYTES_MAX].encode()

    pieces = messages_of(body, TEXT, creates=False)

    assert b"".join(pieces) == body
    assert all(len(piece) <= PIECE_BYTES_MAX and piece.decode() for piece in pieces)


def test_bytes_are_cut_wherever_it_is() -> None:
    body = b"\x80" * (PIECE_BYTES_MAX * 2 + 5)

    assert [len(piece) for piece in messages_of(body, BYTES, creates=False)] == [PIECE_BYTES_MAX, PIECE_BYTES_MAX, 5]
    assert b"".join(messages_of(body, TEXT, creates=False)) == body


@given(st.lists(st.integers(0, RUN_BYTES_MAX + 10), max_size=300))
def test_parts_fit_a_run_with_its_end(sizes: list[int]) -> None:
    payloads = [bytes(size) for size in sizes]

    parts = parts_of(payloads)

    assert [payload for part in parts for payload in part] == payloads
    for part in parts:
        assert len(part) < RUN_CHUNKS_MAX
        assert len(part) == 1 or sum(map(len, part)) <= RUN_BYTES_MAX


def test_a_fork_begins_with_so_many_messages_or_bytes() -> None:
    assert prefix_of([b"1", b"2", b"3"], JSON, 2) == [b"1", b"2"]
    assert prefix_of([b"he", b"llo"], TEXT, 3) == [b"hel"]
    for content_type in (JSON, TEXT):
        with pytest.raises(Refused) as refused:
            prefix_of([b"1"], content_type, 2)
        assert refused.value.status == 400


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\n\r\nevent: control\r\ndata: {}\r\n\r\n"])
def test_no_line_of_a_payload_is_read_as_sse(end: str) -> None:
    event = data_event([f"a{end}b".encode()], TEXT)

    assert event.startswith(b"event: data\ndata:a\ndata:")
    assert event.endswith(b"b\n\n")
    assert all(line.startswith(b"data:") for line in event[len(b"event: data\n") : -2].split(b"\n"))
    assert b"\r" not in event


def test_events_carry_json_arrays_text_and_base64() -> None:
    assert data_event([b"1", b"2"], JSON) == b"event: data\ndata:[1,2]\n\n"
    assert data_event([b"1", b"2"], TEXT) == b"event: data\ndata:12\n\n"
    assert data_event([b"\x00", b"\xff"], BYTES) == b"event: data\ndata:" + base64.b64encode(b"\x00\xff") + b"\n\n"


def test_a_control_event_says_no_cursor_once_the_stream_is_closed() -> None:
    assert b"streamCursor" in control_event("o", cursor="7", up_to_date=True, closed=False)
    closed = control_event("o", cursor="7", up_to_date=True, closed=True)
    assert json.loads(closed.split(b"data:")[1]) == {"streamNextOffset": "o", "streamClosed": True}


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_a_cursor_never_comes_back_unchanged(given_cursor: int, random: float) -> None:
    now_us = 1_795_000_000_000_000

    present = int(next_cursor("", now_us, random))
    answered = int(next_cursor(str(given_cursor), now_us, random))

    assert answered >= present
    assert answered > given_cursor
    assert next_cursor("x", now_us, random) == str(present)
