"""What the active dispatcher shows in metrics: the numbers of its report."""

from collections.abc import Mapping
from typing import Any

from apexstream.core.tiers import Tiers
from apexstream.runtime import meters


def show(report: Mapping[str, Any]) -> None:
    """Put a report (see :meth:`apexstream.dispatcher.queue_report.QueueReport.state`) into the gauges."""
    for told in report["tiers"]:
        tier = str(told["tier"])
        meters.DISPATCHER_READY.of(tier).value = told["ready"]
        meters.DISPATCHER_OLDEST.of(tier).value = told["oldest_ready_s"]
        meters.DISPATCHER_WORST_WAIT.of(tier).value = told["worst_wait_slots"] or 0
        meters.DISPATCHER_STUCK.of(tier).value = sum(group["tasks"] for group in told["stuck"])
    meters.DISPATCHER_HELD.of().value = report["held"]
    meters.DISPATCHER_GIVEN.of().value = report["active"]


def began() -> None:
    """This dispatcher is the active one."""
    meters.DISPATCHER_TERMS.of().value += 1
    meters.DISPATCHER_ACTIVE.of().value = 1


def ended(tiers: Tiers) -> None:
    """It is not any more: nothing waits here."""
    meters.DISPATCHER_ACTIVE.of().value = 0
    nothing = {"ready": 0, "oldest_ready_s": 0.0, "worst_wait_slots": 0, "stuck": ()}
    show({"tiers": [{"tier": tier, **nothing} for tier in tiers.names], "held": 0, "active": 0})
