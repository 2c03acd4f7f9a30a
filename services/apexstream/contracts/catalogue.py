"""The catalogue of topics, read from ``schemas/topics``: one file a topic, and nothing else creates topics."""

import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import yaml

from apexstream.contracts.schemas import Schemas, load_schemas, schemas_folder
from apexstream.core.errors import InvalidConfiguration
from apexstream.core.tiers import DEFAULT_TIERS, Tiers
from apexstream.runtime.settings import SHARED_PARTITIONS

PREFIX: Final = "apex."  # what every name in the files starts with
PARTITIONS_MAX: Final = 1000
SERVICES: Final = frozenset({"gateway", "dispatcher", "runner", "archiver", "processors"})

_NAME = re.compile(r"apex(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")
_RETENTION = re.compile(r"(?P<count>[1-9][0-9]{0,5}) (?P<unit>min|h|d)")
_SHARED = re.compile(r"((?P<times>[1-9]) x )?shared")
_UNIT_MS = {"min": 60_000, "h": 3_600_000, "d": 86_400_000}
_CONFIG_NAME = re.compile(r"[a-z]+(\.[a-z]+)+")
_SAID_ELSEWHERE = {
    "cleanup.policy": "Use the key cleanup",
    "retention.ms": "Use the key retention",
    "min.insync.replicas": "It follows from the replication factor",
    "message.timestamp.type": "It is LogAppendTime for every topic",
}


class Cleanup(StrEnum):
    """What Kafka does with old records: drop them after the retention, or keep the last one of every key."""

    DELETE = "delete"
    COMPACT = "compact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic. ``key`` says what its records are keyed by (None: nothing), ``value`` is the subject of their schema.

    ``trimmers`` are services that delete the oldest records before their time. ``retention_ms`` is None for compacted
    topics. ``configs`` are Kafka's own settings beyond those that follow from the other fields.
    """

    name: str
    purpose: str
    key: str | None
    value: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    partitions: int
    cleanup: Cleanup
    retention_ms: int | None = None
    trimmers: tuple[str, ...] = ()
    configs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def renamed(self, prefix: str) -> "Topic":
        """The same topic in an installation whose names start with ``prefix`` (``Settings.topic_prefix``)."""
        return replace(self, name=prefix + self.name.removeprefix(PREFIX))

    def settings(self, replication: int | None) -> dict[str, str]:
        """Kafka's settings of the topic with ``replication`` copies; None: not known yet, so nothing that follows from it."""
        settings = {
            "cleanup.policy": self.cleanup.value,
            # Producers' clocks cannot be trusted: one record from the future makes a broker refuse all that follow it.
            "message.timestamp.type": "LogAppendTime",
            **self.configs,
        }
        if self.retention_ms is not None:
            settings["retention.ms"] = str(self.retention_ms)
        if replication is not None:
            settings["min.insync.replicas"] = "2" if replication >= 3 else "1"
        return settings


def load_catalogue(
    folder: Path | None = None,
    schemas: Schemas | None = None,
    *,
    tiers: Tiers = DEFAULT_TIERS,
    partitions: int = SHARED_PARTITIONS,
) -> tuple[Topic, ...]:
    """Read ``topics/*.yaml`` under ``folder``, by name; raise :class:`InvalidConfiguration` naming file and key. What a file
    declares for each tier is a topic for each of ``tiers``, in their order; ``partitions`` is what files call ``shared``."""
    root = schemas_folder() if folder is None else folder
    known = load_schemas(root) if schemas is None else schemas
    subjects = frozenset(schema.subject for schema in known.all)
    files = (_File(path, subjects, partitions) for path in sorted((root / "topics").glob("*.yaml")))
    return tuple(topic for file in files for topic in file.topics(tiers))


