"""What the routes of all protocols are made of."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from apexstream.core.tiers import Tiers
from apexstream.gateway.access import Access
from apexstream.gateway.cursors import Cursors
from apexstream.gateway.hub import Hub
from apexstream.gateway.ownership import Ownership
from apexstream.gateway.registry import Registry
from apexstream.runtime.clock import Clock

Publish = Callable[[str, str, Any], Awaitable[object]]
"""Appends an event (None: a tombstone) to the named topic (without prefix), keyed by task id; returns once acknowledged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """``name`` is this gateway's in events; ``is_ready`` gives the reason why it is not, or an empty text."""

    registry: Registry
    ownership: Ownership
    access: Access
    hub: Hub
    cursors: Cursors
    publish: Publish
    clock: Clock
    tiers: Tiers
    new_task_id: Callable[[], str]
    name: str
    is_ready: Callable[[], str]
