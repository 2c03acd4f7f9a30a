"""How a client reaches the cluster: addresses, and who it is where the cluster asks for that."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from apexstream.core.errors import InvalidConfiguration
from apexstream.runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Connection:
    """``servers`` is ``host:port,host:port``; shown in errors, so ``str()`` of a connection names no secret.

    ``security`` holds aiokafka's options for TLS and SASL; empty: an open listener.
    """

    servers: str
    security: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.servers

    @classmethod
    def to(cls, cluster: "Cluster") -> "Connection":
        """A plain ``host:port,host:port`` is an open listener."""
        return cls(cluster) if isinstance(cluster, str) else cluster

    @property
    def options(self) -> dict[str, Any]:
        """What every aiokafka client of this cluster is made with."""
        return {"bootstrap_servers": self.servers, **self.security}


Cluster = Connection | str
"""A cluster to talk to; a string is the address of open listeners."""


def connection(settings: Settings) -> Connection:
    """The cluster that ``settings`` name. Raise :class:`InvalidConfiguration` for credentials that cannot be used."""
    protocol = settings.kafka_security_protocol
    security: dict[str, Any] = {"security_protocol": protocol} if protocol != "PLAINTEXT" else {}
    if protocol.startswith("SASL"):
        security |= _sasl(settings)
    if protocol.endswith("SSL"):
        security["ssl_context"] = _tls(settings)
    return Connection(settings.bootstrap_servers, security)


def _sasl(settings: Settings) -> dict[str, Any]:
    if not settings.kafka_sasl_username or settings.kafka_sasl_password_file is None:
        raise InvalidConfiguration(
            f"{settings.kafka_security_protocol} needs a name and a password",
            where="KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD_FILE",
        )
    try:
        password = settings.kafka_sasl_password_file.expanduser().read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise InvalidConfiguration(str(problem), where="KAFKA_SASL_PASSWORD_FILE") from None
    return {
        "sasl_mechanism": settings.kafka_sasl_mechanism,
        "sasl_plain_username": settings.kafka_sasl_username,
        "sasl_plain_password": password,
    }


def _tls(settings: Settings) -> ssl.SSLContext:
    ca, cert, key = (
        None if path is None else str(path.expanduser())
        for path in (settings.kafka_ssl_cafile, settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile)
    )
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as problem:
        raise InvalidConfiguration(
            str(problem), where="KAFKA_SSL_CAFILE, KAFKA_SSL_CERTFILE, KAFKA_SSL_KEYFILE", hint="They are PEM files"
        ) from None
    return context
