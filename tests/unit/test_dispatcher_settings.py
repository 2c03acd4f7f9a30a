"""The policy that settings describe, and what is refused."""

import pytest

from apexstream.core.errors import InvalidConfiguration
from apexstream.core.tiers import Tier
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
        reserved={Tier.NORMAL: 3, Tier.LOW: 5},
        oldest_every=2,
        tenant_weights={"acme": 2.5},
        rates={"corpus.analyze": Rate(per_s=5.0, burst=10), "longrun.digest": Rate(per_s=0.5)},
        passes_max=7,
        starting_max=9,
        preempt=True,
    )


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("tier_shares", "normal", "'normal' is no name=value"),
        ("tier_shares", "urgent=4,low=5", "'urgent' is not a tier"),
        ("tier_shares", "normal=4,low=x", "'x' is not a whole number"),
        ("tier_shares", "normal=4", "must name exactly normal, low"),
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
