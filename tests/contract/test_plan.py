"""What has to change for a cluster to have the topics of the catalogue, decided without a cluster."""

from typing import Any

from apexstream.contracts.catalogue import Cleanup, Topic
from apexstream.contracts.plan import CLUSTER_DEFAULT, Action, TopicChange, TopicState, plan

HOUR_MS = 3_600_000


def topic(**changes: Any) -> Topic:
    fields: dict[str, Any] = {
        "name": "apex.things",
        "purpose": "Things.",
        "key": "thing_id",
        "value": "task-event",
        "writers": ("runner",),
        "readers": ("gateway",),
        "partitions": 12,
        "cleanup": Cleanup.DELETE,
        "retention_ms": HOUR_MS,
    }
    return Topic(**fields | changes)


def state(
    *, partitions: int = 12, replication: int = 3, own: frozenset[str] = frozenset(), **settings: str
) -> TopicState:
    in_force = topic().settings(replication) | {"segment.ms": "604800000"}
    named = {name.replace("_", "."): value for name, value in settings.items()}
    return TopicState(partitions=partitions, replication=replication, settings=in_force | named, own=own)


def only(changes: tuple[TopicChange, ...]) -> TopicChange:
    (change,) = changes
    return change


def test_a_topic_that_is_missing_is_created_with_everything_that_it_needs() -> None:
    change = only(plan([topic()], {}, 3))

    assert (change.action, change.partitions, change.replication) == (Action.CREATE, 12, 3)
    assert change.settings == topic().settings(3)
    assert str(change).startswith("apex.things: create: 12 partitions, replication 3, cleanup.policy=delete, ")


def test_what_follows_from_the_clusters_default_replication_is_left_for_later() -> None:
    change = only(plan([topic()], {}, CLUSTER_DEFAULT))

    assert change.replication == CLUSTER_DEFAULT
    assert change.settings == topic().settings(None)


def test_a_topic_that_is_as_it_should_be_is_left_alone() -> None:
    assert plan([topic()], {"apex.things": state()}, 3) == ()
    assert plan([topic()], {"apex.things": state(replication=1)}) == ()


def test_topics_that_the_catalogue_does_not_know_are_none_of_its_business() -> None:
    assert plan([], {"apex.things": state()}) == ()


def test_only_the_settings_that_differ_are_changed() -> None:
    change = only(plan([topic()], {"apex.things": state(retention_ms="5", cleanup_policy="compact")}, 3))

    assert change.action is Action.ALTER
    assert change.settings == {"retention.ms": str(HOUR_MS), "cleanup.policy": "delete"}
    assert change.summary == "cleanup.policy compact → delete, retention.ms 5 → 3600000"


def test_min_insync_replicas_follows_the_copies_that_a_topic_has() -> None:
    change = only(plan([topic()], {"apex.things": state(replication=3, min_insync_replicas="1")}))

    assert change.settings == {"min.insync.replicas": "2"}


def test_another_replication_needs_a_human() -> None:
    change = only(plan([topic()], {"apex.things": state(replication=1)}, 3))

    assert change.action is Action.NEEDS_HUMAN
    assert "replication 1, should be 3" in change.summary


def test_a_setting_of_the_topic_that_the_catalogue_does_not_name_needs_a_human() -> None:
    existing = state(own=frozenset({"segment.ms", "retention.ms"}), segment_ms="60000")

    change = only(plan([topic()], {"apex.things": existing}, 3))

    assert change.action is Action.NEEDS_HUMAN
    assert change.summary == "set on the topic but not in the catalogue: segment.ms=60000"


def test_fewer_partitions_than_there_are_need_a_human() -> None:
    change = only(plan([topic()], {"apex.things": state(partitions=24)}, 3, force=True))

    assert (change.action, change.summary) == (Action.NEEDS_HUMAN, "partitions 24 → 12")
    assert "Kafka cannot remove partitions" in change.warning


def test_more_partitions_for_a_keyed_topic_need_a_human() -> None:
    change = only(plan([topic()], {"apex.things": state(partitions=6)}, 3))

    assert (change.action, change.partitions) == (Action.NEEDS_HUMAN, 0)
    assert "every thing_id may move to another partition" in change.warning
    assert "force it only" in change.warning


def test_more_partitions_for_a_keyed_topic_can_be_forced_and_still_warn() -> None:
    change = only(plan([topic()], {"apex.things": state(partitions=6)}, 3, force=True))

    assert (change.action, change.partitions) == (Action.ADD_PARTITIONS, 12)
    assert "every thing_id may move to another partition" in change.warning


def test_a_topic_without_keys_just_gets_its_partitions() -> None:
    change = only(plan([topic(key=None)], {"apex.things": state(partitions=6)}, 3))

    assert (change.action, change.warning) == (Action.ADD_PARTITIONS, "")
    assert str(change) == "apex.things: add partitions: partitions 6 → 12"
