"""The consumer of aiokafka, with one thing put right: it heeds an answer that says no committed offsets can be told now.

Since version 2 of the request a broker says so (coordinator still loading, or no longer the one) once for the whole answer.
aiokafka 0.14 reads only the codes of single partitions, takes such an answer for "nothing was ever committed", and begins
every partition from its start: right after a broker came back, all finished work would be taken up again.
"""

from collections.abc import Iterable
from typing import Any

import aiokafka.consumer.consumer
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import NoError, for_code
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import TopicPartition


class HeedfulCoordinator(GroupCoordinator):  # type: ignore[misc]  # aiokafka is untyped
    """Raises the error of a whole answer, so that the caller asks again."""

    async def _send_req(self, request: Any) -> Any:
        response = await super()._send_req(request)
        if isinstance(request, OffsetFetchRequest):
            error = for_code(getattr(response, "error_code", 0))
            if error is not NoError:
                self.coordinator_dead()  # look for it again: it may be another by now
                raise error()
        return response


def group_consumer(*topics: str, **options: Any) -> AIOKafkaConsumer:
    """An :class:`AIOKafkaConsumer` that can trust what it is told of committed offsets."""
    aiokafka.consumer.consumer.GroupCoordinator = HeedfulCoordinator
    return AIOKafkaConsumer(*topics, **options)


async def committed_offsets(
    consumer: AIOKafkaConsumer, partitions: Iterable[tuple[str, int]]
) -> dict[tuple[str, int], tuple[int, str]]:
    """The (next offset, metadata) that ``consumer``'s group has committed, by partition; (-1, "") where nothing was."""
    tps = [TopicPartition(*partition) for partition in partitions]
    found = await consumer._coordinator.fetch_committed_offsets(tps)  # noqa: SLF001 - no public way to the metadata
    return {(tp.topic, tp.partition): (found[tp].offset, found[tp].metadata) if tp in found else (-1, "") for tp in tps}
