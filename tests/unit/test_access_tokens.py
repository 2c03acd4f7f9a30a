"""Tokens and keys: what is accepted, and with which word everything else is refused."""

import asyncio
import json
from dataclasses import dataclass, field

import pytest
from tests.support.forgeries import FORGERIES, RSA_KID
from tests.support.tokens import Issuer, rsa_jwk, rsa_key

from apexstream.core.errors import InvalidConfiguration, Unavailable
from apexstream.gateway.access.build import policy_of
from apexstream.gateway.access.issue import public_jwk
from apexstream.gateway.access.keys import STALE_S_MAX, UNKNOWN_KEY_S, KeyRing, load_from, read_keys
from apexstream.gateway.access.principal import OPEN, Principal, Verb, read_scopes, sees
from apexstream.gateway.access.tokens import TokenPolicy, TokenRefused, kid_of, read_token
from apexstream.runtime.clock import SystemClock
from apexstream.runtime.settings import Settings

POLICY = TokenPolicy(
    algorithms=("EdDSA", "RS256"),
    issuer="apexstream",
    audience="apexstream",
    leeway_s=30.0,
    lifetime_s_max=3_600.0,
    tenant_claim="tenant",
    scope_claim="scope",
)
ALGORITHMS = frozenset(POLICY.algorithms)
RSA = rsa_key()
CLOCK = SystemClock()


@dataclass
class Source:
    """A key set that can change and fail."""

    data: bytes
    reads: int = 0
    down: bool = False

    async def __call__(self) -> bytes:
        self.reads += 1
        if self.down:
            raise Unavailable("no answer")
        return self.data


@dataclass
class HandClock:
    """Time stands still until a test moves it."""

    at: float = 1_000.0
    calls: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.at

    def now_us(self) -> int:
        return int(self.at * 1e6)


def both_keys(issuer: Issuer) -> dict[str | None, object]:
    keys = [public_jwk(issuer.key), rsa_jwk(RSA, RSA_KID)]
    return read_keys(json.dumps({"keys": keys}).encode(), ALGORITHMS)


async def verified(issuer: Issuer, token: str, policy: TokenPolicy = POLICY, now_s: float | None = None) -> Principal:
    data = json.dumps({"keys": [public_jwk(issuer.key), rsa_jwk(RSA, RSA_KID)]}).encode()
    ring = KeyRing(Source(data), policy.algorithms, CLOCK, fresh_s=300.0)
    return read_token(token, await ring.key(kid_of(token)), policy, now_s or CLOCK.now_us() / 1e6)


async def test_a_good_token_is_a_principal() -> None:
    issuer = Issuer()
    token = issuer.token("read:reports-*", "submit:corpus.*", "openid")

    principal = await verified(issuer, token)

    assert (principal.subject, principal.tenant) == ("alice", "acme")
    assert [str(scope) for scope in principal.scopes] == ["read:reports-*", "submit:corpus.*"]
    assert principal.expires == pytest.approx(CLOCK.now_us() / 1e6 + 600, abs=2)


@pytest.mark.parametrize("name", FORGERIES)
async def test_b32_a_forgery_is_refused_with_one_word(name: str) -> None:
    issuer = Issuer()
    make, reason = FORGERIES[name]

    with pytest.raises(TokenRefused) as refused:
        await verified(issuer, make(issuer, RSA))

    assert refused.value.reason == reason
    assert str(refused.value) == f"token: the token is refused: {reason}. Get a new one and try again"


def test_there_are_sixteen_forgeries() -> None:
    assert len(FORGERIES) == 16


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"sub": None}, "claims"),
        ({"sub": 7}, "malformed"),
        ({"sub": "a\nb"}, "claims"),
        ({"sub": "x" * 257}, "claims"),
        ({"tenant": None}, "tenant"),
        ({"tenant": "*"}, "tenant"),
        ({"tenant": ["acme"]}, "tenant"),
        ({"tenant": ""}, "tenant"),
        ({"scope": 7}, "claims"),
        ({"scope": ["read", 7]}, "claims"),
        ({"exp": True}, "claims"),
        ({"exp": 1e308 * 10}, "claims"),
        ({"exp": 99_999_999_999}, "lifetime"),
        ({"aud": ["elsewhere"]}, "audience"),
    ],
)
async def test_claims_that_say_something_else_are_refused(claims: dict[str, object], reason: str) -> None:
    issuer = Issuer()
    with pytest.raises(TokenRefused) as refused:
        await verified(issuer, issuer.sign(issuer.claims(**claims)))
    assert refused.value.reason == reason


@pytest.mark.parametrize("kind", ["logout+jwt", 7, "dpop+jwt"])
async def test_a_token_of_another_type_is_refused(kind: object) -> None:
    issuer = Issuer()
    with pytest.raises(TokenRefused, match="malformed"):
        await verified(issuer, issuer.sign(issuer.claims(), typ=kind))


async def test_clocks_may_differ_by_the_leeway_and_no_more() -> None:
    issuer = Issuer()
    token = issuer.token("read", now_s=10_000.0, life_s=100.0)

    assert (await verified(issuer, token, now_s=10_129.0)).expires == 10_100.0
    with pytest.raises(TokenRefused, match="expired"):
        await verified(issuer, token, now_s=10_131.0)
    assert await verified(issuer, token, now_s=9_971.0)
    with pytest.raises(TokenRefused, match="clock"):
        await verified(issuer, token, now_s=9_969.0)


async def test_without_a_tenant_claim_everybody_is_of_the_nameless_tenant() -> None:
    issuer = Issuer()
    policy = policy_of(Settings(auth_tenant_claim="none"))
    assert (await verified(issuer, issuer.sign(issuer.claims(tenant=None)), policy)).tenant == ""


