"""Ends paths whose time is over and finishes deletions that a dead gateway left half done. Every gateway does it: a change that
somebody else has made already is not made again."""

import asyncio
from collections.abc import Callable

import structlog

from apexstream.core.errors import ApexError
from apexstream.core.events import PathState, StreamStatus
from apexstream.gateway.durable.streams import DurableStreams
from apexstream.log.index import StreamIndex
from apexstream.log.paths import DELETED_KEPT_S, Paths

TICK_S = 1.0
AT_ONCE_MAX = 200  # paths in one tick
CHECK_TICKS = 60  # how often to look for streams that were to be erased and are not
ERASED_WITHIN_S = 60  # by the archiver, else it is told again …
TOLD_AGAIN_FOR_S = 86_400  # … for so long

_log = structlog.get_logger(__name__)


class Janitor:
    """One gateway's part of it."""

    def __init__(
        self,
        streams: DurableStreams,
        paths: Paths,
        index: StreamIndex,
        *,
        now_us: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        self._streams = streams
        self._paths = paths
        self._index = index
        self._now_us = now_us
        self._random = random

    async def run(self) -> None:
        """Until cancelled."""
        tick = 0
        while True:
            await asyncio.sleep(TICK_S * (0.5 + self._random()))  # gateways that take turns spare each other the work
            tick += 1
            try:
                await self._tidy()
                if tick % CHECK_TICKS == 0:
                    await self._check()
            except ApexError as problem:
                _log.warning("paths were not tidied", error=str(problem))

    async def _tidy(self) -> None:
        for state in self._paths.index.expired(self._now_us(), AT_ONCE_MAX):
            await self._streams.leave(state)
        for state in self._paths.index.gone(AT_ONCE_MAX):
            await self._streams.reap(state.path)

    async def _check(self) -> None:
        now_us, index = self._now_us(), self._paths.index
        for state in index.deleted(0, now_us - int(DELETED_KEPT_S * 1e6), AT_ONCE_MAX):
            await self._paths.forget(state.path)
        for state in index.deleted(
            now_us - int(TOLD_AGAIN_FOR_S * 1e6), now_us - int(ERASED_WITHIN_S * 1e6), AT_ONCE_MAX
        ):
            if not self._erased(state):
                await self._streams.erase(state)

    def _erased(self, state: PathState) -> bool:
        sealed = self._index.get(state.stream_id)
        return sealed is not None and sealed.status is StreamStatus.ERASED
