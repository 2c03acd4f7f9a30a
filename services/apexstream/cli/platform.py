"""Kafka and the services together: started side by side, kept running, stopped in order."""

import asyncio
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import structlog

from apexstream.cli.kafka import Kafka
from apexstream.cli.keeper import Keeper
from apexstream.cli.restarts import RestartPolicy
from apexstream.cli.running import kafka_cluster
from apexstream.cli.serve import SERVICES
from apexstream.cli.timings import Timings
from apexstream.cli.topics import declared_topics
from apexstream.client import Client
from apexstream.core.errors import Unavailable
from apexstream.log.admin import apply
from apexstream.log.fetcher import LogReader
from apexstream.log.pull import Pull
from apexstream.runtime.clock import Clock
from apexstream.runtime.lifecycle import ABANDON_GRACE_S
from apexstream.runtime.settings import Settings

STOP_MARGIN_S = 1.0
OFFER_TIMEOUT_S = 10.0
OFFER_POLL_S = 0.02
PIPELINES_WAIT_MS = 10_000

_log = structlog.get_logger("apexstream.up")


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the platform is reached: the gateway's base URL, the stream socket, Kafka."""

    url: str
    websocket: str
    kafka: str


class Platform:
    """All of ApexStream on this machine. ``kafka`` is being started already."""

    def __init__(
        self, settings: Settings, *, kafka: Kafka, clock: Clock, timings: Timings, policy: RestartPolicy
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._timings = timings
        self._kafka = kafka
        self._bootstrap: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._port = settings.port
        self._keepers = {
            name: Keeper(name, partial(self._environ, name), policy=policy, clock=clock, timings=timings)
            for name in SERVICES
        }
        self._work: list[asyncio.Task[None]] = []
        self._later: asyncio.Task[None] | None = None

    async def start(self) -> Addresses:
        """Start everything and return once all of it serves. Raises what keeps a part from starting."""
        needed = {name: keeper for name, keeper in self._keepers.items() if name != "processors"}
        self._work = [asyncio.create_task(keeper.run(), name=name) for name, keeper in needed.items()]
        bootstrap = await self._start_kafka()
        self._bootstrap.set_result(bootstrap)
        await asyncio.gather(*(keeper.ready for keeper in needed.values()))
        addresses = self._addresses(self._keepers["gateway"].ready.result(), bootstrap)
        await self._offered(addresses.url)
        self._timings.mark("all ready")
        if self._settings.processors == "on" and self._settings.encryption == "off":
            self._later = asyncio.create_task(self._process(bootstrap), name="processors")
        return addresses

    async def keep(self) -> None:
        """Keep Kafka running; raises once it is lost for good. The services are kept by themselves."""
        await self._kafka.keep()
        await asyncio.Event().wait()  # there is nothing of ours to keep

    async def given_up(self) -> None:
        """Return once a service is in a crash loop and is not started again."""
        await asyncio.wait(self._work, return_when=asyncio.FIRST_COMPLETED)

    async def stop(self) -> None:
        """Stop the services in order, then the broker; what does not stop in time is killed."""
        for keeper in self._keepers.values():
            keeper.stop()
        if self._later is not None:
            if self._keepers["processors"].pid is None:
                self._later.cancel()  # there was no pipeline
            self._work.append(self._later)
        if self._work:
            timeout_s = self._settings.drain_timeout_s + 2 * ABANDON_GRACE_S + STOP_MARGIN_S
            _, late = await asyncio.wait(self._work, timeout=timeout_s)
            if late:
                _log.error("services did not stop in time and are killed", late=[task.get_name() for task in late])
        for keeper in self._keepers.values():
            keeper.kill()
        await self._kafka.stop()
        await asyncio.gather(*self._work, return_exceptions=True)
        self._timings.mark("stopped")

    def kill(self) -> None:
        """End every process at once."""
        for keeper in self._keepers.values():
            keeper.kill()
        self._kafka.kill()

    def pids(self) -> dict[str, int | None]:
        """The process ids of the services and of the embedded broker."""
        return {**{name: keeper.pid for name, keeper in self._keepers.items()}, "broker": self._kafka.pid}

    async def _start_kafka(self) -> str:
        bootstrap = await self._kafka.start()
        self._timings.mark("broker ready")
        await apply(
            declared_topics(self._settings),
            kafka_cluster(self._settings.model_copy(update={"bootstrap_servers": bootstrap})),
            self._settings.replication,
        )
        self._timings.mark("topics ready")
        return bootstrap

    async def _process(self, bootstrap: str) -> None:
        """Run processors, at once for statistics or from the first pipeline on: before, they cost one request in ten seconds."""
        keeper = self._keepers["processors"]
        keeper.ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())  # it says so in the log
        if self._settings.stats != "on":
            await self._first_pipeline(bootstrap)
        await keeper.run()

    async def _first_pipeline(self, bootstrap: str) -> None:
        place = (self._settings.topic("pipelines"), 0)
        cluster = kafka_cluster(self._settings.model_copy(update={"bootstrap_servers": bootstrap}))
        async with LogReader(cluster, client_id="apexstream-up") as reader:
            await reader.partitions(place[0])
            pipelines = Pull(reader, place, (await reader.starts([place]))[place])
            while not await pipelines.next(PIPELINES_WAIT_MS):
                pass

    async def _offered(self, url: str) -> None:
        """Wait until the gateway has read of the runner: before that it refuses tasks."""
        deadline = self._clock.monotonic() + OFFER_TIMEOUT_S
        async with Client(url) as client:
            while not (await client.actions()).runners:
                if self._clock.monotonic() > deadline:
                    raise Unavailable("the gateway knows of no runner", where=url, hint="See the runner's log")
                await asyncio.sleep(OFFER_POLL_S)

    async def _environ(self, service: str) -> Mapping[str, str]:
        """What a service is told in addition to our own environment, as soon as Kafka can be used."""
        bootstrap = await asyncio.shield(self._bootstrap)
        environ = {"KAFKA_BOOTSTRAP_SERVERS": bootstrap, "APEX_PORT": str(self._port)}
        if self._settings.metrics_port:
            environ["APEX_METRICS_PORT"] = _counted(self._settings.metrics_port, service)
        # A service is started again only once its last process has ended, and keeps its name.
        name = self._settings.instance or f"{socket.gethostname().lower()[:40]}-{os.getpid()}"
        return {**environ, "APEX_INSTANCE": f"{name}-{service}", "APEX_SOLE_INSTANCE": "true"}

    def _addresses(self, url: str, bootstrap: str) -> Addresses:
        port = urlsplit(url).port
        assert port is not None  # noqa: S101 - the gateway reports the port that it bound
        self._port = port  # a gateway that is started again must not move
        shown = self._settings.model_copy(update={"port": port, "gateway_url": ""}).url
        return Addresses(shown, f"ws{shown.removeprefix('http')}/stream", bootstrap)


def _counted(port: int | str, service: str) -> str:
    """The port of a service's metrics: services on one machine each need their own."""
    return str(port + SERVICES.index(service)) if isinstance(port, int) else port
