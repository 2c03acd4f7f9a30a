"""Puts the parts of the Durable Streams protocol together, given the gateway's hands on the log."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from starlette.routing import BaseRoute

from apexstream.contracts.codec import Codec
from apexstream.core.events import ControlCommand, ControlVerb
from apexstream.gateway.cursors import Cursors
from apexstream.gateway.durable.janitor import Janitor
from apexstream.gateway.durable.routes import Check, DurableRoutes, Who
from apexstream.gateway.durable.streams import DurableStreams
from apexstream.gateway.durable.writers import Writers
from apexstream.gateway.hub import Hub
from apexstream.gateway.parts import Publish
from apexstream.gateway.registry import Registry
from apexstream.log.cipher import KeyProvider
from apexstream.log.index import StreamIndex
from apexstream.log.outside import OutsideChunks
from apexstream.log.paths import PathIndex, Paths
from apexstream.log.tails import Tails
from apexstream.runtime.clock import Clock

STREAM_PREFIX = "ds-"  # of the ids of streams that are written from outside


class Known:
    """What is known of streams before anything of them was read: of tasks' from their tasks, of others from their paths."""

    def __init__(self, registry: Registry, paths: PathIndex) -> None:
        self._registry = registry
        self._paths = paths

    def since_ms(self, stream_id: str) -> int | None:
        """When it began (milliseconds since the epoch), or before; None: nothing is known."""
        if not stream_id.startswith(STREAM_PREFIX):
            return self._registry.since_ms(stream_id)
        path = self._paths.of_stream(stream_id)
        return None if path is None else path.created_us // 1000

    def tenant(self, stream_id: str) -> str | None:
        """Whose it is; None: nothing is known."""
        if not stream_id.startswith(STREAM_PREFIX):
            return self._registry.tenant(stream_id)
        path = self._paths.of_stream(stream_id)
        return None if path is None else path.path.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What the gateway has anyway."""

    log: OutsideChunks
    tails: Tails
    hub: Hub
    paths: Paths
    index: StreamIndex
    cursors: Cursors
    codec: Codec
    keys: KeyProvider | None
    publish: Publish
    clock: Clock
    new_id: Callable[[], str]
    random: Callable[[], float]
    append_timeout_s: float
    long_poll_s: float


class Durable:
    """The protocol, ready to be served. ``writers`` must be given what ``hands.tails`` brings, after the hub."""

    def __init__(self, hands: Hands) -> None:
        clock = hands.clock
        self.writers = Writers(
            hands.log,
            hands.tails,
            hands.codec,
            keys=hands.keys,
            now_us=clock.now_us,
            monotonic=clock.monotonic,
            random=hands.random,
            timeout_s=hands.append_timeout_s,
        )
        self._hands = hands
        self._streams = DurableStreams(
            hands.paths,
            self.writers,
            hands.hub,
            hands.cursors,
            forget=self._forget,
            now_us=clock.now_us,
            new_stream_id=lambda: STREAM_PREFIX + hands.new_id(),
        )
        self._janitor = Janitor(self._streams, hands.paths, hands.index, now_us=clock.now_us, random=hands.random)

    def routes(self, who: Who, check: Check) -> list[BaseRoute]:
        """What is served."""
        hands = self._hands
        return DurableRoutes(
            self._streams,
            hands.hub,
            hands.cursors,
            who=who,
            check=check,
            now_us=hands.clock.now_us,
            random=hands.random,
            long_poll_s=hands.long_poll_s,
        ).routes()

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run meanwhile."""
        return [self._hands.paths.index.run(), self._hands.paths.repair(), self._janitor.run(), self.writers.run()]

    async def _forget(self, stream_id: str, tenant: str) -> None:
        command = ControlCommand(
            task_id=stream_id,
            verb=ControlVerb.FORGET,
            at_us=self._hands.clock.now_us(),
            reason="its path was deleted",
            tenant=tenant,
        )
        await self._hands.publish("control", stream_id, command)
