"""Builds a gateway from settings; the only place of this service that constructs adapters."""

import asyncio
import contextlib
import errno
import os
import random
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import structlog
import uvicorn

from apexstream.core.errors import InvalidConfiguration
from apexstream.core.events import Event
from apexstream.core.ids import new_id
from apexstream.gateway.access.build import make_access
from apexstream.gateway.access.patience import PatientHttp
from apexstream.gateway.access.uses import LoggedUses
from apexstream.gateway.app import make_app
from apexstream.gateway.commands import COMMAND_BYTES_MAX
from apexstream.gateway.control import Control
from apexstream.gateway.cursors import Cursors, shared_key
from apexstream.gateway.durable.assembly import Durable, Hands, Known
from apexstream.gateway.hub import Hub
from apexstream.gateway.mcp.endpoint import McpEndpoint
from apexstream.gateway.ownership import Ownership
from apexstream.gateway.parts import Parts
from apexstream.gateway.pipelines import KnownPipelines, Origins, Pipelines
from apexstream.gateway.registry import Registry
from apexstream.gateway.replay import Replays
from apexstream.gateway.sockets import FrameSocket, Outbox
from apexstream.gateway.static import page_folder
from apexstream.gateway.stats import KnownStats, Statistics
from apexstream.gateway.submissions import Submissions
from apexstream.log.cipher import key_provider
from apexstream.log.connection import connection
from apexstream.log.fetcher import LogReader, Partition
from apexstream.log.index import StreamIndex
from apexstream.log.outside import OutsideChunks
from apexstream.log.paths import PathIndex, Paths
from apexstream.log.pressure import report_pressure
from apexstream.log.registry import codec_of
from apexstream.log.segments import SegmentReader
from apexstream.log.tails import Relays, Tails
from apexstream.log.tiered import tier_topics
from apexstream.log.view import View
from apexstream.log.writer import Writer
from apexstream.runtime import tracing
from apexstream.runtime.clock import SystemClock
from apexstream.runtime.settings import Settings
from apexstream.runtime.supervise import run_until

USER_TIMEOUT_MS = 5_000  # a client that acknowledges nothing for this long is gone
SEND_BUFFER_BYTES = 256 * 1024

_log = structlog.get_logger(__name__)


