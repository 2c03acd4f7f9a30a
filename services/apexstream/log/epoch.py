"""Which log it is: the id that Kafka gave a topic. A topic that was deleted and made again has another."""

import uuid
from typing import Any

from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    AbstractType,
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)


class Uuid(AbstractType[bytes]):  # type: ignore[misc]  # aiokafka is not typed
    """16 bytes."""

    @classmethod
    def decode(cls, data: Any) -> bytes:
        """As they lie in the answer."""
        return bytes(data.read(16))

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        """As they go into the request."""
        return value


class DescribeTopicIdResponse_v12(Response):  # type: ignore[misc]  # noqa: N801, named as its siblings in aiokafka
    """Answer to :class:`DescribeTopicIdRequest_v12`."""

    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString("utf-8")),
                ("topic_id", Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeTopicIdRequest_v12(RequestStruct):  # type: ignore[misc]  # noqa: N801, named as its siblings in aiokafka
    """Kafka's Metadata request in the first version that everyone has and that gives topic ids."""

    API_KEY = 3
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = DescribeTopicIdResponse_v12
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", Uuid), ("topic", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class DescribeTopicIdRequest(Request[DescribeTopicIdRequest_v12]):  # type: ignore[misc]
    """Asks for one topic. aiokafka's own Metadata request stops at version 5, which has no ids."""

    API_KEY = 3

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def build(self, request_struct_class: type[DescribeTopicIdRequest_v12]) -> DescribeTopicIdRequest_v12:
        """The request as it goes over the wire."""
        return request_struct_class([(bytes(16), self._topic, {})], False, False, {})


def topic_id(answer: Any) -> str:
    """The id in the answer to a :class:`DescribeTopicIdRequest`; empty if the broker does not know the topic (yet)."""
    code, _, identity, *_ = answer.topics[0]
    return "" if code or not any(identity) else str(uuid.UUID(bytes=identity))
