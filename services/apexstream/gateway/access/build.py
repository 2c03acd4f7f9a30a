"""Builds the gateway's access from settings, and refuses what would let in everyone."""

import os
from typing import Final

from apexstream.core.errors import InvalidConfiguration, Unavailable
from apexstream.gateway.access.gate import Access
from apexstream.gateway.access.keys import ALGORITHMS, KeyRing, load_from
from apexstream.gateway.access.limits import Admission, Bucket, Connections, UserBuckets
from apexstream.gateway.access.origins import Origins, is_loopback, read_origins
from apexstream.gateway.access.principal import Principal
from apexstream.gateway.access.tickets import Tickets, Uses
from apexstream.gateway.access.tokens import TokenPolicy, kid_of, read_token
from apexstream.runtime.clock import Clock
from apexstream.runtime.settings import Settings

STRANGERS_MAX: Final = 1_000  # sockets that have not said yet who they are
BURST_S: Final = 4.0  # what comes at once: as much as is allowed in this time


class TokenVerifier:
    """Tokens of one issuer."""

    def __init__(self, ring: KeyRing, policy: TokenPolicy, clock: Clock) -> None:
        self._ring = ring
        self._policy = policy
        self._clock = clock

    async def __call__(self, token: str) -> Principal:
        """See :class:`apexstream.gateway.access.gate.Verify`."""
        key = await self._ring.key(kid_of(token))
        return read_token(token, key, self._policy, self._clock.now_us() / 1e6)


async def make_access(settings: Settings, clock: Clock, secret: bytes, uses: Uses) -> Access:
    """The access that ``settings`` ask for; ``secret`` and ``uses`` of tickets are shared by all gateways.

    Raises :class:`InvalidConfiguration` for a gateway that others reach and that would ask nobody who they are, and for keys
    that cannot be used.
    """
    keys = settings.auth_keys
    if not keys and not is_loopback(settings.host):
        raise InvalidConfiguration(
            f"a gateway that listens on {settings.host} is open to others, and there are no keys to tell them apart",
            where="APEX_AUTH_KEYS",
            hint="Set it to your identity provider's key set (`apexstream token` makes one), or listen on 127.0.0.1",
        )
    return Access(
        verify=await _verifier(settings, clock) if keys else None,
        tickets=Tickets(secret, uses),
        origins=Origins(allowed=read_origins(settings.origins), loopback_only=not keys),
        connections=Connections(settings.user_connections_max),
        submissions=UserBuckets(settings.user_submissions_per_s, settings.user_submissions_per_s * BURST_S),
        admission=Admission(
            Bucket(settings.sockets_per_s, settings.sockets_per_s * BURST_S), settings.sockets_max, STRANGERS_MAX
        ),
        clock=clock,
        new_nonce=lambda: os.urandom(12).hex(),
    )


def policy_of(settings: Settings) -> TokenPolicy:
    """What tokens must be like. Raises :class:`InvalidConfiguration` for algorithms that are not on the list of good ones."""
    algorithms = tuple(name.strip() for name in settings.auth_algorithms.split(",") if name.strip())
    unknown = [name for name in algorithms if name not in ALGORITHMS]
    if unknown or not algorithms:
        raise InvalidConfiguration(
            f"{', '.join(unknown) or 'nothing'} is not an algorithm that tokens may be signed with",
            where="APEX_AUTH_ALGORITHMS",
            hint=f"Use some of {', '.join(sorted(ALGORITHMS))}; with a shared secret every gateway could make tokens",
        )
    return TokenPolicy(
        algorithms=algorithms,
        issuer=settings.auth_issuer,
        audience=settings.auth_audience,
        leeway_s=settings.auth_leeway_s,
        lifetime_s_max=settings.auth_lifetime_s_max,
        tenant_claim="" if settings.auth_tenant_claim == "none" else settings.auth_tenant_claim,
        scope_claim=settings.auth_scope_claim,
    )


async def _verifier(settings: Settings, clock: Clock) -> TokenVerifier:
    policy = policy_of(settings)
    load, fresh_s = load_from(settings.auth_keys)
    ring = KeyRing(load, policy.algorithms, clock, fresh_s=fresh_s)
    try:
        await ring.read()
    except Unavailable as problem:
        raise InvalidConfiguration(
            f"the keys cannot be read: {problem.what}", where=problem.where, hint="Check APEX_AUTH_KEYS"
        ) from problem
    return TokenVerifier(ring, policy, clock)
