"""The topics of the catalogue on a real cluster."""

import asyncio
import logging
import socket
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from apexstream.contracts.catalogue import Topic, load_catalogue
from apexstream.contracts.plan import Action
from apexstream.core.errors import InvalidConfiguration, Unavailable
from apexstream.log import admin


@pytest.fixture
def topics(topic_prefix: str) -> list[Topic]:
    """The catalogue, small enough to be created often."""
    return [replace(topic.renamed(topic_prefix), partitions=2) for topic in load_catalogue()]


async def settings_of(kafka: str, topic: str) -> Mapping[str, str]:
    """The settings in force, asked by other means than ours."""
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    try:
        (answer,) = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        return {name: value for name, value, *_ in answer.resources[0][4]}
    finally:
        await client.close()


async def partitions_of(kafka: str, topic: str) -> list[int]:
    """The leaders of the topic's partitions."""
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    try:
        (description,) = await client.describe_topics([topic])
        return [partition["leader"] for partition in description["partitions"]]
    finally:
        await client.close()


async def test_missing_topics_are_created_and_have_leaders_at_once(kafka: str, topics: list[Topic]) -> None:
    changes = await admin.apply(topics, kafka)

    assert [(change.topic, change.action) for change in changes] == [(topic.name, Action.CREATE) for topic in topics]
    for topic in topics:
        leaders = await partitions_of(kafka, topic.name)
        assert len(leaders) == topic.partitions
        assert min(leaders) >= 0


async def test_topics_get_the_settings_of_the_catalogue(kafka: str, topics: list[Topic]) -> None:
    await admin.apply(topics, kafka)

    for topic in topics:
        assert topic.settings(1).items() <= (await settings_of(kafka, topic.name)).items()


async def test_applying_again_changes_nothing(kafka: str, topics: list[Topic]) -> None:
    await admin.apply(topics, kafka)

    assert await admin.diff(topics, kafka) == ()
    assert await admin.apply(topics, kafka) == ()


async def test_a_diff_says_what_would_be_done_and_does_not_do_it(kafka: str, topics: list[Topic]) -> None:
    announced = await admin.diff(topics, kafka)

    assert await admin.diff(topics, kafka) == announced
    assert await admin.apply(topics, kafka) == announced


async def test_a_differing_setting_is_changed_and_the_others_are_left_alone(kafka: str, topics: list[Topic]) -> None:
    topic = topics[0]
    await admin.apply([replace(topic, configs={"segment.ms": "60000", "max.message.bytes": "500000"})], kafka)

    changes = await admin.apply([replace(topic, configs={"max.message.bytes": "600000"})], kafka)

    settings = await settings_of(kafka, topic.name)
    assert (settings["max.message.bytes"], settings["segment.ms"]) == ("600000", "60000")
    assert [(change.action, change.summary) for change in changes] == [
        (Action.ALTER, "max.message.bytes 500000 → 600000"),
        (Action.NEEDS_HUMAN, "set on the topic but not in the catalogue: segment.ms=60000"),
    ]


async def test_partitions_of_a_keyed_topic_are_only_added_by_force(kafka: str, topics: list[Topic]) -> None:
    await admin.apply(topics[:1], kafka)
    larger = [replace(topics[0], partitions=5)]

    (refused,) = await admin.apply(larger, kafka)
    before = await partitions_of(kafka, topics[0].name)
    (forced,) = await admin.apply(larger, kafka, force=True)

    assert (refused.action, len(before)) == (Action.NEEDS_HUMAN, 2)
    assert (forced.action, len(await partitions_of(kafka, topics[0].name))) == (Action.ADD_PARTITIONS, 5)


async def test_several_processes_may_apply_at_once(kafka: str, topics: list[Topic]) -> None:
    await asyncio.gather(*(admin.apply(topics, kafka) for _ in range(4)))

    assert await admin.diff(topics, kafka) == ()


async def test_more_copies_than_brokers_are_refused_before_anything_is_created(kafka: str, topics: list[Topic]) -> None:
    with pytest.raises(InvalidConfiguration, match="APEX_REPLICATION: replication 9, but only"):
        await admin.apply(topics, kafka, 9)

    assert len(await admin.diff(topics, kafka)) == len(topics)


async def test_a_setting_that_the_cluster_does_not_know_is_refused_with_its_topic(
    kafka: str, topics: list[Topic]
) -> None:
    with pytest.raises(InvalidConfiguration, match=r"no\.such\.setting") as caught:
        await admin.apply([replace(topics[0], configs={"no.such.setting": "1"})], kafka)

    assert caught.value.where == topics[0].name


async def test_nobody_listening_is_unavailable_at_once(topics: list[Topic], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "aiokafka")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(Unavailable, match="Kafka cannot be reached") as caught:
            await admin.diff(topics, address, timeout_s=5)

    assert caught.value.where == address
    assert "KAFKA_BOOTSTRAP_SERVERS" in caught.value.hint


async def test_an_address_that_never_answers_is_unavailable_at_the_deadline(
    topics: list[Topic], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "aiokafka")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()

        with pytest.raises(Unavailable) as caught:
            await admin.apply(topics, f"{address},{address}", timeout_s=0.5)

        assert time.monotonic() - started < 2
    assert caught.value.where == f"{address},{address}"
