"""The catalogue of topics: what its files say, and that a mistake in one is found with its place."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from apexstream.contracts.catalogue import Cleanup, Topic, load_catalogue
from apexstream.contracts.codec import RUN_SUBJECT, SUBJECTS
from apexstream.contracts.schemas import load_schemas
from apexstream.core.chunk import CHECKPOINT_BYTES_MAX, CHUNK_BYTES_MAX
from apexstream.core.errors import InvalidConfiguration
from apexstream.core.tiers import DEFAULT_TIERS, Tiers

FINE = {
    "name": "apex.things",
    "purpose": "Things.",
    "key": "thing_id",
    "value": "task-event",
    "writers": ["runner"],
    "readers": ["gateway", "dispatcher"],
    "partitions": 12,
    "cleanup": "delete",
    "retention": "12 h",
    "configs": {"max.message.bytes": 1048576, "unclean.leader.election.enable": False},
}


def load(tmp_path: Path, content: Any, name: str = "apex.things") -> Topic:
    topics = tmp_path / "topics"
    topics.mkdir()
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    (topics / f"{name}.yaml").write_text(text)
    (topic,) = load_catalogue(tmp_path, load_schemas())
    return topic


def test_the_catalogue_has_the_topics_that_services_meet_on() -> None:
    topics = {topic.name: topic for topic in load_catalogue()}

    assert {f"apex.tasks.{tier}" for tier in DEFAULT_TIERS.names} < topics.keys()
    assert {topic.value for topic in topics.values()} <= {*SUBJECTS.values(), RUN_SUBJECT}
    assert (topics["apex.chunks"].partitions, topics["apex.assignments"].partitions) == (12, 24)
    assert topics["apex.runners"].cleanup is Cleanup.COMPACT


def test_every_tier_has_a_topic_of_its_own_and_nothing_else_depends_on_them() -> None:
    usual = {topic.name: topic for topic in load_catalogue()}
    topics = {topic.name: topic for topic in load_catalogue(tiers=Tiers.named("urgent,normal,idle"))}

    assert usual.keys() - topics.keys() == {"apex.tasks.high", "apex.tasks.low"}
    assert topics.keys() - usual.keys() == {"apex.tasks.urgent", "apex.tasks.idle"}
    assert {
        (t.partitions, t.value, t.retention_ms) for name, t in topics.items() if name.startswith("apex.tasks.")
    } == {(12, "task-submitted", 30 * 86_400_000)}


def test_an_installation_says_once_into_how_many_partitions_work_is_spread() -> None:
    usual, few = ({t.name: t.partitions for t in load_catalogue(partitions=count)} for count in (12, 3))

    assert usual == {topic.name: topic.partitions for topic in load_catalogue()}
    assert {name for name in usual if usual[name] == 24} == {"apex.assignments"}
    spread = {name: count for name, count in few.items() if usual[name] >= 12}
    assert spread.pop("apex.assignments") == 6
    assert set(spread.values()) == {3}
    assert {few[name] for name in usual.keys() - spread.keys() - {"apex.assignments"}} == {1, 4}


def test_the_largest_chunk_and_checkpoint_fit_one_record_of_the_chunks_topic() -> None:
    (chunks,) = (topic for topic in load_catalogue() if topic.name == "apex.chunks")

    assert int(chunks.configs["max.message.bytes"]) > CHUNK_BYTES_MAX + CHECKPOINT_BYTES_MAX


def test_a_file_says_what_the_topic_is(tmp_path: Path) -> None:
    topic = load(tmp_path, FINE)

    assert (topic.name, topic.key, topic.value, topic.partitions) == ("apex.things", "thing_id", "task-event", 12)
    assert topic.retention_ms == 12 * 3_600_000
    assert topic.readers == ("gateway", "dispatcher")
    assert topic.configs == {"max.message.bytes": "1048576", "unclean.leader.election.enable": "false"}


@pytest.mark.parametrize(("replication", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "2")])
def test_writes_wait_for_two_copies_where_there_are_three(tmp_path: Path, replication: int, in_sync: str) -> None:
    settings = load(tmp_path, FINE).settings(replication)

    assert settings == {
        "cleanup.policy": "delete",
        "max.message.bytes": "1048576",
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": in_sync,
        "retention.ms": "43200000",
        "unclean.leader.election.enable": "false",
    }


def test_nothing_follows_from_a_replication_that_is_not_known_yet(tmp_path: Path) -> None:
    assert "min.insync.replicas" not in load(tmp_path, FINE).settings(None)


def test_a_compacted_topic_keeps_the_last_record_of_every_key_for_ever(tmp_path: Path) -> None:
    content = {key: value for key, value in FINE.items() if key != "retention"} | {"cleanup": "compact"}

    settings = load(tmp_path, content).settings(3)

    assert settings["cleanup.policy"] == "compact"
    assert "retention.ms" not in settings


def test_another_prefix_gives_another_installation_its_own_topics(tmp_path: Path) -> None:
    topic = load(tmp_path, FINE)

    assert topic.renamed("team-a.apex.").name == "team-a.apex.things"
    assert topic.renamed("apex.") == topic


def test_a_topic_may_have_no_key(tmp_path: Path) -> None:
    assert load(tmp_path, FINE | {"key": None}).key is None


LEAVE_OUT = object()


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        ({"retentoin": "7 d"}, "retentoin", "unknown key"),
        ({"retention_ms": 5}, "retention_ms", "unknown key"),
        ({"purpose": LEAVE_OUT}, "purpose", "missing"),
        ({"purpose": " "}, "purpose", "must be text"),
        ({"key": LEAVE_OUT}, "key", "missing"),
        ({"key": 7}, "key", "must be text"),
        ({"name": "apex.other"}, "name", "apex.other in a file for apex.things"),
        ({"name": "things"}, "name", "is no name for a topic"),
        ({"name": "apex.Things"}, "name", "is no name for a topic"),
        ({"value": "task-evnet"}, "value", "no schema for task-evnet"),
        ({"writers": []}, "writers", "must be a list of services"),
        ({"writers": "runner"}, "writers", "must be a list of services"),
        ({"readers": ["runer"]}, "readers", "no service is called 'runer'"),
        ({"partitions": 0}, "partitions", "must be 1 to 1000"),
        ({"partitions": "0 x shared"}, "partitions", "must be 1 to 1000"),
        ({"partitions": "all"}, "partitions", "must be 1 to 1000"),
        ({"partitions": 1001}, "partitions", "must be 1 to 1000"),
        ({"partitions": True}, "partitions", "must be 1 to 1000"),
        ({"partitions": "12"}, "partitions", "must be 1 to 1000"),
        ({"cleanup": "compact"}, "retention", "a compacted topic keeps the last record of every key"),
        ({"cleanup": "archive"}, "cleanup", "must be delete or compact"),
        ({"retention": LEAVE_OUT}, "retention", "missing"),
        ({"retention": "7 days"}, "retention", "not a time like 7 d"),
        ({"retention": "0 d"}, "retention", "not a time like 7 d"),
        ({"retention": 604800000}, "retention", "must be text"),
        ({"each": "tenant"}, "each", "must be tier"),
        ({"configs": ["a"]}, "configs", "must be a mapping"),
        ({"configs": {"retention.ms": 5}}, "configs.retention.ms", "set elsewhere. Use the key retention"),
        (
            {"configs": {"min.insync.replicas": 3}},
            "configs.min.insync.replicas",
            "It follows from the replication factor",
        ),
        ({"configs": {"max message bytes": 5}}, "configs.max message bytes", "no setting of Kafka's"),
        ({"configs": {"segment.ms": [5]}}, "configs.segment.ms", "must be a number, text or true/false"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_mistake_is_refused_with_file_and_key(tmp_path: Path, change: Any, key: str, reason: str) -> None:
    content = {name: value for name, value in (FINE | change).items() if value is not LEAVE_OUT}

    with pytest.raises(InvalidConfiguration) as caught:
        load(tmp_path, content)

    assert caught.value.where == f"{tmp_path / 'topics' / 'apex.things.yaml'}: {key}"
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: [", "not YAML"),
        ("- name", "not a mapping"),
        ("", "not a mapping"),
        ("name: apex.things\npartitions: 1\npartitions: 2\n", "partitions stands twice"),
        ("? [a]\n: b\n? [a]\n: b\n", "not YAML"),
    ],
    ids=["broken", "list", "empty", "key twice", "list as key"],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InvalidConfiguration, match=reason) as caught:
        load(tmp_path, text)

    assert "apex.things.yaml" in caught.value.where
