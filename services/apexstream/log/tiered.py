"""The topics that tasks wait in: one a tier, and those of tiers that are not configured any more, which may still hold some."""

import re

import structlog

from apexstream.core.tiers import TIER_PATTERN, Tier, Tiers
from apexstream.log.fetcher import LogReader

_log = structlog.get_logger(__name__)


async def tier_topics(reader: LogReader, start: str, tiers: Tiers) -> dict[str, Tier]:
    """Every topic of tasks, whose name is ``start`` and a tier, with the tier that its tasks are served in.

    What waits in the topic of a tier that was removed is neither lost nor in anybody's way: it is served in the least urgent
    tier.
    """
    configured = {start + tier: tier for tier in tiers.names}
    found = await reader.topics(start)
    left = sorted(t for t in found if t not in configured and re.fullmatch(TIER_PATTERN, t.removeprefix(start)))
    if left:
        _log.info("topics of tiers that are not configured are read as well", topics=left, served_in=tiers.names[-1])
    return configured | dict.fromkeys(left, tiers.names[-1])