async def serve(settings: Settings, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Serve until ``stop``, in this process or in ``gateway_workers`` others; ``ready`` is called with the base URL once tasks
    are taken and streams are relayed."""
    if settings.gateway_workers == 1:
        await serve_one(settings, ready=ready, stop=stop)
        return
    from apexstream.gateway.workers import serve_workers  # it starts this module in other processes

    await serve_workers(settings, ready=ready, stop=stop)


async def serve_one(
    settings: Settings, *, ready: Callable[[str], None], stop: asyncio.Event, shared: bool = False
) -> None:
    """Serve in this process; ``shared``: the port is also other workers'."""
    clock, codec, kafka, tiers = SystemClock(), await codec_of(settings), connection(settings), settings.tier_order
    secret = shared_key(settings)
    uses = LoggedUses(
        codec,
        lambda nonce, used: publish("tickets", nonce, used),  # made below
        clock,
        lambda: os.urandom(12).hex(),
    )
    access = await make_access(settings, clock, secret, uses)  # first: it may refuse to listen there at all
    listener = listen(settings.host, settings.port, shared=shared)
    name, keys = settings.instance_name("gateway"), key_provider(settings)
    topics = {
        topic: settings.topic(topic)
        for topic in (
            *(f"tasks.{tier}" for tier in tiers.names),
            "control",
            "task-events",
            "chunks",
            "dead-letters",
            "pipelines",
            "paths",
            "tickets",
        )
    }
    async with (
        Writer(kafka, client_id=name, timeout_s=settings.append_timeout_s) as writer,
        LogReader(kafka, client_id=f"{name}-view") as views,
        LogReader(kafka, client_id=f"{name}-tail") as tails,
        LogReader(kafka, client_id=f"{name}-scan") as scans,
        LogReader(kafka, client_id=f"{name}-streams") as states,
        StreamIndex(
            states,
            settings.topic("streams"),
            codec,
            lambda stream_id: hub.gone(stream_id),  # noqa: PLW0108 - the hub is made below
            lambda stream_id: hub.known(stream_id),  # noqa: PLW0108
        ) as index,
        LogReader(kafka, client_id=f"{name}-stats") as stats_reads,
        KnownStats(stats_reads, settings.topic("stats"), codec) as stats,
        LogReader(kafka, client_id=f"{name}-paths") as path_reads,
        PathIndex(
            path_reads,
            scans,
            settings.topic("paths"),
            codec,
            lambda state: hub.known(state.stream_id),  # the hub is made below
        ) as path_index,
    ):
        await scans.partitions(settings.topic("segments"))
        await writer.prepare(*topics.values())
        await scans.partitions(topics["chunks"])
        await tails.partitions(topics["chunks"])
        registry = Registry(
            codec,
            lambda task_id: hub.known(task_id),  # noqa: PLW0108 - the hub is made below
            tiers,
            tenant_waiting_max=settings.tenant_waiting_max,
        )
        known = Known(registry, path_index)
        pipelines = KnownPipelines(codec, lambda stream_id: hub.known(stream_id))  # noqa: PLW0108 - the hub is made below
        origins = Origins(known, pipelines, index.get)
        ownership = Ownership(origins.tenant, index.get)
        relays = Relays()
        watched = Tails(tails, relays)
        segments = SegmentReader(scans, settings.topic("segments"), codec)
        hub = Hub(
            lambda on_records: relays.joined(on_records, watched),
            scans,
            codec,
            partition_of=lambda stream_id: _partition(writer, topics["chunks"], stream_id),
            since_ms=origins.since_ms,
            owner=ownership.owner,
            index=index,
            replays=Replays(segments, keys),
            keys=keys,
            now_us=clock.now_us,
            action_of=registry.action_of,
            traceparent_of=registry.traceparent_of,
        )
        view = await View.open(
            views,
            {
                **dict.fromkeys(await tier_topics(views, settings.topic("tasks."), tiers), registry.on_submissions),
                topics["task-events"]: registry.on_task_events,
                topics["dead-letters"]: registry.on_dead_letters,
                topics["pipelines"]: pipelines.on_pipelines,
                topics["tickets"]: uses.on_records,
                settings.topic("runners"): registry.on_runners,
                settings.topic("queue"): registry.order.on_queue_state,
            },
        )

        async def publish(topic: str, key: str, event: Event | None) -> int:
            value = None if event is None else codec.encode(event)
            headers = tracing.headers_of(getattr(event, "traceparent", ""))
            return await writer.append(topics[topic], key.encode(), value, headers=headers)

        def is_ready() -> str:
            caught_up = (view.caught_up, index.caught_up, path_index.caught_up)
            behind = "" if all(each.is_set() for each in caught_up) else "still reading what happened before"
            return writer.trouble() or behind

        cursors = Cursors(secret, await scans.topic_id(topics["chunks"]))

        def new_identifier() -> str:
            return new_id(clock.now_us() // 1000, os.urandom(10))

        durable = Durable(
            Hands(
                log=OutsideChunks(
                    topics["chunks"],
                    codec,
                    reader=scans,
                    writer=writer,
                    index=index,
                    segments=segments,
                    writer_id=f"{name}.{os.urandom(4).hex()}",
                    now_us=clock.now_us,
                ),
                tails=watched,
                hub=hub,
                paths=Paths(
                    path_index,
                    codec,
                    lambda key, value: writer.append(topics["paths"], key, value),
                    new_identifier,
                ),
                index=index,
                cursors=cursors,
                codec=codec,
                keys=keys,
                publish=publish,
                clock=clock,
                new_id=new_identifier,
                random=random.random,
                append_timeout_s=settings.append_timeout_s,
                long_poll_s=settings.long_poll_s,
            )
        )
        relays.joined(durable.writers.on_records, watched)  # after the hub: who has appended can read it at once
        parts = Parts(
            registry=registry,
            ownership=ownership,
            access=access,
            hub=hub,
            cursors=cursors,
            publish=publish,
            clock=clock,
            tiers=tiers,
            new_task_id=new_identifier,
            name=name,
            is_ready=is_ready,
        )
        refused = "pipelines keep what they hold unencrypted, and APEX_ENCRYPTION is on" if keys else ""
        mcp = McpEndpoint(parts, Control(parts), Submissions(parts))
        routes_of_pipelines = Pipelines(parts, pipelines, origins.status, refused)
        statistics = Statistics(parts, stats.history)
        app = make_app(parts, durable, (routes_of_pipelines, mcp, statistics), page_folder())
        server = _Server(_config(app, settings))

        async def web() -> None:
            await view.caught_up.wait()
            await index.caught_up.wait()
            await path_index.caught_up.wait()
            url = f"http://{settings.host}:{listener.getsockname()[1]}"
            await _serve_web(server, listener, mcp, ready=lambda: ready(url), drain=hub.drain)

        pressure = report_pressure(
            hub.behind, lambda key, value: writer.append(topics["control"], key, value), codec, clock, reader=name
        )
        await run_until(stop, view.run(), stats.run(), index.run(), hub.run(), pressure, *durable.loops(), web())


async def _serve_web(
    server: "_Server",
    listener: socket.socket,
    mcp: McpEndpoint,
    *,
    ready: Callable[[], None],
    drain: Callable[[], None],
) -> None:
    """Until cancelled; what is under way is then told to go, and waited for."""
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="uvicorn")
    assisting = asyncio.create_task(mcp.run(), name="mcp")
    try:
        await server.listening.wait()
        ready()
        await asyncio.shield(serving)
    finally:
        drain()
        server.should_exit = True
        await serving
        assisting.cancel()
        await asyncio.gather(assisting, return_exceptions=True)


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket, bound before anything else is started, so that a taken port is reported at once.

    ``shared``: several processes listen there, and the kernel spreads connections over them.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # inherited by accepted connections
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
        listener.listen(4096)
    except OSError as problem:
        listener.close()
        why = "the port is taken" if problem.errno == errno.EADDRINUSE else os.strerror(problem.errno or 0)
        raise InvalidConfiguration(
            why, where=f"{host}:{port}", hint="Choose another with APEX_PORT or --port"
        ) from problem
    listener.setblocking(False)
    return listener


def _partition(writer: Writer, topic: str, stream_id: str) -> Partition:
    return topic, writer.partition_of(topic, stream_id.encode())


def _config(app: Any, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=PatientHttp,
        ws=partial(FrameSocket, Outbox()),  # type: ignore[arg-type]  # all that is done with a class is calling it
        ws_max_size=COMMAND_BYTES_MAX,
        ws_per_message_deflate=False,  # costs CPU and memory per client, and a compression bomb is one frame away
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, int(settings.drain_timeout_s)),
    )


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: this process already has an owner for that."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when connections are accepted."""
        await super().startup(sockets)
        self.listening.set()
