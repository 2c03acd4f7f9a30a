"""Priority tiers: the order in which waiting tasks are served, one Kafka topic each."""

from enum import StrEnum


class Tier(StrEnum):
    """A task's priority. Members are declared from the most to the least urgent; the dispatcher relies on it."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
