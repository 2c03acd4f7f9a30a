"""Identifiers: what a task, stream, plugin, action or writer may be called, and how new ones are made."""

import re

from apexstream.core.errors import InvalidRequest

ID_PATTERN = "[a-z0-9][a-z0-9._-]{0,127}"
_ID = re.compile(ID_PATTERN)
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's alphabet: sorts as the number does, no i, l, o or u


def check_id(value: str, what: str) -> str:
    """Return ``value`` if it is a valid id (``[a-z0-9][a-z0-9._-]{0,127}``), else raise :class:`InvalidRequest`.

    ``what`` names the field in the message. Ids are Kafka keys, log fields and parts of paths: never free text.
    """
    if _ID.fullmatch(value) is None:
        shown = value[:40] + ("…" if len(value) > 40 else "")
        raise InvalidRequest(
            f"{shown!r} is not a valid {what}",
            where=what,
            hint="Use 1 to 128 of a-z 0-9 . _ - and start with a letter or digit",
        )
    return value


def new_id(now_ms: int, entropy: bytes) -> str:
    """A 26-character id that sorts by creation time: 48 bits of ``now_ms`` and 80 bits of ``entropy`` (10 bytes)."""
    number = (now_ms & (1 << 48) - 1) << 80 | int.from_bytes(entropy[:10], "big")
    return "".join(_BASE32[number >> shift & 31] for shift in range(125, -1, -5))
