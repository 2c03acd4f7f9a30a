"""Sixteen tokens that a gateway must refuse, and the word it refuses each of them with."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.support.tokens import Issuer

Forgery = Callable[[Issuer, rsa.RSAPrivateKey], str]
RSA_KID = "rsa"


def encoded(part: Any) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unsigned(issuer: Issuer, _: rsa.RSAPrivateKey) -> str:
    kid = jwt.get_unverified_header(issuer.token())["kid"]
    return f"{encoded({'alg': 'none', 'kid': kid})}.{encoded(issuer.claims())}."


def hmac_with_the_public_key(issuer: Issuer, key: rsa.RSAPrivateKey) -> str:
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = f"{encoded({'alg': 'HS256', 'kid': RSA_KID})}.{encoded(issuer.claims())}"
    return f"{signed}.{encoded(hmac.digest(pem, signed.encode(), hashlib.sha256))}"


def another_key(issuer: Issuer, _: rsa.RSAPrivateKey) -> str:
    kid = jwt.get_unverified_header(issuer.token())["kid"]
    return jwt.encode(issuer.claims(), Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"kid": kid})


def stripped(issuer: Issuer, _: rsa.RSAPrivateKey) -> str:
    return issuer.token("read").rpartition(".")[0] + "."


def two_parts(issuer: Issuer, _: rsa.RSAPrivateKey) -> str:
    return issuer.token("read").rpartition(".")[0]


def deep(issuer: Issuer, _: rsa.RSAPrivateKey) -> str:
    head, _, _ = issuer.token("read").split(".")
    return f"{head}.{encoded(b'[' * 3_000)}.{encoded(b'x' * 64)}"


def claims(**changed: Any) -> Forgery:
    return lambda issuer, _: issuer.sign(issuer.claims(**changed))


FORGERIES: dict[str, tuple[Forgery, str]] = {
    "alg none": (unsigned, "algorithm"),
    "HS256 with the public RSA key": (hmac_with_the_public_key, "algorithm"),
    "expired": (lambda issuer, _: issuer.sign(issuer.claims(exp=int(time.time()) - 61)), "expired"),
    "wrong audience": (claims(aud="elsewhere"), "audience"),
    "wrong issuer": (claims(iss="https://evil.example"), "issuer"),
    "no exp": (claims(exp=None), "claims"),
    "exp as text": (claims(exp="9999999999"), "claims"),
    "nbf in the future": (lambda issuer, _: issuer.sign(issuer.claims(nbf=int(time.time()) + 90)), "clock"),
    "stripped signature": (stripped, "signature"),
    "two parts": (two_parts, "malformed"),
    "not ASCII": (lambda issuer, _: issuer.token("read")[:-4] + "äöü€", "malformed"),
    "1 MB": (lambda issuer, _: issuer.token("read") + "A" * 1_000_000, "too_large"),
    "unknown critical header": (
        lambda issuer, _: issuer.sign(issuer.claims(), crit=["exp2"], exp2=1),
        "malformed",
    ),
    "another key under a known id": (another_key, "signature"),
    "deep payload": (deep, "signature"),
    "a key address of its own": (
        lambda issuer, key: jwt.encode(
            issuer.claims(), key, algorithm="RS256", headers={"kid": "mine", "jku": "http://127.0.0.1:1/keys"}
        ),
        "key",
    ),
}
