"""The token that a client shows: given, or from ``APEX_TOKEN`` or the file that ``APEX_TOKEN_FILE`` names."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from apexstream.core.errors import InvalidConfiguration

TokenSource = Callable[[], str]
"""Gives the token to show now, or nothing. Asked again for every request and connection, so that it can be renewed."""


def token_source(given: str | TokenSource | None, environ: Mapping[str, str] | None = None) -> TokenSource:
    """Where tokens come from: ``given``, else what the environment says."""
    if callable(given):
        return given
    if given is not None:
        return lambda: given
    environ = os.environ if environ is None else environ
    token, path = environ.get("APEX_TOKEN", ""), environ.get("APEX_TOKEN_FILE", "")
    return (lambda: _read(Path(path).expanduser())) if path and not token else lambda: token


def authorization(token: str) -> dict[str, str]:
    """The header that shows ``token``; none without one."""
    if not token:
        return {}
    if not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidConfiguration("not a token", where="APEX_TOKEN", hint="`apexstream token` makes one")
    return {"authorization": f"Bearer {token}"}


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeError) as problem:
        raise InvalidConfiguration(f"no token: {problem}", where="APEX_TOKEN_FILE") from problem
