"""Keys and tokens for tests of access: an issuer that can be honest or not."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apexstream.gateway.access.issue import mint, public_jwk

ALL = ("submit", "read", "write", "control", "erase", "operate")


@dataclass
class Issuer:
    """Signs with an Ed25519 key; ``jwks`` is what it publishes."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    name: str = "apexstream"
    audience: str = "apexstream"

    @property
    def jwks(self) -> bytes:
        return json.dumps({"keys": [public_jwk(self.key)]}).encode()

    def publish(self, path: Path) -> str:
        path.write_bytes(self.jwks)
        return str(path)

    def token(
        self,
        *scopes: str,
        subject: str = "alice",
        tenant: str = "acme",
        now_s: float | None = None,
        life_s: float = 600.0,
    ) -> str:
        return mint(
            self.key,
            issuer=self.name,
            audience=self.audience,
            subject=subject,
            scopes=scopes,
            scope_claim="scope",
            tenant_claim="tenant",
            tenant=tenant,
            now_s=time.time() if now_s is None else now_s,
            life_s=life_s,
        )

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Good claims, except for what is ``changed``; None leaves one out."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.name,
            "aud": self.audience,
            "sub": "alice",
            "tenant": "acme",
            "scope": "read",
            "iat": now,
            "exp": now + 600,
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def sign(self, claims: dict[str, Any], **headers: Any) -> str:
        kid = public_jwk(self.key)["kid"]
        return jwt.encode(claims, self.key, algorithm="EdDSA", headers={"kid": kid, **headers})


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def rsa_jwk(key: rsa.RSAPrivateKey, kid: str) -> dict[str, Any]:
    return {**jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, "alg": "RS256"}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}
