"""The policy that the settings describe. Pure."""

from collections.abc import Iterator

from apexstream.core.errors import InvalidConfiguration
from apexstream.core.tiers import Tier, Tiers
from apexstream.dispatcher.policy import Policy, Rate, usual_shares
from apexstream.runtime.settings import Settings


def policy_of(settings: Settings) -> Policy:
    """Raises :class:`InvalidConfiguration` that names the variable and what it must look like."""
    tiers = settings.tier_order
    shares = _pairs(settings.tier_shares, "TIER_SHARES")
    named = {_lower(name, tiers): _whole(text, "APEX_TIER_SHARES") for name, text in shares}
    return Policy(
        tiers=tiers,
        reserved=usual_shares(tiers) | named,
        oldest_every=settings.oldest_every,
        tenant_weights={
            name: _number(text, "APEX_TENANT_WEIGHTS")
            for name, text in _pairs(settings.tenant_weights, "TENANT_WEIGHTS")
        },
        rates={name: _rate(text) for name, text in _pairs(settings.action_rates, "ACTION_RATES")},
        passes_max=settings.passes_max,
        starting_max=settings.starting_max,
        preempt=settings.preempt == "on",
    )


def _pairs(text: str, name: str) -> Iterator[tuple[str, str]]:
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise InvalidConfiguration(f"{part!r} is no name=value", where=f"APEX_{name}")
        yield key.strip(), value.strip()


def _lower(name: str, tiers: Tiers) -> Tier:
    if name not in tiers.lower:
        hint = f"Use {', '.join(tiers.lower)}" if tiers.lower else "There is one tier only, which has all starts"
        raise InvalidConfiguration(f"{name!r} is not a lower tier", where="APEX_TIER_SHARES", hint=hint)
    return name


def _whole(text: str, where: str) -> int:
    if not text.isdecimal():
        raise InvalidConfiguration(f"{text!r} is not a whole number", where=where)
    return int(text)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidConfiguration(f"{text!r} is not a number", where=where) from None


def _rate(text: str) -> Rate:
    per_s, _, burst = text.partition("/")
    rate = Rate(per_s=_number(per_s, "APEX_ACTION_RATES"), burst=_whole(burst or "1", "APEX_ACTION_RATES"))
    if rate.per_s <= 0 or rate.burst < 1:
        raise InvalidConfiguration(
            f"{text!r} lets nothing start", where="APEX_ACTION_RATES", hint="Use starts a second / burst, as 5/10"
        )
    return rate