class _File:
    """One file of the catalogue and what is wrong with it."""

    def __init__(self, path: Path, subjects: frozenset[str], shared: int) -> None:
        self._path = path
        self._subjects = subjects
        self._shared = shared
        self._content = self._load()

    def topics(self, tiers: Tiers) -> Iterator[Topic]:
        topic = self._topic()
        if "each" not in self._content:
            yield topic
            return
        self._check(self._text("each") == "tier", "each", f"must be tier, is {self._content['each']!r}")
        for tier in tiers.names:
            yield replace(topic, name=f"{topic.name}.{tier}")

    def _topic(self) -> Topic:
        known = {field for field in Topic.__dataclass_fields__ if field != "retention_ms"} | {"retention", "each"}
        for key in self._content:
            self._check(key in known, key, "unknown key", f"Known keys: {', '.join(sorted(known))}")
        cleanup = self._cleanup()
        return Topic(
            name=self._name(),
            purpose=self._text("purpose"),
            key=None if self._get("key") is None else self._text("key"),
            value=self._value(),
            writers=self._services("writers"),
            readers=self._services("readers"),
            partitions=self._partitions(),
            cleanup=cleanup,
            retention_ms=self._retention_ms(cleanup),
            trimmers=self._services("trimmers") if "trimmers" in self._content else (),
            configs=self._configs(),
        )

    def _load(self) -> Mapping[str, Any]:
        try:
            content = yaml.load(self._path.read_bytes(), _StrictLoader)  # noqa: S506, a SafeLoader
        except yaml.YAMLError as problem:
            raise InvalidConfiguration(f"not YAML: {problem}", where=str(self._path)) from None
        if not isinstance(content, dict):
            raise InvalidConfiguration("not a mapping of keys to values", where=str(self._path))
        return content

    def _check(self, fine: bool, key: Hashable, what: str, hint: str = "") -> None:
        if not fine:
            raise InvalidConfiguration(what, where=f"{self._path}: {key}", hint=hint)

    def _get(self, key: str) -> Any:
        self._check(key in self._content, key, "missing")
        return self._content[key]

    def _text(self, key: str) -> str:
        value = self._get(key)
        self._check(isinstance(value, str) and value.strip() != "", key, f"must be text, is {value!r}")
        return str(value)

    def _name(self) -> str:
        name = self._text("name")
        self._check(_NAME.fullmatch(name) is not None and len(name) <= 200, "name", f"{name!r} is no name for a topic")
        self._check(name == self._path.stem, "name", f"{name} in a file for {self._path.stem}")
        return name

    def _value(self) -> str:
        subject = self._text("value")
        self._check(subject in self._subjects, "value", f"no schema for {subject}", "See schemas/events")
        return subject

    def _services(self, key: str) -> tuple[str, ...]:
        names = self._get(key)
        self._check(isinstance(names, list) and len(names) > 0, key, f"must be a list of services, is {names!r}")
        for name in names:
            self._check(
                name in SERVICES, key, f"no service is called {name!r}", f"One of {', '.join(sorted(SERVICES))}"
            )
        return tuple(names)

    def _partitions(self) -> int:
        said = self._get("partitions")
        shared = _SHARED.fullmatch(said) if isinstance(said, str) else None
        count = said if shared is None else self._shared * int(shared["times"] or 1)
        fine = type(count) is int and 1 <= count <= PARTITIONS_MAX
        self._check(fine, "partitions", f"must be 1 to {PARTITIONS_MAX}, shared, or 2 x shared, is {said!r}")
        return int(count)

    def _cleanup(self) -> Cleanup:
        policy = self._text("cleanup")
        self._check(policy in set(Cleanup), "cleanup", f"must be delete or compact, is {policy}")
        return Cleanup(policy)

    def _retention_ms(self, cleanup: Cleanup) -> int | None:
        if cleanup is Cleanup.COMPACT:
            self._check(
                "retention" not in self._content, "retention", "a compacted topic keeps the last record of every key"
            )
            return None
        match = _RETENTION.fullmatch(self._text("retention"))
        if match is None:
            raise InvalidConfiguration("not a time like 7 d, 12 h or 30 min", where=f"{self._path}: retention")
        return int(match["count"]) * _UNIT_MS[match["unit"]]

    def _configs(self) -> Mapping[str, str]:
        configs = self._content.get("configs") or {}
        self._check(isinstance(configs, dict), "configs", "must be a mapping")
        return MappingProxyType({name: self._config(name, value) for name, value in configs.items()})

    def _config(self, name: object, value: object) -> str:
        key = f"configs.{name}"
        self._check(name not in _SAID_ELSEWHERE, key, "set elsewhere", _SAID_ELSEWHERE.get(str(name), ""))
        self._check(isinstance(name, str) and _CONFIG_NAME.fullmatch(name) is not None, key, "no setting of Kafka's")
        self._check(isinstance(value, str | int | float), key, f"must be a number, text or true/false, is {value!r}")
        return str(value).lower() if isinstance(value, bool) else str(value)


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice; YAML says so, PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)
