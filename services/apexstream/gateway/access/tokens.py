"""JSON Web Tokens to principals (RFC 8725). PyJWT checks the signature; what a token may be is fixed by the configuration.

The token's own ``alg`` is compared with the key's and with the list of allowed ones, its ``kid`` only chooses among our keys,
and nothing in it (``jku``, ``x5u``, ``jwk``) is ever followed.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Final

import jwt

from apexstream.core.errors import Unauthenticated
from apexstream.gateway.access.principal import Principal, read_scopes

TOKEN_BYTES_MAX: Final = 8 * 1024
_TYPES: Final = {None, "jwt", "at+jwt", "application/at+jwt"}
_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_SUBJECT_CHARACTERS_MAX: Final = 256
_OPTIONS: Any = {
    "require": ["exp", "iss", "aud", "sub"],
    "enforce_minimum_key_length": True,
    # Judged below, by the clock that is handed in.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}
_REASONS: Final = (
    (jwt.InvalidSignatureError, "signature"),
    (jwt.InvalidAlgorithmError, "algorithm"),
    (jwt.InvalidIssuerError, "issuer"),
    (jwt.InvalidAudienceError, "audience"),
    (jwt.MissingRequiredClaimError, "claims"),
    (jwt.InvalidKeyError, "key"),
)


class TokenRefused(Unauthenticated):
    """The token is not accepted. ``reason`` is one word: ``malformed``, ``too_large``, ``algorithm``, ``key``, ``signature``,
    ``issuer``, ``audience``, ``claims``, ``expired``, ``clock`` (not valid yet), ``lifetime``, ``tenant`` or ``used``."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the token is refused: {reason}", where="token", hint="Get a new one and try again")
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPolicy:
    """What is accepted. ``tenant_claim`` empty: everyone is of one tenant, the nameless one."""

    algorithms: tuple[str, ...]
    issuer: str
    audience: str
    leeway_s: float
    lifetime_s_max: float
    tenant_claim: str
    scope_claim: str


def kid_of(token: str) -> str | None:
    """Which of our keys the token says it is signed with; nothing of it is verified. Raises :class:`TokenRefused`."""
    if len(token) > TOKEN_BYTES_MAX:
        raise TokenRefused("too_large")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise TokenRefused("malformed") from None
    kind = header.get("typ")
    if (kind.lower() if isinstance(kind, str) else kind) not in _TYPES:
        raise TokenRefused("malformed")
    return header.get("kid")


def read_token(token: str, key: jwt.PyJWK, policy: TokenPolicy, now_s: float) -> Principal:
    """The principal that ``token`` proves. ``now_s`` is seconds since the epoch. Raises :class:`TokenRefused`."""
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=policy.algorithms,
            issuer=policy.issuer,
            audience=policy.audience,
            options=_OPTIONS,
        )
    except (jwt.PyJWTError, ValueError, RecursionError) as problem:
        reason = next((word for kind, word in _REASONS if isinstance(problem, kind)), "malformed")
        raise TokenRefused(reason) from None
    return Principal(
        subject=_subject(claims),
        tenant=_tenant(claims, policy.tenant_claim),
        scopes=read_scopes(_words(claims.get(policy.scope_claim, ()))),
        expires=_expires(claims, policy, now_s),
    )


def _expires(claims: dict[str, Any], policy: TokenPolicy, now_s: float) -> float:
    expires = _time(claims["exp"])
    if expires <= now_s - policy.leeway_s:
        raise TokenRefused("expired")
    if expires - now_s > policy.lifetime_s_max + policy.leeway_s:
        raise TokenRefused("lifetime")
    for name in ("nbf", "iat"):
        if name in claims and _time(claims[name]) > now_s + policy.leeway_s:
            raise TokenRefused("clock")
    return expires


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TokenRefused("claims")
    return float(value)


def _subject(claims: dict[str, Any]) -> str:
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= _SUBJECT_CHARACTERS_MAX or not subject.isprintable():
        raise TokenRefused("claims")
    return subject


def _tenant(claims: dict[str, Any], name: str) -> str:
    if not name:
        return ""
    tenant = claims.get(name)
    if not isinstance(tenant, str) or _TENANT.fullmatch(tenant) is None:
        raise TokenRefused("tenant")
    return tenant


def _words(scope: Any) -> list[str]:
    """Scopes as OAuth writes them, words in a string, or as a list of words."""
    words = scope.split() if isinstance(scope, str) else scope
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise TokenRefused("claims")
    return list(words)
