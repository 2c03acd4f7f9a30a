"""Raw records of topics as people see them."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from apexstream.cli.records import describe_record
from apexstream.contracts.catalogue import Topic, load_catalogue
from apexstream.contracts.codec import Codec
from apexstream.core.chunk import GENESIS, Chunk, ChunkRun, Kind
from apexstream.core.events import ControlCommand, ControlVerb, TaskSubmitted

CODEC = Codec()


@dataclass(frozen=True)
class Stored:
    value: bytes | None
    key: bytes | None = b"t1"
    offset: int = 7
    timestamp: int = 1000


@pytest.fixture(scope="module")
def topics() -> dict[str, Topic]:
    return {topic.name: topic for topic in load_catalogue()}


def described(topic: Topic, value: bytes | None, **more: Any) -> dict[str, Any]:
    """What a line of `tail` says."""
    shown = describe_record(topic, (topic.name, 3), Stored(value, **more), CODEC)
    return dict(msgspec.json.decode(msgspec.json.encode(shown)))


def test_an_event_is_shown_with_its_place_and_the_json_inside_it_opened(topics: dict[str, Topic]) -> None:
    task = TaskSubmitted(task_id="t1", plugin="p", action="a", params=b'{"path":"x"}', tier="low", submitted_us=5)

    shown = described(topics["apex.tasks.low"], CODEC.encode(task))

    assert {key: shown[key] for key in ("topic", "partition", "offset", "timestamp_ms", "key")} == {
        "topic": "apex.tasks.low",
        "partition": 3,
        "offset": 7,
        "timestamp_ms": 1000,
        "key": "t1",
    }
    assert shown["value"]["params"] == {"path": "x"}
    assert shown["value"]["tier"] == "low"


def test_a_run_shows_its_chunks_by_kind_and_type(topics: dict[str, Topic]) -> None:
    chunks = (
        Chunk(Kind.DATA, b'{"n":1}', 10),
        Chunk(Kind.DATA, "# é".encode(), 11, "text/markdown"),
        Chunk(Kind.DATA, b"\x00\xff", 12, "image/png"),
        Chunk(Kind.COMPLETE, b"", 13),
    )
    value, _ = CODEC.encode_run(ChunkRun("t1", 1, "w", 0, chunks, checkpoint=b"abc"), GENESIS)

    shown = described(topics["apex.chunks"], value)["value"]

    assert [(chunk["kind"], chunk["payload"]) for chunk in shown["chunks"]] == [
        ("data", {"n": 1}),
        ("data", "# é"),
        ("data", {"base64": "AP8="}),
        ("complete", None),
    ]
    assert (shown["first_seq"], shown["attempt"], shown["checkpoint_bytes"]) == (0, 1, 3)


def test_a_tombstone_has_no_value(topics: dict[str, Topic]) -> None:
    assert described(topics["apex.runners"], None)["value"] is None


def test_a_record_that_cannot_be_decoded_is_shown_as_it_is(topics: dict[str, Topic]) -> None:
    shown = described(topics["apex.chunks"], b"\x00\x01junk", key=b"\xff")

    assert shown["error"]["code"] == "undecodable"
    assert shown["undecoded"] == "AAFqdW5r"
    assert shown["key"] == "\\xff"


def test_a_record_of_another_kind_than_the_topics_is_an_error_too(topics: dict[str, Topic]) -> None:
    command = ControlCommand(task_id="t1", verb=ControlVerb.CANCEL, at_us=1)

    assert "error" in described(topics["apex.chunks"], CODEC.encode(command))


def test_every_declared_topic_can_be_shown(topics: dict[str, Topic]) -> None:
    assert all("undecoded" in described(topic, b"junk") for topic in topics.values())
