"""The delivery engine: gives every viewer its stream, from where it wants it to the end, with no seam and nothing twice.

:mod:`watched` has the live streams, :mod:`catching_up` brings a viewer up to where its stream is. What a rewind took back is
never replayed; a viewer that has some of it is told.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.claims import is_adaptive
from apexstream.core.errors import (
    ChunkDecodeError,
    DataCorruption,
    Erased,
    Expired,
    InvalidRequest,
    Unavailable,
)
from apexstream.core.events import StreamStatus
from apexstream.gateway.access.principal import sees
from apexstream.gateway.catching_up import CatchingUp
from apexstream.gateway.encoding import Encoding
from apexstream.gateway.live import TailMemory
from apexstream.gateway.measures import ActionOf, action_unknown
from apexstream.gateway.replay import Replays
from apexstream.gateway.subscription import Start, Subscription, Viewer
from apexstream.gateway.watched import WatchedStreams
from apexstream.log.cipher import KeyProvider
from apexstream.log.fetcher import LogReader, Partition
from apexstream.log.index import StreamIndex
from apexstream.log.tails import MakeTails
from apexstream.runtime import meters, tracing

_log = structlog.get_logger(__name__)


class _Draining:
    """Among those who are told, while it lasts. A generator would take four times the memory, for every connection."""

    __slots__ = ("_stop", "_stops")

    def __init__(self, stops: dict[Callable[[], None], None], stop: Callable[[], None]) -> None:
        self._stops = stops
        self._stop = stop

    def __enter__(self) -> None:
        self._stops[self._stop] = None

    def __exit__(self, *_: object) -> None:
        del self._stops[self._stop]


class Hub:
    """All watched streams of this gateway.

    ``owner`` gives the tenant that a stream belongs to, or None while it is not known: then its viewers wait until
    :meth:`known` says that it is. To viewers of other tenants it never is. ``since_ms`` gives the broker's time of a stream's
    submission, if there was one. :meth:`gone` is to be told what ``index`` finds gone.
    """

    def __init__(
        self,
        make_tails: MakeTails,
        scans: LogReader,
        codec: Codec,
        *,
        partition_of: Callable[[str], Partition],
        since_ms: Callable[[str], int | None],
        owner: Callable[[str], str | None],
        index: StreamIndex,
        replays: Replays,
        keys: KeyProvider | None,
        now_us: Callable[[], int],
        memory: TailMemory | None = None,
        action_of: ActionOf = action_unknown,
        traceparent_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._watched = WatchedStreams(
            make_tails,
            scans,
            codec,
            partition_of=partition_of,
            since_ms=since_ms,
            index=index,
            keys=keys,
            now_us=now_us,
            memory=memory or TailMemory(),
            action_of=action_of,
        )
        self._catching_up = CatchingUp(
            self._watched, replays, scans, codec, partition_of=partition_of, index=index, keys=keys
        )
        self._owner = owner
        self._index = index
        self._replays = replays
        self._now_us = now_us
        self._traceparent_of = traceparent_of
        self._replay_took = meters.REPLAY.of()
        self._early: dict[str, dict[Subscription, None]] = {}
        self._stops: dict[Callable[[], None], None] = {}
        self._drained = False

    async def run(self) -> None:
        """Follow the tails of watched partitions until cancelled."""
        await self._watched.run()

    # What viewers call.

    def exists(self, stream_id: str, tenant: str = "") -> bool:
        """True if ``tenant`` knows the stream, or its task: a viewer of it does not wait for it to come about."""
        return sees(tenant, self._owner(stream_id))

    def closed(self, stream_id: str) -> bool:
        """True if the stream's end has been seen here: its task has ended, even if its event is still on its way."""
        stream, state = self._watched.get(stream_id), self._index.get(stream_id)
        return (stream is not None and stream.fold.closed is not None) or (
            state is not None and state.status is not StreamStatus.OPEN
        )

    def subscribe(
        self, stream_id: str, start: Start, viewer: Viewer, encoding: Encoding, *, rate: int = 0, tenant: str = ""
    ) -> Subscription:
        """Send the stream to ``viewer``, written by ``encoding``, from ``start`` to its end; at most ``rate`` chunks a
        second (0: as they come). Nothing is sent before this returns. A stream that does not exist for ``tenant`` (its
        principal's) is waited for."""
        subscription = Subscription(stream_id, start, viewer, encoding, rate=rate, tenant=tenant)
        if self.exists(stream_id, tenant):
            self._begin(subscription)
        else:
            self._early.setdefault(stream_id, {})[subscription] = None
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Send nothing more."""
        subscription.ended = True
        self._halt(subscription)
        waiting = self._early.get(subscription.stream_id)
        if waiting is not None and waiting.pop(subscription, subscription) is None and not waiting:
            del self._early[subscription.stream_id]

    def pause(self, subscription: Subscription) -> None:
        """Send nothing until :meth:`resume`; the position stays."""
        subscription.running.clear()
        self._again(subscription)

    def resume(self, subscription: Subscription) -> None:
        """Go on where :meth:`pause` stopped."""
        subscription.running.set()

    def pace(self, subscription: Subscription, rate: int) -> None:
        """Send at most ``rate`` chunks a second from now on; 0: as they come."""
        subscription.rate = rate
        self._again(subscription)

    def behind(self) -> dict[str, float]:
        """Of each adaptive stream that is watched live: how far the viewer is behind that is furthest behind, 0 to 1."""
        return {
            stream.stream_id: max((each.viewer.behind() for each in stream.viewers()), default=0.0)
            for stream in self._watched.fed()
            if is_adaptive(stream.fold.claims)
        }

    # What the rest of the gateway calls.

    def draining(self, stop: Callable[[], None]) -> "AbstractContextManager[None]":
        """Have ``stop`` called when this gateway is about to end, if that is in this block, or was before it."""
        if self._drained:
            stop()
        return _Draining(self._stops, stop)

    def drain(self) -> None:
        """Tell all viewers to go: each with its cursor, so that it resumes at another gateway."""
        self._drained = True
        for stop in list(self._stops):
            stop()

    def known(self, stream_id: str) -> None:
        """The stream's task exists: those who wait for it get it from its beginning."""
        for subscription in self._waiting_for(stream_id):
            self._begin(subscription)

    def gone(self, stream_id: str) -> None:
        """The stream's content is gone: whoever watches it is told, and nobody is sent it again."""
        self._replays.forget(stream_id)
        problem = Erased("the stream was erased", where=stream_id)
        for subscription in self._waiting_for(stream_id):
            subscription.fail(problem)
        stream = self._watched.get(stream_id)
        if stream is not None:
            self._watched.stop(stream, problem)

    def _waiting_for(self, stream_id: str) -> list[Subscription]:
        """Take out those who wait for the stream, now that it exists. Strangers wait on: for them it does not."""
        waiting, owner = self._early.pop(stream_id, {}), self._owner(stream_id)
        strangers = {each: None for each in waiting if not sees(each.tenant, owner)}
        if strangers:
            self._early[stream_id] = strangers
        return [each for each in waiting if each not in strangers]

    # Catching up.

    def _begin(self, subscription: Subscription) -> None:
        subscription.task = asyncio.create_task(self._catch_up(subscription), name=f"catch up {subscription.stream_id}")

    def _again(self, subscription: Subscription) -> None:
        """Let a subscription that is attached catch up: that is where pauses and rates are kept."""
        if subscription.live is not None:
            self._detach(subscription)
            self._begin(subscription)

    def _halt(self, subscription: Subscription) -> None:
        if subscription.task is not None:
            subscription.task.cancel()
        self._detach(subscription)

    def _detach(self, subscription: Subscription) -> None:
        stream = subscription.live
        if stream is not None:
            subscription.detach()
            self._watched.rest(stream)

    async def _catch_up(self, subscription: Subscription) -> None:
        stream_id = subscription.stream_id
        traceparent = self._traceparent_of(stream_id)
        with tracing.of_task(stream_id, traceparent), tracing.span("replay", traceparent, stream=stream_id):
            await self._catch_up_traced(subscription)
        if subscription.task is asyncio.current_task():
            subscription.task = None

    async def _catch_up_traced(self, subscription: Subscription) -> None:
        began_us = self._now_us()
        try:
            await self._catching_up.follow(subscription)
            self._replay_took.observe((self._now_us() - began_us) / 1e6)
        except (Erased, Expired, InvalidRequest) as problem:
            subscription.fail(problem)
        except (DataCorruption, ChunkDecodeError) as problem:
            _log.exception("a stream cannot be replayed", stream=subscription.stream_id)
            subscription.fail(problem)
        except Exception as problem:  # a viewer must not wait for what never comes
            _log.exception("a replay failed", stream=subscription.stream_id, error=str(problem))
            subscription.fail(Unavailable("the stream cannot be read now", hint="Subscribe again"))
