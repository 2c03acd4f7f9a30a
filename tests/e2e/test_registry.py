"""With a schema registry every topic can be read by a consumer that knows nothing of ApexStream (``make test-registry``).

The registry is a real Apicurio, the consumer confluent-kafka with its Avro deserializer.
"""

import asyncio
import math
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from tests.support.registry import schema_registry
from tests.support.system import processes

from apexstream.cli.serve import SERVICES
from apexstream.client import Client, Task
from apexstream.client.frames import Frame
from apexstream.contracts.catalogue import load_catalogue
from apexstream.contracts.schemas import load_schemas
from apexstream.core.errors import InvalidConfiguration, Unavailable
from apexstream.log.registry import COMPATIBILITY, look_up, register

pytestmark = pytest.mark.registry

CHUNKS = 300
READ_TIMEOUT_S = 30.0
DEADLINE_S = 60.0
UNUSED = {"tasks.high", "tasks.low", "tickets"}  # as tasks.normal; a ticket is used where tokens are asked for


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
        processes(kafka, prefix, *SERVICES, SCHEMA_REGISTRY_URL=registry, APEX_SEAL_AFTER_S="0.2") as url,
        Client(url) as client,
    ):
        async with asyncio.timeout(DEADLINE_S):
            done = await use_everything(client, url)
        topics = [topic.renamed(prefix).name for topic in load_catalogue()]
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            read = read_all(kafka, registry, topics)
            unused = {topic.removeprefix(prefix) for topic, values in read.items() if not values}
            if unused == UNUSED:
                break
    assert unused == UNUSED
    chunks = [chunk for run in read[f"{prefix}chunks"] for chunk in run["chunks"] if run["stream_id"] == done.stream_id]
    assert Counter(chunk["kind"] for chunk in chunks)["data"] == CHUNKS


async def use_everything(client: Client, url: str) -> Task:
    """Something of all that a topic is for; a task that has ``CHUNKS`` chunks."""
    done = await client.submit("probe", "count", {"n": CHUNKS})
    assert (await last(client, done.stream_id)).seq == CHUNKS
    failed = await client.submit("probe", "fail", {"after": 2})
    await last(client, failed.stream_id)
    waiting = await client.submit("probe", "count", {"n": 1_000_000, "interval_s": 1})
    await client.cancel(waiting.task_id)
    await last(client, waiting.stream_id)
    await client.forget(failed.task_id)
    counted = await client.submit("probe", "counts", {"times": 1, "scope": "shared"})
    await last(client, counted.stream_id)
    operators = [{"op": "scan", "give": {"n": "count"}}]
    pipeline = await client.submit_pipeline({"inputs": [{"stream": done.stream_id}], "operators": operators})
    await last(client, pipeline.pipeline_id)
    async with httpx.AsyncClient(base_url=url, timeout=READ_TIMEOUT_S) as http:
        assert (await http.put("/ds/written", headers={"content-type": "text/plain"})).status_code == 201
    return done


async def last(client: Client, stream_id: str) -> Frame:
    """The stream's last frame."""
    return [frame async for frame in client.follow(stream_id)][-1]


def read_all(kafka: str, registry: str, topics: list[str]) -> dict[str, list[dict[str, object]]]:
    """Every value of ``topics``, by topic, as the foreign consumer has it."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
    found: dict[str, list[dict[str, object]]] = {topic: [] for topic in topics}
    with SchemaRegistryClient({"url": registry}) as schemas, closing(consumer):
        decode = AvroDeserializer(schemas)
        last = _last_offsets(consumer, topics)
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for topic, number in last])
        while last:
            record = consumer.poll(READ_TIMEOUT_S)
            assert record is not None, f"nothing more comes of {sorted(last)}"
            assert not record.error()
            topic, number = record.topic(), record.partition()
            if record.value() is not None:
                found[topic].append(decode(record.value(), SerializationContext(topic, MessageField.VALUE)))
            if record.offset() >= last.get((topic, number), math.inf):
                del last[topic, number]
    return found


def _last_offsets(consumer: Consumer, topics: list[str]) -> dict[tuple[str, int], int]:
    """The offset of the last record of each partition that has any."""
    last = {}
    for topic in topics:
        for number in consumer.list_topics(topic, timeout=READ_TIMEOUT_S).topics[topic].partitions:
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=READ_TIMEOUT_S)
            if first < end:
                last[topic, number] = end - 1
    return last
