"""``apexstream topics``: what the catalogue declares, and making a cluster agree with it."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import say, write_data, write_json
from apexstream.cli.running import kafka_cluster
from apexstream.cli.table import write_table
from apexstream.contracts.catalogue import Topic, load_catalogue
from apexstream.contracts.grants import grants
from apexstream.contracts.plan import Action, TopicChange
from apexstream.contracts.schemas import load_schemas
from apexstream.log.admin import allow, apply, diff
from apexstream.log.registry import register
from apexstream.runtime.logs import configure_logs
from apexstream.runtime.settings import Settings, load_settings


def declared_topics(settings: Settings) -> list[Topic]:
    """The catalogue under the names of this installation."""
    catalogue = load_catalogue(tiers=settings.tier_order, partitions=settings.partitions)
    return [topic.renamed(settings.topic_prefix) for topic in catalogue]


def list_topics(output: str) -> ExitCode:
    """Show every declared topic."""
    topics = declared_topics(load_settings())
    if output == "json":
        for topic in topics:
            write_json(topic)
    else:
        write_table(
            ("topic", "partitions", "cleanup", "key", "value", "writers", "readers", "purpose"), map(_row, topics)
        )
    return ExitCode.OK


def diff_topics(output: str, *, force: bool) -> ExitCode:
    """Show what differs on the cluster; status 1 if anything does."""
    changes = _planned(diff, force=force)
    _show(changes, output)
    if not changes:
        say("the cluster has all topics as declared")
    return ExitCode.FAILED if changes else ExitCode.OK


def apply_topics(output: str, *, force: bool, allow_services: bool) -> ExitCode:
    """Make the cluster's topics what is declared, and its access rules if asked; status 1 if something is left that only a
    human can decide."""
    changes = _planned(apply, force=force)
    _show(changes, output)
    if not changes:
        say("nothing to do: the cluster has all topics as declared")
    settings = load_settings()
    if settings.schema_registry_url:
        ids = asyncio.run(register(settings.schema_registry_url, load_schemas()))
        say(f"{len(ids)} schemas are registered")
    if allow_services:
        needed = grants(declared_topics(settings), settings.topic_prefix)
        asyncio.run(allow(needed, kafka_cluster(settings)))
        say(f"{len(needed)} grants are in force")
    return ExitCode.FAILED if any(change.action is Action.NEEDS_HUMAN for change in changes) else ExitCode.OK


def list_grants(output: str) -> ExitCode:
    """Show what every service must be allowed."""
    settings = load_settings()
    needed = grants(declared_topics(settings), settings.topic_prefix)
    if output == "json":
        for grant in needed:
            write_json(grant)
    else:
        write_table(
            ("user", "resource", "name", "operations"),
            ((g.service, g.resource, g.name + "*" * g.prefix, " ".join(g.operations)) for g in needed),
        )
    return ExitCode.OK


def _planned(
    work: Callable[..., Coroutine[Any, Any, tuple[TopicChange, ...]]], *, force: bool
) -> Sequence[TopicChange]:
    settings = load_settings()
    configure_logs(settings, service="topics", own_errors=True)
    return asyncio.run(work(declared_topics(settings), kafka_cluster(settings), settings.replication, force=force))


def _show(changes: Sequence[TopicChange], output: str) -> None:
    for change in changes:
        write_json(change) if output == "json" else write_data(str(change))


def _row(topic: Topic) -> Sequence[str]:
    return (
        topic.name,
        str(topic.partitions),
        topic.cleanup + (f" {_hours(topic.retention_ms)}" if topic.retention_ms else ""),
        topic.key or "-",
        topic.value,
        " ".join(topic.writers),
        " ".join(topic.readers),
        topic.purpose,
    )


def _hours(milliseconds: int) -> str:
    hours = milliseconds / 3_600_000
    return f"{hours / 24:g} d" if hours >= 48 else f"{hours:g} h"
