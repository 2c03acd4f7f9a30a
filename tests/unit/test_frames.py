"""What goes over the WebSocket."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.errors import InvalidRequest
from apexstream.gateway import frames


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


def test_commands_are_read_strictly_and_unknown_fields_are_allowed():
    assert frames.read_command('{"type":"subscribe","stream_id":"a","extra":1}') == frames.Subscribe("a")
    for text in ('{"type":"subscribe","stream_id":"A B"}', '{"type":"x"}', '{"stream_id":"a"}', "[" * 60_000, b"\xff"):
        with pytest.raises(InvalidRequest):
            frames.read_command(text)
