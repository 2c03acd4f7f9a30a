"""Settings, read once from the environment by the composition root and handed down from there."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from apexstream.core.errors import InvalidConfiguration
from apexstream.core.tiers import DEFAULT_TIERS, Tiers

SHARED_PARTITIONS: Final = 12
_PREFIX = "APEX_"


class Settings(BaseSettings):
    """One field a setting; the environment variable is ``APEX_`` and its name, except where an alias says otherwise."""

    # An empty variable counts as unset: that is what a container file's ``${NAME:-}`` leaves behind.
    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", populate_by_name=True
    )

    bootstrap_servers: Annotated[
        str,
        Field(
            validation_alias="KAFKA_BOOTSTRAP_SERVERS",
            pattern=r"^([^\s,]+:\d{1,5}(,[^\s,]+:\d{1,5})*)?$",
            description="Kafka cluster to use, host:port,host:port. Empty: `apexstream up` starts an embedded broker.",
        ),
    ] = ""
    kafka_security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"],
        Field(validation_alias="KAFKA_SECURITY_PROTOCOL", description="How the cluster's listeners are reached."),
    ] = "PLAINTEXT"
    kafka_sasl_mechanism: Annotated[
        Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"],
        Field(validation_alias="KAFKA_SASL_MECHANISM", description="How this process proves who it is."),
    ] = "SCRAM-SHA-512"
    kafka_sasl_username: Annotated[
        str, Field(validation_alias="KAFKA_SASL_USERNAME", description="Its name on the cluster.")
    ] = ""
    kafka_sasl_password_file: Annotated[
        Path | None, Field(validation_alias="KAFKA_SASL_PASSWORD_FILE", description="File that holds its password.")
    ] = None
    kafka_ssl_cafile: Annotated[
        Path | None,
        Field(validation_alias="KAFKA_SSL_CAFILE", description="PEM file of the authority that signed the brokers."),
    ] = None
    kafka_ssl_certfile: Annotated[
        Path | None, Field(validation_alias="KAFKA_SSL_CERTFILE", description="PEM file of this client's certificate.")
    ] = None
    kafka_ssl_keyfile: Annotated[
        Path | None, Field(validation_alias="KAFKA_SSL_KEYFILE", description="PEM file of its key.")
    ] = None
    schema_registry_url: Annotated[
        str,
        Field(
            validation_alias="SCHEMA_REGISTRY_URL",
            pattern=r"^(https?://\S+)?$",
            description="Schema registry with Confluent's API: records then carry its ids. Empty: they carry fingerprints.",
        ),
    ] = ""
    grafana_url: Annotated[
        str,
        Field(
            validation_alias="GRAFANA_URL",
            pattern=r"^(https?://\S+)?$",
            description="Grafana that `apexstream dashboards` works on.",
        ),
    ] = ""
    grafana_token_file: Annotated[
        Path | None,
        Field(validation_alias="GRAFANA_TOKEN_FILE", description="File with the token of a service account there."),
    ] = None
    topic_prefix: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9.-]{0,40}\.$",
            description="What the names of all topics and consumer groups start with; several installations share a cluster.",
        ),
    ] = "apex."
    replication: Annotated[
        int,
        Field(ge=-1, le=9, description="Replication factor for topics that are created; -1: the cluster's default."),
    ] = -1
    partitions: Annotated[
        int,
        Field(
            ge=1,
            le=300,
            description="Partitions of the topics that work is spread by, decided for life when topics are created; 12 are for a"
            " cluster, a single machine is quicker with 3.",
        ),
    ] = SHARED_PARTITIONS
    home: Annotated[
        Path, Field(description="Where the embedded broker keeps its data, so that streams survive a restart.")
    ] = Path("~/.apexstream")
    cache: Annotated[
        Path, Field(description="Where downloaded jars and the JVM's AOT cache are kept; safe to delete.")
    ] = Path("~/.cache/apexstream")
    kafka_port: Annotated[int, Field(ge=1, le=65535, description="Port of the embedded broker; another if taken.")] = (
        9092
    )
    host: Annotated[str, Field(description="Address that the gateway listens on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="Port of the gateway; 0: any free one.")] = 8080
    metrics_host: Annotated[str, Field(description="Address of every service's /metrics, /livez and /readyz.")] = (
        "127.0.0.1"
    )
    metrics_port: Annotated[
        Annotated[int, Field(ge=0, le=65535)] | Literal["off"],
        Field(description="Their port; 0: any free one, see the log; off: none. `apexstream up` counts up from it."),
    ] = 0
    gateway_url: Annotated[
        str, Field(description="Where the command line finds the gateway; empty: http://host:port.")
    ] = ""
    auth_keys: Annotated[
        str,
        Field(
            description="Key set that tokens are verified with: a file, or an https URL. Empty: the gateway asks nobody who they "
            "are, and listens on this machine only.",
        ),
    ] = ""
    auth_algorithms: Annotated[
        str, Field(description="Algorithms that tokens may be signed with, name,name; whatever a token says.")
    ] = "EdDSA,ES256,RS256"
    auth_issuer: Annotated[str, Field(min_length=1, description="Who must have issued a token (iss).")] = "apexstream"
    auth_audience: Annotated[str, Field(min_length=1, description="Whom a token must be for (aud).")] = "apexstream"
    auth_leeway_s: Annotated[
        float, Field(ge=0, le=60, description="How far the issuer's clock may be from ours, seconds.")
    ] = 30.0
    auth_lifetime_s_max: Annotated[
        float, Field(gt=0, description="How long a token may still be valid when it is shown, seconds.")
    ] = 86_400.0
    auth_tenant_claim: Annotated[
        str, Field(min_length=1, description="Claim that names the tenant; none: everybody is of one tenant.")
    ] = "tenant"
    auth_scope_claim: Annotated[str, Field(min_length=1, description="Claim that lists the scopes.")] = "scope"
    origins: Annotated[
        str,
        Field(description="Pages besides the gateway's own that may use it: https://host[:port],…; compared whole."),
    ] = ""
    user_connections_max: Annotated[
        int, Field(ge=1, le=100_000, description="Requests and sockets that one user has open at once, a gateway.")
    ] = 200
    user_submissions_per_s: Annotated[
        float,
        Field(gt=0, le=100_000, description="Tasks that one user submits in the long run, a gateway; at once 4 times."),
    ] = 50.0
    sockets_max: Annotated[int, Field(ge=1, le=1_000_000, description="Sockets that one gateway holds.")] = 10_000
    sockets_per_s: Annotated[
        float, Field(gt=0, le=100_000, description="New sockets that a gateway takes in the long run; at once 4 times.")
    ] = 500.0
    token: Annotated[
        SecretStr, Field(description="Token that the command line and the client show. Better: APEX_TOKEN_FILE.")
    ] = SecretStr("")
    token_file: Annotated[
        Path | None, Field(description="File that holds that token; read again for every connection.")
    ] = None
    instance: Annotated[
        str,
        Field(
            pattern=r"^([a-z0-9][a-z0-9._-]{0,63})?$",
            description="Name of this process in events and logs; made from host and pid if empty.",
        ),
    ] = ""
    sole_instance: Annotated[
        bool,
        Field(
            description="No two processes ever run under this APEX_INSTANCE (`apexstream up` and a StatefulSet see to that):"
            " what a killed one held is taken over as soon as it is started again."
        ),
    ] = False
    session_timeout_s: Annotated[
        float,
        Field(
            ge=1,
            le=300,
            description="Silence after which a process counts as dead to its group; brokers refuse less than 6 by default.",
        ),
    ] = 10.0
    runner_capacity: Annotated[int, Field(ge=1, le=10_000, description="Tasks that one runner runs at once.")] = 64
    tiers: Annotated[
        str, Field(description="Tiers of tasks, name,name,…, the most urgent first; each has a topic. Up to 16.")
    ] = ",".join(DEFAULT_TIERS.names)
    tier_default: Annotated[
        str, Field(description="Tier of a task that names none; empty: normal, which must then be one of APEX_TIERS.")
    ] = ""
    tier_shares: Annotated[
        str,
        Field(
            description="Lower tiers' reserved shares, tier=N,…: at least one of N starts while one can start. Those that are"
            " not named get 4, 10, 20, 30, … in their order."
        ),
    ] = ""
    oldest_every: Annotated[
        int, Field(ge=1, le=1_000, description="Every how many starts of a tier its oldest task goes, whoever's it is.")
    ] = 4
    tenant_weights: Annotated[
        str, Field(description="Tenants' parts of a tier, tenant=weight,…; 1 for those that are not named.")
    ] = ""
    action_rates: Annotated[
        str, Field(description="How often actions may start, plugin.action=starts a second/burst,…")
    ] = ""
    starting_max: Annotated[
        int, Field(ge=1, le=10_000, description="Tasks that one runner was given and has not begun; others wait.")
    ] = 24
    passes_max: Annotated[
        int,
        Field(
            ge=1,
            le=10_000,
            description="How often a task too large for the room may be passed over; then room is kept.",
        ),
    ] = 20
    preempt: Annotated[
        Literal["off", "on"],
        Field(description="on: a waiting task of the highest tier parks a preemptible one of a lower tier."),
    ] = "off"
    tenant_waiting_max: Annotated[
        int, Field(ge=1, le=10_000_000, description="Tasks of one tenant that may wait; past it submissions get 429.")
    ] = 100_000
    dispatcher_silent_s: Annotated[
        float,
        Field(ge=2, le=300, description="How long the active dispatcher may say nothing before a standby takes over."),
    ] = 3.0
    runner_labels: Annotated[
        str, Field(description="Labels of this runner, name,name, that tasks can ask for or avoid.")
    ] = ""
    runner_resources: Annotated[
        str,
        Field(
            description="Amounts that tasks can ask of this runner, name=number,…; cpu, memory_mb, gpu are measured."
        ),
    ] = ""
    runner_buffer_mb: Annotated[
        int,
        Field(
            ge=1, le=65_536, description="Chunks that a runner holds until Kafka has them, MiB; at this, actions wait."
        ),
    ] = 64
    drain_timeout_s: Annotated[
        float, Field(gt=0, le=300, description="How long a service may take to stop, seconds.")
    ] = 10.0
    append_timeout_s: Annotated[
        float,
        Field(
            gt=0, le=300, description="How long Kafka may take to acknowledge an append before its outcome is unknown."
        ),
    ] = 30.0
    trusted_plugins: Annotated[
        str,
        Field(description="Plugins, name,name or *, that run in the runner's own process, with all that it may do."),
    ] = ""
    plugin_processes: Annotated[int, Field(ge=1, le=64, description="Processes that each other plugin gets.")] = 1
    plugin_memory_mb: Annotated[
        int,
        Field(ge=64, le=1_048_576, description="Address space of one plugin process, MiB; past it allocations fail."),
    ] = 4096
    compression: Annotated[
        Literal["none", "zstd"],
        Field(description="Of batches in the hot log. zstd: 0.4 of the size, 1.3 µs CPU a chunk; segments always are."),
    ] = "none"
    encryption: Annotated[
        str,
        Field(
            min_length=1,
            description="local: payloads and checkpoints are encrypted with keys in the file keys.db of APEX_HOME; "
            "another name: that of an installed key provider (entry points of the group apexstream.keys).",
        ),
    ] = "off"
    cursor_key_file: Annotated[
        str,
        Field(
            description="File with the key (16 to 64 bytes) that all gateways sign cursors with; empty: one of APEX_HOME."
        ),
    ] = ""
    gateway_workers: Annotated[
        int, Field(ge=1, le=64, description="Processes that `apexstream serve gateway` runs on its one port.")
    ] = 1
    seal_after_s: Annotated[
        float,
        Field(gt=0, le=3600, description="How long a chunk may wait to be sealed into a segment with others, seconds."),
    ] = 30.0
    stream_ttl_s: Annotated[
        float,
        Field(ge=0, description="How long a stream is kept after its end if its task does not say; 0: until erased."),
    ] = 30 * 86_400.0
    trim_after_s: Annotated[
        float, Field(ge=0, description="How old a sealed chunk must be for its original in apex.chunks to be deleted.")
    ] = 86_400.0
    archiver_memory_mb: Annotated[
        int, Field(ge=1, le=65_536, description="Unsealed chunks that an archiver holds before it seals early, MiB.")
    ] = 64
    long_poll_s: Annotated[
        float,
        Field(gt=0, le=300, description="How long a long poll at /ds waits for something new before it answers 204."),
    ] = 20.0
    processors: Annotated[
        Literal["on", "off"],
        Field(
            description="Whether `apexstream up` runs processors, which pipelines need; they start after everything else."
        ),
    ] = "on"
    stats: Annotated[
        Literal["auto", "on", "off"],
        Field(
            description="Whether processors keep the history of actions and streams (GET /stats). `apexstream up` starts"
            " processors for it only with on."
        ),
    ] = "auto"
    processors_standby: Annotated[
        int,
        Field(
            ge=0,
            le=3,
            description="Processors that keep a copy of each other's state, so that it need not be restored.",
        ),
    ] = 0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="Least severe log that is shown.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"], Field(description="auto: console on a terminal, else JSON.")
    ] = "auto"

    @property
    def home_path(self) -> Path:
        """``home`` with ``~`` resolved."""
        return self.home.expanduser()

    @property
    def cache_path(self) -> Path:
        """``cache`` with ``~`` resolved."""
        return self.cache.expanduser()

    @property
    def tier_order(self) -> Tiers:
        """The tiers and the default one; raises :class:`InvalidConfiguration`."""
        return Tiers.named(self.tiers, self.tier_default)

    @property
    def url(self) -> str:
        """The gateway's base URL as clients on this machine use it."""
        return self.gateway_url.rstrip("/") or f"http://{_reachable(self.host)}:{self.port}"

    def topic(self, name: str) -> str:
        """The full name of the topic that the catalogue calls ``apex.<name>``."""
        return self.topic_prefix + name

    def instance_name(self, role: str) -> str:
        """Who this process says it is: ``instance`` or ``<role>-<host>-<pid>``."""
        return self.instance or f"{role}-{socket.gethostname().lower()}-{os.getpid()}"


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """One setting as users see it: its environment variable, its value now, its default, its meaning."""

    name: str
    value: str
    default: str
    description: str


