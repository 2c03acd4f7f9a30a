"""The frames of the stream protocol and the errors in them, as values."""

import base64

import msgspec
import pytest

from apexstream.client import (
    Cancelled,
    Complete,
    Error,
    Problem,
    Progress,
    ProgressReport,
    RemoteError,
    Rewind,
    Update,
    decode_frame,
    encode_frame,
)
from apexstream.client.frames import Pong, Refused
from apexstream.core import errors

WIRE = {
    b'{"type":"stream_update","stream_id":"s","seq":0,"data":{"a":[1,null]}}': Update(
        stream_id="s", seq=0, data={"a": [1, None]}
    ),
    b'{"type":"stream_update","stream_id":"s","seq":1,"data":"hi","content_type":"text/plain"}': Update(
        stream_id="s", seq=1, data="hi", content_type="text/plain"
    ),
    b'{"type":"stream_progress","stream_id":"s","seq":2,"progress":{"percentage":null,"message":"m","status":"run"}}': (
        Progress(stream_id="s", seq=2, progress=ProgressReport(message="m", status="run"))
    ),
    b'{"type":"stream_complete","stream_id":"s","seq":3}': Complete(stream_id="s", seq=3),
    b'{"type":"stream_error","stream_id":"s","seq":3,"error":{"code":"plugin_failed","message":"no"}}': Error(
        stream_id="s", seq=3, error=Problem(code="plugin_failed", message="no")
    ),
    b'{"type":"stream_cancelled","stream_id":"s","seq":3,"data":{"seq":3,"after_ms":1.5}}': Cancelled(
        stream_id="s", seq=3, data={"seq": 3, "after_ms": 1.5}
    ),
    b'{"type":"stream_rewind","stream_id":"s","seq":1}': Rewind(stream_id="s", seq=1),
}


@pytest.mark.parametrize("wire", WIRE, ids=lambda wire: msgspec.json.decode(wire)["type"])
def test_a_frame_survives_decoding_and_encoding_byte_for_byte(wire: bytes) -> None:
    frame = decode_frame(wire)

    assert frame == WIRE[wire]
    assert encode_frame(frame) == wire


def test_the_value_of_a_base64_chunk_is_its_bytes() -> None:
    data = base64.b64encode(b"\x00png").decode()

    frame = decode_frame(
        b'{"type":"stream_update","stream_id":"s","seq":0,"data":"%s","content_type":"image/png","encoding":"base64"}'
        % data.encode()
    )

    assert isinstance(frame, Update)
    assert frame.value == b"\x00png"


def test_frames_that_are_not_of_a_stream_are_known() -> None:
    assert decode_frame(b'{"type":"pong"}') == Pong()
    assert decode_frame(b'{"type":"error","error":{"code":"bad_request","message":"x"}}') == Refused(
        error=Problem(code="bad_request", message="x")
    )


def test_a_frame_type_of_a_newer_gateway_is_passed_over() -> None:
    assert decode_frame(b'{"type":"stream_hint","stream_id":"s","seq":4}') is None


@pytest.mark.parametrize(
    "junk", [b"", b"[]", b'"x"', b"{}", b'{"type":"stream_update","stream_id":"s","seq":"one","data":1}', b"\xff"]
)
def test_what_is_not_a_frame_is_refused(junk: bytes) -> None:
    with pytest.raises(errors.DataCorruption, match="not a frame"):
        decode_frame(junk)


@pytest.mark.parametrize(
    "kind",
    [errors.InvalidParameters, errors.UnknownTask, errors.Unavailable, errors.OutcomeUnknown, errors.PluginFailed],
)
def test_an_error_comes_back_as_the_class_that_was_sent(kind: type[errors.ApexError]) -> None:
    sent = kind("what", where="here", hint="do this")

    received = msgspec.convert(sent.as_dict(), Problem).exception()

    assert type(received) is kind
    assert str(received) == str(sent)


@pytest.mark.parametrize("code", ["quota_exceeded", "undecodable"])
def test_an_error_without_a_class_keeps_its_code(code: str) -> None:
    received = Problem(code=code, message="too much", where="tenant").exception()

    assert isinstance(received, RemoteError)
    assert received.as_dict() == {"code": code, "message": "too much", "where": "tenant"}
