"""The gateway's address, from which the HTTP and the WebSocket one are made."""

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from apexstream.core.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Address:
    """``http``: the base URL without a slash at its end. ``loopback``: on this machine, so never through a proxy."""

    http: str
    loopback: bool

    @property
    def websocket(self) -> str:
        """The URL of the stream socket."""
        return f"ws{self.http.removeprefix('http')}/stream"


def parse_address(url: str) -> Address:
    """The address in ``http[s]://host[:port][/path]``; raises :class:`InvalidRequest` for anything else."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
        _ = parts.port
    except ValueError as problem:
        raise InvalidRequest(str(problem), where=url) from None
    if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
        raise InvalidRequest("not the address of a gateway", where=url, hint="Use http://host:port")
    return Address(url.rstrip("/"), _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