def describe_settings(settings: Settings) -> list[SettingInfo]:
    """Every setting, in the order of declaration."""
    return [
        SettingInfo(variable_of(name), str(getattr(settings, name)), str(field.get_default()), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def variable_of(field: str) -> str:
    """The environment variable that sets ``field``."""
    alias = Settings.model_fields[field].validation_alias
    return alias if isinstance(alias, str) else f"{_PREFIX}{field}".upper()


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the process environment; raise :class:`InvalidConfiguration` naming key and remedy.

    ``environ`` is only looked at for unknown ``APEX_`` names, which are refused: a misspelt setting must not be ignored.
    """
    known = {f"{_PREFIX}{name}".upper() for name in Settings.model_fields} | _OWN_NAMES
    for name in os.environ if environ is None else environ:
        if name.startswith(_PREFIX) and name not in known:
            raise InvalidConfiguration("unknown setting", where=name, hint="See `apexstream settings` for all of them")
    try:
        return Settings()
    except ValidationError as problem:
        first = problem.errors()[0]
        field = str(first["loc"][0])
        where = variable_of(field) if field in Settings.model_fields else field
        raise InvalidConfiguration(f"{first['msg']}, got {first['input']!r}", where=where) from None


def _reachable(host: str) -> str:
    """``host`` as it stands in a URL of this machine: a wildcard is not an address to connect to."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound here, only replaced
    return f"[{host}]" if ":" in host else host


# Variables with this prefix that other parts of the project read: the tests choose their Kafka with them.
_OWN_NAMES = frozenset({"APEX_TEST_KAFKA", "APEX_TEST_KAFKA_IMAGE"})
