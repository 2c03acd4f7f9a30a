"""One-time tickets: what a browser shows in place of a token where it can set no header, and where a token must not be seen.

A ticket is good for ``TICKET_S`` from the same Origin, and once. It carries its principal, signed with the secret that all
gateways share, so any of them takes it; which of two showings came first the log says (:mod:`apexstream.gateway.access.uses`).
"""

import base64
import binascii
import hashlib
import hmac
import math
from typing import Final, Protocol

import msgspec

from apexstream.gateway.access.principal import Principal, read_scopes
from apexstream.gateway.access.tokens import TOKEN_BYTES_MAX, TokenRefused

TICKET_S: Final = 30.0
_TAG_BYTES: Final = 16
_PERSON: Final = b"apex-ticket"


class _Words(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    nonce: str
    until: float
    origin: str
    subject: str
    tenant: str
    scopes: list[str]
    expires: float | None  # None: never


class Uses(Protocol):
    """Which tickets were used."""

    async def use(self, nonce: str, until_s: float) -> None:
        """Use the ticket of this nonce, which expires at ``until_s``. Raises :class:`TokenRefused` if it was used before."""


class Tickets:
    """Makes and takes tickets. ``secret`` is shared by all gateways, at most 64 bytes, and so are ``uses``."""

    def __init__(self, secret: bytes, uses: Uses) -> None:
        self._secret = secret
        self._uses = uses

    def mint(self, principal: Principal, origin: str, *, nonce: str, now_s: float) -> str:
        """A ticket for ``principal``, to be shown by a page of ``origin`` (empty: by no page)."""
        words = _Words(
            nonce,
            now_s + TICKET_S,
            origin,
            principal.subject,
            principal.tenant,
            [str(scope) for scope in principal.scopes],
            None if math.isinf(principal.expires) else principal.expires,
        )
        body = msgspec.json.encode(words)
        return base64.urlsafe_b64encode(self._tag(body) + body).decode().rstrip("=")

    async def redeem(self, ticket: str, origin: str, *, now_s: float) -> Principal:
        """Whose ticket it is; it is used up. Raises :class:`TokenRefused`, and what ``uses`` does."""
        words = self._read(ticket)
        expires = math.inf if words.expires is None else words.expires
        if words.until <= now_s or expires <= now_s:
            raise TokenRefused("expired")
        if words.origin != origin:
            raise TokenRefused("audience")
        await self._uses.use(words.nonce, words.until)
        return Principal(subject=words.subject, tenant=words.tenant, scopes=read_scopes(words.scopes), expires=expires)

    def _read(self, ticket: str) -> _Words:
        if len(ticket) > 2 * TOKEN_BYTES_MAX:
            raise TokenRefused("too_large")
        try:
            data = base64.urlsafe_b64decode(ticket.encode() + b"=" * (-len(ticket) % 4))
        except (binascii.Error, ValueError):
            raise TokenRefused("malformed") from None
        tag, body = data[:_TAG_BYTES], data[_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(body)):
            raise TokenRefused("signature")
        return msgspec.json.decode(body, type=_Words)

    def _tag(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, key=self._secret, digest_size=_TAG_BYTES, person=_PERSON).digest()
