"""How far a consumer is behind, from what it knows already: nothing is asked of Kafka."""

from collections.abc import Iterable

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition

from apexstream.log.fetcher import Partition


def assigned_lag(consumer: AIOKafkaConsumer, partitions: Iterable[Partition]) -> int:
    """Records of ``partitions`` that ``consumer`` has not given yet, as of its last fetches. Safe from any thread."""
    assignment = consumer._subscription.subscription.assignment  # noqa: SLF001 - position() is only for the loop's thread
    states = [assignment.state_value(TopicPartition(*partition)) for partition in partitions]
    known = [state for state in states if state.highwater is not None and state.has_valid_position]
    return sum(max(0, state.highwater - state.position) for state in known)
