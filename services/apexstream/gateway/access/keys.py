"""The public keys that tokens are verified with: read from a JSON Web Key Set, cached, exchanged while the gateway runs.

A key that is not known yet makes the set be read again, at most every ``UNKNOWN_KEY_S``, whoever asks how often. A source that
does not answer changes nothing until the keys are older than ``STALE_S_MAX``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import jwt
import msgspec
import structlog

from apexstream.core.errors import InvalidConfiguration, Unavailable
from apexstream.gateway.access.tokens import TokenRefused
from apexstream.runtime.clock import Clock

UNKNOWN_KEY_S: Final = 30.0  # between two readings that only an unknown key asks for
FILE_FRESH_S: Final = 5.0
URL_FRESH_S: Final = 300.0
STALE_S_MAX: Final = 3_600.0
FETCH_TIMEOUT_S: Final = 5.0
SET_BYTES_MAX: Final = 256 * 1024
KEYS_MAX: Final = 64
ALGORITHMS: Final = frozenset(
    {"EdDSA", "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
)

_log = structlog.get_logger(__name__)

Load = Callable[[], Awaitable[bytes]]
"""Reads the key set (JSON). Raises :class:`Unavailable`."""


class _Set(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


class KeyRing:
    """Keys by their id. ``fresh_s`` is how long a reading counts before the source is asked again."""

    def __init__(self, load: Load, algorithms: Sequence[str], clock: Clock, *, fresh_s: float) -> None:
        self._load = load
        self._algorithms = frozenset(algorithms)
        self._clock = clock
        self._fresh_s = fresh_s
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._read_at = self._tried_at = -float("inf")
        self._reading = asyncio.Lock()

    async def key(self, kid: str | None) -> jwt.PyJWK:
        """The key with this id; without an id the only key there is. Raises :class:`TokenRefused` (``key``), and
        :class:`Unavailable` if no keys can be had."""
        await self._read_unless_within(self._fresh_s)
        if self._find(kid) is None:
            await self._read_unless_within(UNKNOWN_KEY_S)
        key = self._find(kid)
        if self._clock.monotonic() - self._read_at > STALE_S_MAX:
            raise Unavailable("the keys that tokens are verified with cannot be read", hint="Try again later")
        if key is None:
            raise TokenRefused("key")
        return key

    async def read(self) -> None:
        """Read the set now; raises :class:`Unavailable` and :class:`InvalidConfiguration`."""
        self._tried_at = self._clock.monotonic()
        self._keys = read_keys(await self._load(), self._algorithms)
        self._read_at = self._clock.monotonic()

    def _find(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    async def _read_unless_within(self, age_s: float) -> None:
        async with self._reading:
            failed = self._tried_at > self._read_at
            pause_s = min(age_s, UNKNOWN_KEY_S) if failed else age_s
            if self._clock.monotonic() - max(self._read_at, self._tried_at) < pause_s:
                return
            try:
                await self.read()
            except (Unavailable, InvalidConfiguration) as problem:
                _log.warning("keys could not be read again", error=str(problem))


def read_keys(data: bytes, algorithms: frozenset[str]) -> dict[str | None, jwt.PyJWK]:
    """The usable keys of a JSON Web Key Set; others (for encryption, of other kinds) are left out. Raises
    :class:`InvalidConfiguration` if there is none."""
    try:
        found = msgspec.json.decode(data, type=_Set).keys[:KEYS_MAX]
    except (msgspec.DecodeError, RecursionError) as problem:
        raise InvalidConfiguration(f"not a JSON Web Key Set: {problem}", where="APEX_AUTH_KEYS") from None
    keys: dict[str | None, jwt.PyJWK] = {}
    for member in found:
        key = _usable(member, algorithms)
        if key is not None:
            keys.setdefault(key.key_id, key)
    if not keys:
        raise InvalidConfiguration(
            "the key set has no key for the allowed algorithms",
            where="APEX_AUTH_KEYS",
            hint=f"Allowed are {', '.join(sorted(algorithms))} (APEX_AUTH_ALGORITHMS)",
        )
    return keys


def _usable(member: dict[str, Any], algorithms: frozenset[str]) -> jwt.PyJWK | None:
    if member.get("use", "sig") != "sig" or member.get("kty") == "oct":
        return None
    try:
        key = jwt.PyJWK(member)
    except (jwt.PyJWTError, ValueError, TypeError) as problem:
        _log.warning("a key of the set cannot be used", kid=str(member.get("kid")), error=type(problem).__name__)
        return None
    return key if key.algorithm_name in algorithms and isinstance(key.key_id, str | None) else None


def load_from(source: str) -> tuple[Load, float]:
    """How to read ``source``, a path or an ``https`` URL (``http`` only on this machine), and how long a reading counts, s."""
    parts = urlsplit(source)
    if parts.scheme not in {"http", "https"}:
        return lambda: _from_file(Path(source).expanduser()), FILE_FRESH_S
    if parts.scheme == "http" and parts.hostname not in {"127.0.0.1", "::1", "localhost"}:
        raise InvalidConfiguration("keys over plain http could be anybody's", where=source, hint="Use https")
    return lambda: _from_url(source), URL_FRESH_S


async def _from_file(path: Path) -> bytes:
    try:
        return await asyncio.to_thread(path.read_bytes)
    except OSError as problem:
        raise Unavailable(str(problem), where=str(path)) from problem


async def _from_url(url: str) -> bytes:
    """The whole answer; a redirect or a long one is refused."""
    try:
        async with (
            asyncio.timeout(FETCH_TIMEOUT_S),
            httpx.AsyncClient(follow_redirects=False) as http,
            http.stream("GET", url, headers={"accept": "application/json"}) as answer,
        ):
            data = b""
            async for part in answer.aiter_bytes():
                data += part
                if len(data) > SET_BYTES_MAX:
                    raise Unavailable(f"the key set is over {SET_BYTES_MAX} bytes", where=url)
    except (httpx.HTTPError, TimeoutError) as problem:
        raise Unavailable(f"no key set: {problem or type(problem).__name__}", where=url) from problem
    if answer.status_code != httpx.codes.OK:
        raise Unavailable(f"no key set: HTTP {answer.status_code}", where=url)
    return data
