"""The policy that settings describe, and what is refused."""

import pytest

from apexstream.core.errors import InvalidConfiguration, InvalidRequest
from apexstream.core.tiers import DEFAULT_TIERS, Tiers
from apexstream.dispatcher.configured import policy_of
from apexstream.dispatcher.lease import Lease
from apexstream.dispatcher.policy import Policy, Rate
from apexstream.runtime.settings import Settings


def test_the_settings_by_default_are_the_policy_by_default() -> None:
    assert policy_of(Settings()) == Policy()


def test_every_rule_can_be_set() -> None:
    policy = policy_of(
        Settings(
            tier_shares="low=5, normal=3",
            oldest_every=2,
            tenant_weights="acme=2.5",
            action_rates="corpus.analyze=5/10,longrun.digest=0.5",
            passes_max=7,
            starting_max=9,
            preempt="on",
        )
    )
    assert policy == Policy(
        reserved={"normal": 3, "low": 5},
        oldest_every=2,
        tenant_weights={"acme": 2.5},
        rates={"corpus.analyze": Rate(per_s=5.0, burst=10), "longrun.digest": Rate(per_s=0.5)},
        passes_max=7,
        starting_max=9,
        preempt=True,
    )


def test_more_tiers_have_smaller_shares_unless_these_are_set() -> None:
    five = policy_of(Settings(tiers="urgent, high, normal, low, idle", tier_shares="low=7"))

    assert five.tiers == Tiers(("urgent", "high", "normal", "low", "idle"), "normal")
    assert five.reserved == {"high": 4, "normal": 10, "low": 7, "idle": 30}


@pytest.mark.parametrize("count", [1, 2, 16])
def test_the_usual_shares_leave_the_highest_tier_two_fifths_whatever_number_of_tiers_there_is(count: int) -> None:
    names = [f"t{n}" for n in range(count)]

    policy = policy_of(Settings(tiers=",".join(names), tier_default="t0"))

    assert list(policy.reserved) == names[1:]
    assert 1 - policy.lower_share >= 0.4


def test_the_default_tier_is_normal_or_the_one_that_is_set() -> None:
    assert Settings().tier_order == DEFAULT_TIERS
    assert Settings(tiers="a,normal,b").tier_order.default == "normal"
    assert Settings(tiers="a,normal,b", tier_default="b").tier_order.default == "b"


def test_a_tier_that_is_not_configured_any_more_is_served_as_the_least_urgent_one() -> None:
    tiers = Tiers.named("high,normal")

    assert [tiers.served(name) for name in ("high", "normal", "low")] == ["high", "normal", "normal"]
    with pytest.raises(InvalidRequest, match=r"'low' is not a tier.*Use high, normal"):
        tiers.check("low")


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("tier_shares", "normal", "'normal' is no name=value"),
        ("tier_shares", "urgent=4,low=5", "'urgent' is not a lower tier"),
        ("tier_shares", "high=4", "'high' is not a lower tier"),
        ("tier_shares", "normal=4,low=x", "'x' is not a whole number"),
        ("tier_shares", "normal=0", "must leave some for the highest"),
        ("tiers", "urgent,Normal", "'Normal' is no name for a tier"),
        ("tiers", "high,normal,", "'' is no name for a tier"),
        ("tiers", "a-,b", "'a-' is no name for a tier"),
        ("tiers", "normal,low,normal", "names a tier twice"),
        ("tiers", ",".join(f"t{n}" for n in range(17)), "17 tiers; there must be 1 to 16"),
        ("tiers", "urgent,batch", "there is no tier normal, and no other default"),
        ("tier_default", "urgent", "'urgent' is not a tier"),
        ("tier_shares", "normal=2,low=2", "must leave some for the highest"),
        ("tenant_weights", "acme=much", "'much' is not a number"),
        ("tenant_weights", "acme=0", "must be positive"),
        ("action_rates", "corpus.analyze=0", "lets nothing start"),
    ],
)
def test_rules_that_make_no_sense_are_refused(setting: str, value: str, told: str) -> None:
    with pytest.raises(InvalidConfiguration, match=told):
        policy_of(Settings(**{setting: value}))


def test_a_standby_waits_for_silence_or_a_goodbye() -> None:
    lease = Lease(silent_s_max=3.0, now_s=100.0)
    assert lease.left_s(101.0) == 2.0
    lease.heard(5, 102.0)
    assert lease.left_s(102.0) == 3.0
    lease.heard(4, 104.0)  # of a dispatcher that was replaced: it proves nothing
    assert lease.left_s(104.0) == 1.0
    lease.goodbye(104.0)
    assert lease.left_s(104.0) == 0.0
    assert lease.epoch == 5
