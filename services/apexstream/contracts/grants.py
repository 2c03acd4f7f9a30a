"""What each service may do on the cluster, derived from the catalogue: nothing that it does not need.

A service is a principal of its own name. Who creates topics (``apexstream topics apply``) is an administrator and not here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from apexstream.contracts.catalogue import SERVICES, Topic


class Resource(StrEnum):
    """What a grant is about."""

    TOPIC = "topic"
    GROUP = "group"


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """``service`` may do ``operations`` (Kafka's words, as READ) on the resource called ``name``.

    With ``prefix`` on every resource whose name starts so.
    """

    service: str
    resource: Resource
    name: str
    operations: tuple[str, ...]
    prefix: bool = False


def grants(topics: Sequence[Topic], topic_prefix: str) -> list[Grant]:
    """All grants that an installation with these ``topics`` (named with ``topic_prefix``) needs, in order."""
    return sorted(grant for service in SERVICES for grant in _of(service, topics, topic_prefix))


def _of(service: str, topics: Sequence[Topic], topic_prefix: str) -> list[Grant]:
    on_topics = [
        Grant(service, Resource.TOPIC, topic.name, operations)
        for topic in topics
        if (operations := _operations(service, topic))
    ]
    # Groups are named `<prefix><service>s`; Kafka lets a group's members read its offsets and commit with READ.
    on_groups = [Grant(service, Resource.GROUP, topic_prefix + service, ("READ",), prefix=True)]
    return on_topics + on_groups if on_topics else []


def _operations(service: str, topic: Topic) -> tuple[str, ...]:
    wanted = {
        "READ": service in topic.readers,
        "WRITE": service in topic.writers,
        "DELETE": service in topic.trimmers,
        "DESCRIBE": service in {*topic.readers, *topic.writers, *topic.trimmers},
    }
    return tuple(operation for operation, needed in wanted.items() if needed)
