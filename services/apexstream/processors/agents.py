"""The Faust application of pipelines: one agent that takes runs of work, and the table in which jobs remember. Both are bound to
their topics here and nowhere else."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import ChunkRun
from apexstream.log.connection import Connection
from apexstream.processors.application import Ends, Settle, Watch, application, keep_table
from apexstream.processors.faust_mends import MendedSchema
from apexstream.processors.table import TableRows
from apexstream.processors.watchdog import Watchdog
from apexstream.runtime import meters

Take = Callable[[int, ChunkRun], None]
"""Takes a partition and a record of work in it."""


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
    watch = Watch(topic=topics.work, watchdog=watchdog, ends=ends)
    async with application(
        kafka,
        group=group,
        client_id=client_id,
        partitions=topics.partitions,
        standby=standby,
        session_timeout_s=session_timeout_s,
        watch=watch,
    ) as app:
        work = app.topic(topics.work, schema=MendedSchema(codec.decode_run))
        app.agent(work, name="take-runs")(_taking(take, watchdog))
        rows.bind(
            keep_table(app, "state", topics.state, partitions=topics.partitions, watch=watch, settle=_timed(settle))
        )


def _taking(take: Take, watchdog: Watchdog) -> Callable[[Any], Awaitable[None]]:
    async def take_runs(stream: Any) -> None:
        """Hands over every run; jobs work by themselves, so none waits for another."""
        async for event in stream.events():
            watchdog.took(event.message.partition, event.message.offset)
            take(event.message.partition, event.value)

    return take_runs


def _timed(settle: Settle) -> Settle:
    """``settle``, and how long it took from the loss of the old partitions, or from the start, to the rows of the new ones."""
    restore, began = meters.PIPELINE_RESTORE.of(), monotonic()

    async def timed(owned: frozenset[int]) -> None:
        nonlocal began
        if owned:
            restore.observe(monotonic() - began)
        else:
            began = monotonic()
        await settle(owned)

    return timed
