"""What has to change for a cluster's topics to be what the catalogue says. Pure: :mod:`apexstream.log.admin` does it.

Nothing is ever deleted, and what only a human can decide is reported as such.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from apexstream.contracts.catalogue import Topic

CLUSTER_DEFAULT: Final = -1  # as a replication factor: whatever the cluster is configured for


class Action(StrEnum):
    """What applying a change does. ``NEEDS_HUMAN`` does nothing: it cannot or must not be done by a program."""

    CREATE = "create"
    ADD_PARTITIONS = "add partitions"
    ALTER = "alter"
    NEEDS_HUMAN = "needs a human"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicChange:
    """One difference between catalogue and cluster, or what was done about it.

    ``summary`` says what in a line; ``warning`` is what to know before doing it. ``partitions``, ``replication`` and
    ``settings`` are what the topic gets: all of them when it is created, else those that change.
    """

    topic: str
    action: Action
    summary: str
    warning: str = ""
    partitions: int = 0
    replication: int = CLUSTER_DEFAULT
    settings: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        line = f"{self.topic}: {self.action}: {self.summary}"
        return f"{line} ({self.warning})" if self.warning else line


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """A topic as a cluster has it. ``settings`` are the values in force, ``own`` the names of those set on the topic."""

    partitions: int
    replication: int
    settings: Mapping[str, str]
    own: frozenset[str] = frozenset()


def plan(
    topics: Iterable[Topic],
    state: Mapping[str, TopicState],
    replication: int = CLUSTER_DEFAULT,
    *,
    force: bool = False,
) -> tuple[TopicChange, ...]:
    """The changes that make ``state`` (topic name to what exists) what ``topics`` say, in the order of ``topics``.

    ``force`` allows more partitions for keyed topics.
    """
    changes: list[TopicChange] = []
    for topic in topics:
        existing = state.get(topic.name)
        if existing is None:
            changes.append(_creation(topic, replication))
        else:
            changes.extend(_differences(topic, existing, replication, force=force))
    return tuple(changes)


def _creation(topic: Topic, replication: int) -> TopicChange:
    copies = "the cluster's default replication" if replication == CLUSTER_DEFAULT else f"replication {replication}"
    return TopicChange(
        topic=topic.name,
        action=Action.CREATE,
        summary=f"{topic.partitions} partitions, {copies}, {_as_text(topic.settings(None))}",
        partitions=topic.partitions,
        replication=replication,
        settings=topic.settings(None if replication == CLUSTER_DEFAULT else replication),
    )


def _differences(topic: Topic, existing: TopicState, replication: int, *, force: bool) -> Iterable[TopicChange]:
    if existing.partitions != topic.partitions:
        yield _partition_change(topic, existing.partitions, force=force)
    if replication not in {CLUSTER_DEFAULT, existing.replication}:
        summary = f"replication {existing.replication}, should be {replication}; reassign its partitions"
        yield TopicChange(topic=topic.name, action=Action.NEEDS_HUMAN, summary=summary)
    wanted = topic.settings(existing.replication)
    differing = {name: value for name, value in wanted.items() if existing.settings.get(name) != value}
    if differing:
        summary = ", ".join(
            f"{name} {existing.settings.get(name)} → {value}" for name, value in sorted(differing.items())
        )
        yield TopicChange(topic=topic.name, action=Action.ALTER, summary=summary, settings=differing)
    unknown = {name: existing.settings[name] for name in existing.own - wanted.keys()}
    if unknown:
        summary = f"set on the topic but not in the catalogue: {_as_text(unknown)}"
        yield TopicChange(topic=topic.name, action=Action.NEEDS_HUMAN, summary=summary)


def _partition_change(topic: Topic, existing: int, *, force: bool) -> TopicChange:
    summary = f"partitions {existing} → {topic.partitions}"
    if topic.partitions < existing:
        warning = "Kafka cannot remove partitions; correct APEX_PARTITIONS or the catalogue, or make a new topic"
        return TopicChange(topic=topic.name, action=Action.NEEDS_HUMAN, summary=summary, warning=warning)
    moves = f"every {topic.key} may move to another partition, so that its old and new records lose their order"
    if topic.key is not None and not force:
        warning = f"{moves}; force it only while nothing is written and all readers have caught up"
        return TopicChange(topic=topic.name, action=Action.NEEDS_HUMAN, summary=summary, warning=warning)
    return TopicChange(
        topic=topic.name,
        action=Action.ADD_PARTITIONS,
        summary=summary,
        warning=moves if topic.key is not None else "",
        partitions=topic.partitions,
    )


def _as_text(settings: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(settings.items()))
