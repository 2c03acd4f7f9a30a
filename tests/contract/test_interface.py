"""The WebSocket's interface as data says what the code does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from tests.support.interface import FOLDER, asyncapi, files, said_by_client, said_by_server, schema

from apexstream.core.chunk import Chunk, Kind
from apexstream.gateway.closing import Close
from apexstream.gateway.cursors import Cursors
from apexstream.gateway.frames import chunk_message, rewind_message, stream_head
from apexstream.gateway.websocket import _FOLLOW

WEB = Path(__file__).parents[2] / "services" / "web"
CODES = json.loads((FOLDER / "close-codes.json").read_text())


def validator(side: str) -> Draft202012Validator:
    return Draft202012Validator({**schema(), "$ref": f"#/$defs/{side}"})


def test_the_files_are_what_the_types_say():
    """Else run ``python -m tests.support.interface``."""
    for name, text in files().items():
        assert (FOLDER / name).read_text() == text, name


def test_the_schema_is_one():
    Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("kind", [kind for kind in Kind if not kind.fences])
@pytest.mark.parametrize("content_type", ["", "text/plain", "image/png"])
def test_every_message_of_a_stream_fits_the_schema_and_one_kind_of_it(kind: Kind, content_type: str):
    payload = b'{"percentage":1.0,"code":"x","message":"y"}'
    message = json.loads(
        chunk_message(stream_head("s"), 3, Chunk(kind, payload, 0, content_type if kind is Kind.DATA else ""))
    )
    message["cursor"] = Cursors(bytes(16), "log").of("s").mint(4, 0)
    assert list(validator("server").iter_errors(message)) == []
    assert list(validator("server").iter_errors(json.loads(rewind_message(stream_head("s"), 3)))) == []


@pytest.mark.parametrize(
    "message", [{"type": "stream_update"}, {"type": "stream_rewind", "stream_id": "s", "seq": "x"}, {"type": "new"}, []]
)
def test_the_schema_refuses_what_is_no_message(message: Any):
    assert list(validator("server").iter_errors(message))


def test_every_command_that_is_followed_is_in_the_document_and_every_reference_in_it_leads_somewhere():
    document, defined = asyncapi(), schema()["$defs"]
    assert set(_FOLLOW) == set(said_by_client())
    for message in document["components"]["messages"].values():
        assert message["payload"]["$ref"].rpartition("/")[2] in defined
    for operation in document["operations"].values():
        for reference in operation["messages"]:
            assert reference["$ref"].rpartition("/")[2] in document["channels"]["stream"]["messages"]
    tags = [kind.__struct_config__.tag for kind in said_by_server()]
    assert len(tags) == len(set(tags))
    assert msgspec.json.encode(document)


@pytest.fixture(scope="module")
def official() -> Draft7Validator:
    """The schema of AsyncAPI 3.0 as its authors publish it."""
    path = WEB / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0-without-$id.json"
    if not path.is_file():
        pytest.skip("the page's packages are not installed; make test does that, and so does make page")
    return Draft7Validator(json.loads(path.read_text()))


def test_the_document_is_asyncapi_3_by_its_official_schema(official: Draft7Validator):
    assert [problem.message for problem in official.iter_errors(asyncapi())] == []


@pytest.mark.parametrize(
    "break_it",
    [
        lambda document: document["info"].pop("title"),
        lambda document: document["operations"]["show"].update(action="shout"),
        lambda document: document["channels"]["stream"].update(address=7),
        lambda document: document["components"]["messages"]["Ping"].update(color="red"),
    ],
)
def test_the_official_schema_sees_what_is_wrong_in_each_part(official: Draft7Validator, break_it: Callable[[Any], Any]):
    document = asyncapi()
    break_it(document)
    assert list(official.iter_errors(document))


def test_close_codes_agree_with_their_ranges_and_with_the_code():
    known = {each["code"]: each for each in CODES["codes"]}
    assert {code.value for code in Close} <= set(known)
    for code, each in known.items():
        for span in CODES["ranges"]:
            if span["from"] <= code <= span["to"]:
                assert each["reconnect"] == span["reconnect"]
