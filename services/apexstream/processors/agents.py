"""The Faust application of pipelines: one agent that takes runs of work, and the table in which jobs remember. Both are bound to
their topics here and nowhere else."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import ChunkRun
from apexstream.log.connection import Connection
from apexstream.processors.application import Ends, Watch, application, as_it_is
from apexstream.processors.faust_mends import MendedApp, MendedSchema
from apexstream.processors.table import TableRows
from apexstream.processors.watchdog import Watchdog
from apexstream.runtime import meters

Take = Callable[[int, ChunkRun], None]
"""Takes a partition and a record of work in it."""
Settle = Callable[[frozenset[int]], Awaitable[None]]
"""Takes the partitions that this process owns, with their rows recovered; none: it is about to lose some."""


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
    async with application(
        kafka,
        group=group,
        client_id=client_id,
        partitions=topics.partitions,
        standby=standby,
        session_timeout_s=session_timeout_s,
        watch=Watch(topic=topics.work, watchdog=watchdog, ends=ends),
    ) as app:
        _bind(app, topics, codec, take=take, settle=settle, rows=rows, watchdog=watchdog)


def _bind(
    app: MendedApp, topics: Topics, codec: Codec, *, take: Take, settle: Settle, rows: TableRows, watchdog: Watchdog
) -> None:
    work = app.topic(topics.work, schema=MendedSchema(codec.decode_run))
    table = app.Table(
        "state",
        partitions=topics.partitions,
        key_type=bytes,
        value_type=bytes,
        changelog_topic=app.topic(topics.state, schema=MendedSchema(as_it_is)),
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
