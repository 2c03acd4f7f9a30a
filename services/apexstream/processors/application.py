"""A Faust application as every use of it here needs it: mended, on the platform's topics, at least once, in memory."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any

from faust.auth import SASLCredentials, SSLCredentials

from apexstream.core.errors import Unavailable
from apexstream.log.connection import Connection
from apexstream.log.fetcher import Partition
from apexstream.processors import watchdog as watching
from apexstream.processors.faust_mends import MendedApp, MendedSchema, MendedStore
from apexstream.processors.watchdog import Stalled, Watchdog

Ends = Callable[[Iterable[Partition]], Awaitable[dict[Partition, int]]]
"""Gives the ends of partitions."""
Settle = Callable[[frozenset[int]], Awaitable[None]]
"""Takes the partitions that this process owns, with their rows recovered; none: it is about to lose some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What tells an agent that has stopped: it should take what comes to ``topic``."""

    topic: str
    watchdog: Watchdog
    ends: Ends


@asynccontextmanager
async def application(
    kafka: Connection,
    *,
    group: str,
    client_id: str,
    partitions: int,
    standby: int,
    session_timeout_s: float,
    watch: Watch,
) -> AsyncIterator[MendedApp]:
    """An application to bind agents and tables to in the body of the context; it then runs as a member of ``group`` until
    cancelled. Raises what it crashed of, and :class:`Stalled`."""
    for chatty in ("faust", "mode", MendedApp.__module__):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="apexstream-faust-") as folder:
        app = MendedApp(
            group,
            broker=[f"kafka://{server}" for server in kafka.servers.split(",")],
            broker_client_id=client_id,
            broker_credentials=_credentials(kafka),
            broker_session_timeout=session_timeout_s,
            broker_heartbeat_interval=session_timeout_s / 10,
            broker_commit_interval=1.0,
            broker_max_poll_interval=60.0,
            consumer_auto_offset_reset="earliest",
            processing_guarantee="at_least_once",
            store="memory://",
            table_standby_replicas=standby,
            topic_partitions=partitions,
            topic_allow_declare=False,  # topics are the catalogue's
            topic_disable_leader=True,
            stream_recovery_delay=0.0,
            web_enabled=False,
            autodiscover=False,
            datadir=folder,
        )
        yield app
        await _run(app, watch, group)


async def _run(app: MendedApp, watch: Watch, group: str) -> None:
    """Start, watch from the first moment on, since a start waits for the first rebalance, and stop whatever was started."""
    watch.watchdog.own(None, monotonic())
    running = asyncio.create_task(_start(app))
    try:
        while not running.done():
            await asyncio.wait({running}, timeout=watching.LOOK_S)
            if await _stalled(app, watch):
                raise Stalled(watch.watchdog.trouble, where=group, hint="It is started again")
        running.result()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await app.stop()
    raise Unavailable(f"Faust has stopped: {app.crash_reason!r}", where=group, hint="It starts over")


async def _start(app: MendedApp) -> None:
    await app.start()
    await app.wait_until_stopped()


async def _stalled(app: MendedApp, watch: Watch) -> bool:
    asked = watch.watchdog.owned or {0}  # of one at least, to learn whether there is a broker
    try:
        found = await watch.ends([(watch.topic, partition) for partition in asked])
    except Unavailable:  # a broker that does not answer is nobody's stall
        return False
    watch.watchdog.recovered(app.recovered(), monotonic())
    return watch.watchdog.look({partition: end for (_, partition), end in found.items()}, monotonic())


def keep_table(
    app: MendedApp, name: str, changelog: str, *, partitions: int, watch: Watch, settle: Settle
) -> MendedStore:
    """The memory of a table of bytes that is kept in the topic ``changelog``, which has as many partitions as ``watch.topic``.
    ``settle`` is told which of these are owned, after each rebalance once their rows are there."""
    table = app.Table(
        name,
        partitions=partitions,
        key_type=bytes,
        value_type=bytes,
        changelog_topic=app.topic(changelog, schema=MendedSchema(as_it_is)),
    )

    async def settled() -> None:
        owned = frozenset(tp.partition for tp in app.consumer.assignment() if tp.topic == watch.topic)
        watch.watchdog.own(owned, monotonic())
        await settle(owned)

    async def unsettled(*_: Any, **__: Any) -> None:
        watch.watchdog.own(None, monotonic())
        await settle(frozenset())

    table.on_recover(settled)
    app.on_partitions_revoked.connect(unsettled, weak=False)
    store: MendedStore = table.data
    return store


def as_it_is(value: bytes | None) -> bytes | None:
    """For a schema: a record's bytes; None: a tombstone."""
    return value


def _credentials(kafka: Connection) -> Any:
    """What Faust is told of TLS and SASL; None: an open listener."""
    security = kafka.security
    if "sasl_mechanism" in security:
        return SASLCredentials(
            username=security["sasl_plain_username"],
            password=security["sasl_plain_password"],
            mechanism=security["sasl_mechanism"],
            ssl_context=security.get("ssl_context"),
        )
    return SSLCredentials(security["ssl_context"]) if "ssl_context" in security else None