@pytest.mark.parametrize("algorithms", ["HS256", "none", "EdDSA,HS256", " , "])
def test_algorithms_with_a_shared_secret_are_no_configuration(algorithms: str) -> None:
    with pytest.raises(InvalidConfiguration, match="APEX_AUTH_ALGORITHMS"):
        policy_of(Settings(auth_algorithms=algorithms))


# Keys.


async def test_a_new_key_is_found_at_once_and_an_unknown_one_asks_the_source_twice_a_minute_at_most() -> None:
    old, new, clock = Issuer(), Issuer(), HandClock()
    source = Source(old.jwks)
    ring = KeyRing(source, POLICY.algorithms, clock, fresh_s=300.0)
    await ring.key(kid_of(old.token()))
    clock.at += UNKNOWN_KEY_S
    source.data = new.jwks

    assert (await ring.key(kid_of(new.token()))).key_id == kid_of(new.token())
    with pytest.raises(TokenRefused, match="key"):
        await ring.key(kid_of(old.token()))
    for _ in range(50):
        with pytest.raises(TokenRefused, match="key"):
            await ring.key("nobody's")
    assert source.reads == 2
    clock.at += UNKNOWN_KEY_S
    with pytest.raises(TokenRefused, match="key"):
        await ring.key("nobody's")
    assert source.reads == 3


async def test_a_source_that_is_down_changes_nothing_until_the_keys_are_stale() -> None:
    issuer, clock = Issuer(), HandClock()
    source = Source(issuer.jwks)
    ring = KeyRing(source, POLICY.algorithms, clock, fresh_s=300.0)
    kid = kid_of(issuer.token())
    await ring.key(kid)
    source.down = True

    clock.at += 301
    assert [(await ring.key(kid)).key_id for _ in range(20)] == [kid] * 20
    assert source.reads == 2
    clock.at += STALE_S_MAX
    with pytest.raises(Unavailable):
        await ring.key(kid)
    source.down = False
    clock.at += UNKNOWN_KEY_S
    assert (await ring.key(kid)).key_id == kid


async def test_many_at_once_read_the_source_once() -> None:
    issuer = Issuer()
    source = Source(issuer.jwks)
    ring = KeyRing(source, POLICY.algorithms, HandClock(), fresh_s=300.0)
    await asyncio.gather(*(ring.key(kid_of(issuer.token())) for _ in range(20)))
    assert source.reads == 1


async def test_without_an_id_only_an_only_key_is_meant() -> None:
    issuer, other = Issuer(), Issuer()
    one = KeyRing(Source(issuer.jwks), POLICY.algorithms, HandClock(), fresh_s=300.0)
    two = json.dumps({"keys": [public_jwk(issuer.key), public_jwk(other.key)]}).encode()
    both = KeyRing(Source(two), POLICY.algorithms, HandClock(), fresh_s=300.0)

    assert (await one.key(None)).key_id == public_jwk(issuer.key)["kid"]
    with pytest.raises(TokenRefused, match="key"):
        await both.key(None)


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "a"}],
        [{"kty": "RSA", "n": "!", "e": "AQAB", "kid": "a"}],
        [{**rsa_jwk(RSA, "a"), "use": "enc"}],
        [{**rsa_jwk(RSA, "a"), "alg": "RS512"}],
        [{"kid": "no type"}],
    ],
)
def test_a_set_without_a_usable_key_is_no_configuration(keys: list[object]) -> None:
    with pytest.raises(InvalidConfiguration, match="no key for the allowed algorithms"):
        read_keys(json.dumps({"keys": keys}).encode(), ALGORITHMS)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{}", b"[" * 100_000])
def test_what_is_no_key_set_is_no_configuration(data: bytes) -> None:
    with pytest.raises(InvalidConfiguration, match="not a JSON Web Key Set"):
        read_keys(data, ALGORITHMS)


async def test_keys_come_over_https_or_from_a_file(tmp_path) -> None:
    with pytest.raises(InvalidConfiguration, match="https"):
        load_from("http://keys.example/jwks")
    load, _ = load_from(str(tmp_path / "missing"))
    with pytest.raises(Unavailable, match="missing"):
        await load()


# Scopes.


@pytest.mark.parametrize(
    ("scope", "verb", "name", "allowed"),
    [
        ("read", Verb.READ, "anything", True),
        ("read:reports-*", Verb.READ, "reports-1", True),
        ("read:reports-*", Verb.READ, "report", False),
        ("read:reports-*", Verb.CONTROL, "reports-1", False),
        ("read:one", Verb.READ, "one", True),
        ("read:one", Verb.READ, "one-more", False),
        ("submit:corpus.*", Verb.SUBMIT, "corpus.analyze", True),
        ("submit:corpus.*", Verb.SUBMIT, "corpusx.analyze", False),
        ("read:reports-*", Verb.READ, None, True),
        ("READ", Verb.READ, "one", False),
        ("read:", Verb.READ, "one", False),
        ("read:a*b", Verb.READ, "a*b", False),
        ("*", Verb.READ, "one", False),
    ],
)
def test_a_scope_allows_its_verb_on_its_names(scope: str, verb: Verb, name: str | None, allowed: bool) -> None:
    principal = Principal(subject="a", tenant="t", scopes=read_scopes([scope]), expires=0.0)
    assert principal.may(verb, name) is allowed


def test_tenants_own_their_own_and_nobody_owns_what_is_unknown() -> None:
    assert [sees("acme", owner) for owner in ("acme", "evil", "", None)] == [True, False, False, False]
    assert [sees(OPEN.tenant, owner) for owner in ("acme", "", None)] == [True, True, False]
    assert OPEN.home == ""
