"""What goes over the WebSocket."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.errors import InvalidRequest
from apexstream.gateway import frames
from apexstream.gateway.commands import Subscribe, read_command
from apexstream.gateway.cursors import Cursors, Position
from apexstream.gateway.encoding import encode


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
def test_frames_are_what_an_independent_implementation_writes(size: int):
    message = b"x" * size
    assert frames.websocket_frame(message) == Frame(Opcode.TEXT, message).serialize(mask=False)


@given(
    st.text(),
    st.integers(0, 2**40),
    st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists),
)
def test_a_data_chunk_is_shown_as_it_was_yielded(stream_id: str, seq: int, value: object):
    chunk = Chunk(Kind.DATA, msgspec.json.encode(value), 0)
    message = msgspec.json.decode(frames.chunk_message(frames.stream_head(stream_id), seq, chunk))
    assert message == {"type": "stream_update", "stream_id": stream_id, "seq": seq, "data": value}


@given(st.binary(), st.sampled_from(["text/plain", "text/html; charset=utf-8", "image/png", 'we"ird']))
def test_any_payload_of_any_type_gives_valid_json(payload: bytes, content_type: str):
    message = msgspec.json.decode(
        frames.chunk_message(frames.stream_head("s"), 0, Chunk(Kind.DATA, payload, 0, content_type))
    )
    assert message["content_type"] == content_type
    assert ("encoding" in message) != content_type.startswith("text/")


def test_every_kind_that_viewers_see_has_a_frame():
    for kind in Kind:
        if not kind.fences:
            message = msgspec.json.decode(frames.chunk_message(frames.stream_head("s"), 3, Chunk(kind, b"{}", 0)))
            assert message["seq"] == 3


@given(st.lists(st.builds(Chunk, st.just(Kind.DATA), st.integers().map(msgspec.json.encode), st.just(0)), min_size=1))
def test_cursors_and_batches_change_nothing_else_in_the_messages(chunks: list[Chunk]):
    cursors = Cursors(bytes(16), "log")
    plain = frames.JsonFrames().open("s")
    expected = [messages(plain.chunk(seq, 2, chunk)) for seq, chunk in enumerate(chunks, 5)]
    for batches in (False, True):
        encoder = frames.JsonFrames(cursors, batches).open("s")
        found = messages(encoder.join(encode(encoder, 5, 2, chunks)))
        found = found[0] if batches and len(chunks) > 1 else found
        assert [cursors.read(message.pop("cursor"), "s") for message in found] == [
            Position(seq + 1, 2) for seq in range(5, 5 + len(chunks))
        ]
        assert [[message] for message in found] == expected


@pytest.mark.parametrize("batches", [False, True])
def test_a_rewind_is_one_message_with_the_cursor_of_the_place_it_goes_to(batches: bool):
    cursors = Cursors(bytes(16), "log")
    (message,) = messages(frames.JsonFrames(cursors, batches).open("s").rewind(40, 3))
    assert cursors.read(message.pop("cursor"), "s") == Position(40, 3)
    assert message == {"type": "stream_rewind", "stream_id": "s", "seq": 40}


def test_encodings_that_write_differently_have_different_names():
    cursors = Cursors(bytes(16), "log")
    names = {frames.JsonFrames(with_, batches).name for with_ in (None, cursors) for batches in (False, True)}
    assert len(names) == 4


def messages(data: bytes) -> list[Any]:
    """What the text frames in ``data`` hold."""
    found = []
    while data:
        size, start = data[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(data[2:start], "big")
        found.append(msgspec.json.decode(data[start : start + size]))
        data = data[start + size :]
    return found


def test_commands_are_read_strictly_and_unknown_fields_are_allowed():
    assert read_command('{"type":"subscribe","stream_id":"a","extra":1}') == Subscribe(stream_id="a")
    for text in ('{"type":"subscribe","stream_id":"A B"}', '{"type":"x"}', '{"stream_id":"a"}', "[" * 60_000, b"\xff"):
        with pytest.raises(InvalidRequest):
            read_command(text)


@pytest.mark.parametrize(
    "more",
    [
        '"from_seq":1,"tail":2',
        '"cursor":"x","from_time":1',
        '"tail":-1',
        '"tail":1.5',
        '"rate":-1',
        '"id":[]',
        '"id":"' + "x" * 65 + '"',
        '"cursor":"' + "9" * 300 + '"',
        '"from_seq":' + "9" * 5000,
        '"from_seq":NaN',
        '"from_seq":1e400',
    ],
)
def test_a_subscription_that_makes_no_sense_is_refused(more: str):
    with pytest.raises(InvalidRequest):
        read_command('{"type":"subscribe","stream_id":"a",' + more + "}")
