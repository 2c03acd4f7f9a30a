"""The platform's Kafka: the embedded broker, kept running, or someone else's cluster, which is only used."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

import structlog

from apexstream.cli.restarts import RestartPolicy, Restarts
from apexstream.core.errors import ApexError, InvalidConfiguration, Unavailable
from apexstream.log.broker import EmbeddedBroker
from apexstream.runtime.clock import Clock
from apexstream.runtime.settings import Settings

LOOK_S = 0.5  # how often we look whether the broker still runs
ABORT_STEP_S = 0.1

_log = structlog.get_logger("apexstream.up")


class Kafka:
    """Kafka as the supervisor handles it. Everything that blocks is done in a thread."""

    def __init__(self, settings: Settings, *, clock: Clock, policy: RestartPolicy) -> None:
        self._servers = settings.bootstrap_servers
        self._clock = clock
        self._restarts = Restarts(policy)
        self._thread = ThreadPoolExecutor(1, "kafka")
        self._starting: Future[str] | None = None
        self._broker: EmbeddedBroker | None = None
        if not settings.bootstrap_servers:
            if settings.kafka_security_protocol != "PLAINTEXT":
                raise InvalidConfiguration(
                    "credentials are set, but no cluster to use them on",
                    where="KAFKA_SECURITY_PROTOCOL",
                    hint="Set KAFKA_BOOTSTRAP_SERVERS; the embedded broker has open listeners on this machine only",
                )
            self._broker = EmbeddedBroker(settings.home_path, settings.cache_path, port=settings.kafka_port)

    @property
    def pid(self) -> int | None:
        """The embedded broker's process id while it runs."""
        return None if self._broker is None else self._broker.pid

    def boot(self) -> None:
        """Begin to start the embedded broker if there is one; needs no event loop yet. :meth:`start` waits for it."""
        if self._broker is not None:
            self._starting = self._thread.submit(self._broker.start)

    async def start(self) -> str:
        """Return where Kafka is, once it serves."""
        if self._starting is not None:
            self._servers = await asyncio.wrap_future(self._starting)
        return self._servers

    async def keep(self) -> None:
        """Start the embedded broker again whenever it ends; raises once that does not help."""
        if self._broker is None:
            return
        while True:
            while self._broker.running:  # noqa: ASYNC110 - another process, which cannot set an event
                await asyncio.sleep(LOOK_S)
            delay_s = self._restarts.crashed(self._clock.monotonic())
            if delay_s is None:
                raise Unavailable("the embedded broker ends again and again", where=str(self._broker.log_path))
            _log.error("the embedded broker ended, starting it again", log=str(self._broker.log_path), in_s=delay_s)
            await asyncio.sleep(delay_s)
            await self._restart()

    async def _restart(self) -> None:
        before = self._servers
        self.boot()
        try:
            after = await self.start()
        except ApexError as problem:
            _log.error("the embedded broker did not start", error=str(problem))
            return
        if after != before:
            # Every service and client was told the old address.
            raise Unavailable(f"the embedded broker lost its port to someone else and is now at {after}", where=before)
        _log.info("the embedded broker is back", at=after)

    async def stop(self) -> None:
        """Stop the embedded broker in order, also one that is still being started."""
        if self._broker is None:
            return
        while self._starting is not None and not self._starting.done():
            await asyncio.to_thread(self._broker.kill)  # nothing was acknowledged yet: a start need not end in order
            await asyncio.sleep(ABORT_STEP_S)
        if not await asyncio.to_thread(self._broker.stop):
            _log.error("the embedded broker did not stop in time and was killed")

    def kill(self) -> None:
        """End the embedded broker at once."""
        if self._broker is not None:
            self._broker.kill()
