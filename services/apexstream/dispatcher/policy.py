"""The rules of the order of work, frozen, and what follows from them: how long a task can wait, in task slots.

A slot is one start of a task, anywhere. A bound in slots holds whatever the tasks do; how long a slot takes is theirs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from apexstream.core.errors import InvalidConfiguration
from apexstream.core.tiers import DEFAULT_TIERS, Tier, Tiers


def usual_shares(tiers: Tiers) -> dict[Tier, int]:
    """One of 4 starts for the first lower tier, then one of 10, 20, 30, …: the highest keeps at least two fifths."""
    return {tier: 4 if place == 0 else 10 * place for place, tier in enumerate(tiers.lower)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most ``burst`` starts at once and ``per_s`` a second in the long run."""

    per_s: float
    burst: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How waiting tasks are chosen.

    Tiers are served strictly in their order, except that a lower tier gets at least one of every ``reserved[tier]`` slots
    while it has a task that can start. Inside a tier tenants share by weight, except that every ``oldest_every``-th start is
    the tier's oldest task: this ageing is what bounds the wait, however many tenants there are.
    """

    tiers: Tiers = DEFAULT_TIERS
    reserved: Mapping[Tier, int] = field(default_factory=lambda: usual_shares(DEFAULT_TIERS))
    oldest_every: int = 4
    tenant_weights: Mapping[str, float] = field(default_factory=dict)  # 1 where none is named
    rates: Mapping[str, Rate] = field(default_factory=dict)  # by "plugin.action"
    passes_max: int = (
        20  # a task too large for the room there is may be passed over this often, then room is kept for it
    )
    starting_max: int = 24  # tasks that a runner was given and has not begun; more would only wait there, out of order
    preempt: bool = False  # park preemptible tasks of lower tiers for waiting ones of the highest
    runner_silent_us_max: int = 15_000_000  # a runner that has not announced itself for this long is gone
    outcomes_max: int = 500_000  # ended tasks that are remembered, for those that come after them
    remembered_requests_max: int = 100_000  # cancels and changes of tasks that were not read yet

    def __post_init__(self) -> None:
        """Refuse rules that contradict each other."""
        if set(self.reserved) != set(self.tiers.lower):
            raise InvalidConfiguration(f"must name exactly {', '.join(self.tiers.lower)}", where="reserved")
        if any(every < 1 for every in self.reserved.values()) or self._shared() >= 1:
            raise InvalidConfiguration(
                "the lower tiers' shares must leave some for the highest",
                where="reserved",
                hint="Use whole numbers whose reciprocals add up to less than 1",
            )
        if self.starting_max < 1:
            raise InvalidConfiguration("must be positive", where="starting_max")
        if self.oldest_every < 1 or any(weight <= 0 for weight in self.tenant_weights.values()):
            raise InvalidConfiguration("must be positive", where="oldest_every, tenant_weights")

    @property
    def lower_share(self) -> float:
        """The part of all slots that is reserved for lower tiers."""
        return float(self._shared())

    def _shared(self) -> Fraction:
        return sum((Fraction(1, every) for every in self.reserved.values()), Fraction(0))

    def slots_for(self, tier: Tier, starts: int) -> int:
        """The most slots that pass until ``tier`` has had ``starts`` of them, if it has a startable task all the time."""
        if tier in self.reserved:
            # When its turn has come, each other lower tier may be as late and go first once.
            return starts * (self.reserved[tier] + len(self.reserved) - 1)
        return math.ceil((starts + len(self.reserved)) / (1 - self.lower_share))

    def worst_wait_slots(self, tier: Tier, ahead: int) -> int:
        """The most slots, its own included, until a task starts that became ready with ``ahead`` others of its tier ready
        before it, and that can start whenever a slot is free."""
        in_turn = self.slots_for(tier, (ahead + 1) * self.oldest_every)
        return in_turn + in_turn // self.passes_max + 1  # a task that a runner was kept for starts out of turn

    def weight(self, tenant: str) -> float:
        """A tenant's part of its tier, relative to the others'."""
        return self.tenant_weights.get(tenant, 1.0)
