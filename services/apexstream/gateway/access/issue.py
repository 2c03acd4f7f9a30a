"""Keys and tokens for development: an Ed25519 key in a file, its public half as a key set, tokens signed with it.

An installation with users has an identity provider for this; the gateway takes its tokens the same way.
"""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apexstream.core.errors import InvalidConfiguration

ALGORITHM = "EdDSA"


def signing_key(path: Path, *, new: bool = False) -> Ed25519PrivateKey:
    """The key in ``path``, which is made if there is none, or a ``new`` one in its place; the file is the secret: mode 0600."""
    if new or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(pem)
        fresh.replace(path)
    if path.stat().st_mode & 0o077:
        raise InvalidConfiguration("others may read the signing key", where=str(path), hint=f"chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
        raise InvalidConfiguration(f"not a private key: {problem}", where=str(path)) from problem
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidConfiguration("not an Ed25519 key", where=str(path), hint="Remove it: a new one is made")
    return key


def public_jwk(key: Ed25519PrivateKey) -> dict[str, Any]:
    """The public half, named by its thumbprint (RFC 7638)."""
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    needed = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(raw)}
    thumbprint = hashlib.sha256(json.dumps(needed, separators=(",", ":")).encode()).digest()
    return {**needed, "alg": ALGORITHM, "use": "sig", "kid": _base64url(thumbprint)}


def publish(key: Ed25519PrivateKey, path: Path) -> None:
    """Put the public half into the key set at ``path``, before the ones that are there already."""
    jwk = public_jwk(key)
    known = json.loads(path.read_text())["keys"] if path.exists() else []
    if jwk in known:
        return
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": [jwk, *known]}, indent=2) + "\n")
    fresh.replace(path)


def mint(
    key: Ed25519PrivateKey,
    *,
    issuer: str,
    audience: str,
    subject: str,
    scopes: Sequence[str],
    scope_claim: str,
    tenant_claim: str,
    tenant: str,
    now_s: float,
    life_s: float,
) -> str:
    """A token. ``now_s`` is seconds since the epoch."""
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "iat": int(now_s),
        "exp": int(now_s + life_s),
        scope_claim: " ".join(scopes),
    }
    if tenant_claim:
        claims[tenant_claim] = tenant
    return jwt.encode(claims, key, algorithm=ALGORITHM, headers={"kid": public_jwk(key)["kid"]})


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
