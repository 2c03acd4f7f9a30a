"""Which pages and which names a request may come with. Pure.

A browser says in ``Origin`` whose page asks, and neither WebSockets nor simple POSTs ask our leave first, so every request with
an Origin is checked: the gateway's own page, or one on the list, compared whole. Programs send no Origin.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from apexstream.core.errors import Forbidden, InvalidConfiguration

HOSTS_MAX = 256  # Host headers that are remembered
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origins:
    """``allowed`` pages besides our own. ``loopback_only``: refuse hosts that are not names of this machine."""

    allowed: frozenset[str] = frozenset()
    loopback_only: bool = True

    def check(self, origin: str | None, host: str) -> None:
        """Raise :class:`Forbidden` if the ``Origin`` or ``Host`` header is not acceptable."""
        if self.loopback_only and not _is_ours(host):
            # A foreign name that leads to this machine's address: DNS rebinding.
            raise Forbidden(
                f"{host!r} is not a name of this machine",
                where="host",
                hint="Use localhost, or set APEX_AUTH_KEYS so that callers prove who they are",
            )
        if origin is not None and origin not in self.allowed and not _same(origin, host):
            raise Forbidden(
                f"pages of {origin!r} may not ask here", where="origin", hint="APEX_ORIGINS lists the ones that may"
            )


def read_origins(text: str) -> frozenset[str]:
    """The origins in ``scheme://host[:port],…``; raises :class:`InvalidConfiguration` for what no browser would send."""
    return frozenset(_origin(word.strip()) for word in text.split(",") if word.strip())


def is_loopback(name: str) -> bool:
    """True for names and addresses that only this machine has."""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def every_loopback(hosts: Iterable[str]) -> bool:
    """True if nothing outside this machine reaches any of ``hosts``."""
    return all(is_loopback(host) for host in hosts)


@lru_cache(HOSTS_MAX)  # it is asked of every request, and takes longer than all else that is asked of one
def _is_ours(host: str) -> bool:
    return is_loopback(_name(host))


def _origin(word: str) -> str:
    parts = urlsplit(word)
    if parts.scheme not in _PORTS or not parts.hostname or word != f"{parts.scheme}://{parts.netloc}" or "*" in word:
        raise InvalidConfiguration(
            f"{word!r} is not an origin", where="APEX_ORIGINS", hint="Use https://host[:port], without a path"
        )
    return word.lower()


def _name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _same(origin: str, host: str) -> bool:
    """True if a page of ``origin`` came from the server that its request calls ``host``. A proxy may add TLS."""
    try:
        page, here = urlsplit(origin), urlsplit(f"//{host}")
        default = _PORTS.get(page.scheme, 0)
        ports = (page.port or default, here.port or default)
    except ValueError:
        return False
    whole = origin == f"{page.scheme}://{page.netloc}" and default != 0 and bool(page.hostname)
    return whole and page.hostname == here.hostname and ports[0] == ports[1]
