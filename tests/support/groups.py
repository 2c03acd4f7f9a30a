"""Who is in a consumer group."""

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment


async def members(bootstrap: str, group: str) -> dict[str, frozenset[int]]:
    """The members by client id, with the partitions of each, of whatever topic; empty while the group rebalances."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        (answer,) = await client.describe_consumer_groups([group])
    finally:
        await client.close()
    _, _, state, _, _, found, *_ = answer.groups[0]
    if state != "Stable":
        return {}
    owned: dict[str, frozenset[int]] = {}
    for _, client_id, *_, assignment in found:
        decoded = ConsumerProtocolMemberAssignment.decode(assignment)
        owned[client_id] = frozenset(p for _, partitions in decoded.assignment for p in partitions)
    return owned
