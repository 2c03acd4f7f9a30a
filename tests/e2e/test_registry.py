"""With a schema registry every topic can be read by a consumer that knows nothing of ApexStream (``make test-registry``).

The registry is a real Apicurio, the consumer confluent-kafka with its Avro deserializer.
"""

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from tests.support.registry import schema_registry
from tests.support.system import processes

from apexstream.client import Client
from apexstream.contracts.catalogue import load_catalogue
from apexstream.contracts.schemas import load_schemas
from apexstream.core.errors import InvalidConfiguration, Unavailable
from apexstream.log.registry import COMPATIBILITY, look_up, register

pytestmark = pytest.mark.registry

CHUNKS = 300
READ_TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    with schema_registry() as url:
        yield url


async def test_a_service_says_what_to_do_where_nothing_is_registered(registry: str):
    with pytest.raises(InvalidConfiguration, match="topics apply"):
        await look_up(registry, load_schemas())


async def test_every_version_gets_an_id_under_a_compatibility_that_is_set(registry: str):
    ids = await register(registry, load_schemas())
    assert set(ids) == {schema.name for schema in load_schemas().all}
    assert await look_up(registry, load_schemas()) == ids
    assert await register(registry, load_schemas()) == ids
    with SchemaRegistryClient({"url": registry}) as client:
        assert client.get_compatibility("apexstream.TaskEvent") == COMPATIBILITY


async def test_a_registry_that_is_not_there_is_named():
    with pytest.raises(Unavailable, match="SCHEMA_REGISTRY_URL"):
        await look_up("http://127.0.0.1:9", load_schemas())


async def test_a_foreign_consumer_reads_every_topic(kafka: str, registry: str):
    await register(registry, load_schemas())
    prefix = f"r{uuid.uuid4().hex[:8]}."
    async with (
        processes(kafka, prefix, SCHEMA_REGISTRY_URL=registry, APEX_SEAL_AFTER_S="0.2") as url,
        Client(url) as client,
    ):
        done = await client.submit("probe", "count", {"n": CHUNKS})
        assert [frame async for frame in client.follow(done.stream_id)][-1].seq == CHUNKS
        failed = await client.submit("probe", "fail", {"after": 2})
        _ = [frame async for frame in client.follow(failed.stream_id)]
        waiting = await client.submit("probe", "count", {"n": 1_000_000, "interval_s": 1})
        await client.cancel(waiting.task_id)
        _ = [frame async for frame in client.follow(waiting.stream_id)]
        await client.forget(failed.task_id)
        read = read_all(kafka, registry, [topic.renamed(prefix).name for topic in load_catalogue()])
    chunks = [chunk for run in read[f"{prefix}chunks"] for chunk in run["chunks"] if run["stream_id"] == done.stream_id]
    assert Counter(chunk["kind"] for chunk in chunks)["data"] == CHUNKS
    used = {topic.removeprefix(prefix) for topic, values in read.items() if values}
    assert used >= {
        "assignments",
        "chunks",
        "control",
        "dead-letters",
        "runners",
        "segments",
        "streams",
        "task-events",
        "tasks.normal",
    }


def read_all(kafka: str, registry: str, topics: list[str]) -> dict[str, list[dict[str, object]]]:
    """Every value of ``topics``, by topic, as the foreign consumer has it."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
    found: dict[str, list[dict[str, object]]] = {}
    with SchemaRegistryClient({"url": registry}) as schemas, closing(consumer):
        decode = AvroDeserializer(schemas)
        for topic in topics:
            values = found.setdefault(topic, [])
            for number in consumer.list_topics(topic, timeout=READ_TIMEOUT_S).topics[topic].partitions:
                at = TopicPartition(topic, number)
                first, end = consumer.get_watermark_offsets(at, timeout=READ_TIMEOUT_S)
                at.offset = first
                consumer.assign([at])
                while consumer.position([at])[0].offset < end and first < end:
                    record = consumer.poll(READ_TIMEOUT_S)
                    assert record is not None, f"{topic}/{number} stops before its end"
                    assert not record.error()
                    if record.value() is not None:
                        values.append(decode(record.value(), SerializationContext(topic, MessageField.VALUE)))
    return found
