"""The Faust application: one agent that takes runs of work, and the table in which jobs remember. Both are bound to their topics
here and nowhere else."""

import asyncio
import logging
import tempfile
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from faust.auth import SASLCredentials, SSLCredentials

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import ChunkRun
from apexstream.core.errors import Unavailable
from apexstream.log.connection import Connection
from apexstream.log.fetcher import Partition
from apexstream.processors import watchdog as watching
from apexstream.processors.faust_mends import MendedApp, MendedSchema
from apexstream.processors.table import TableRows
from apexstream.processors.watchdog import Watchdog
from apexstream.runtime import meters


class Stalled(Unavailable):
    """The agent had stopped consuming."""


Take = Callable[[int, ChunkRun], None]
"""Takes a partition and a record of work in it."""
Settle = Callable[[frozenset[int]], Awaitable[None]]
"""Takes the partitions that this process owns, with their rows recovered; none: it is about to lose some."""

Ends = Callable[[Iterable[Partition]], Awaitable[dict[Partition, int]]]
"""The offsets after the last record of partitions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """Full names, and how many partitions both have."""

    work: str
    state: str
    partitions: int


async def run_faust(
    kafka: Connection,
    topics: Topics,
    *,
    group: str,
    client_id: str,
    codec: Codec,
    standby: int,
    session_timeout_s: float,
    take: Take,
    settle: Settle,
    rows: TableRows,
    watchdog: Watchdog,
    ends: Ends,
) -> None:
    """Work as a member of ``group`` until cancelled; raises what the application crashed of, and :class:`Stalled`. ``ends`` gives
    the ends of partitions."""
    for chatty in ("faust", "mode", MendedApp.__module__):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="apexstream-faust-") as folder:
        app = _make(
            kafka,
            topics,
            Path(folder),
            group,
            client_id,
            codec=codec,
            standby=standby,
            session_timeout_s=session_timeout_s,
            take=take,
            settle=settle,
            rows=rows,
            watchdog=watchdog,
        )
        await app.start()
        stopped = asyncio.ensure_future(app.wait_until_stopped())
        try:
            while not stopped.done():
                await asyncio.wait({stopped}, timeout=watching.LOOK_S)
                if await _stalled(app, topics.work, watchdog, ends):
                    raise Stalled(watchdog.trouble, where=group, hint="It is started again")
        finally:
            stopped.cancel()
            await asyncio.gather(stopped, return_exceptions=True)
            await app.stop()
        raise Unavailable(f"Faust has stopped: {app.crash_reason!r}", where=group, hint="It starts over")


async def _stalled(app: Any, work: str, watchdog: Watchdog, ends: Ends) -> bool:
    owned = [(tp.topic, tp.partition) for tp in app.consumer.assignment() if tp.topic == work]
    try:
        found = {partition: end for (_, partition), end in (await ends(owned)).items()}
    except Unavailable:  # a broker that does not answer is nobody's stall
        return False
    return bool(owned) and watchdog.look(found, monotonic())


def _make(
    kafka: Connection,
    topics: Topics,
    folder: Path,
    group: str,
    client_id: str,
    *,
    codec: Codec,
    standby: int,
    session_timeout_s: float,
    take: Take,
    settle: Settle,
    rows: TableRows,
    watchdog: Watchdog,
) -> Any:
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
        topic_partitions=topics.partitions,
        topic_allow_declare=False,  # topics are the catalogue's
        topic_disable_leader=True,
        stream_recovery_delay=0.0,
        web_enabled=False,
        autodiscover=False,
        datadir=str(folder),
    )

    work = app.topic(topics.work, schema=MendedSchema(codec.decode_run))
    table = app.Table(
        "state",
        partitions=topics.partitions,
        key_type=bytes,
        value_type=bytes,
        changelog_topic=app.topic(topics.state, schema=MendedSchema(_as_it_is)),
    )

    async def take_runs(stream: Any) -> None:
        """Hands over every run; jobs work by themselves, so none waits for another."""
        async for event in stream.events():
            watchdog.took(event.message.partition, event.message.offset)
            take(event.message.partition, event.value)

    app.agent(work, name="take-runs")(take_runs)

    restore, began = meters.PIPELINE_RESTORE.of(), monotonic()

    async def settled() -> None:
        owned = frozenset(tp.partition for tp in app.consumer.assignment() if tp.topic == topics.work)
        watchdog.own(owned, monotonic())
        restore.observe(monotonic() - began)
        await settle(owned)

    async def unsettled(*_: Any, **__: Any) -> None:
        nonlocal began
        began = monotonic()
        watchdog.own(None, began)
        await settle(frozenset())

    table.on_recover(settled)
    app.on_partitions_revoked.connect(unsettled, weak=False)
    rows.bind(table.data)
    return app


def _as_it_is(value: bytes | None) -> bytes | None:
    """A row's bytes; None: it was deleted."""
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
