"""Which tickets were used, by the log: every showing is a record of ``apex.tickets``, and of one ticket's the first counts.

The topic has one partition, so all gateways and all their worker processes read the same order. Whoever is shown a ticket
writes that down and lets its bearer in once the record has come back as the first one of its kind.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.errors import ApexError, ChunkDecodeError, LimitReached, Unavailable
from apexstream.core.events import TicketUsed
from apexstream.gateway.access.tokens import TokenRefused
from apexstream.log.fetcher import Partition, Record
from apexstream.runtime.clock import Clock

USED_MAX: Final = 100_000  # tickets that have not expired and are remembered as used
USE_S_MAX: Final = 10.0  # until the log has said whether a use was the first
KEPT_S: Final = 60.0  # beyond a ticket's end, for a showing that was in time and whose record is not

_log = structlog.get_logger(__name__)


class LoggedUses:
    """See :class:`apexstream.gateway.access.tickets.Uses`. ``append`` writes a record under a key; ``new_id`` names a use;
    :meth:`on_records` is to be given the topic's records from its beginning."""

    def __init__(
        self,
        codec: Codec,
        append: Callable[[str, TicketUsed], Awaitable[object]],
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._codec = codec
        self._append = append
        self._clock = clock
        self._new_id = new_id
        self._used: OrderedDict[str, int] = OrderedDict()  # when each expires
        self._asking: dict[str, asyncio.Future[bool]] = {}

    async def use(self, nonce: str, until_s: float) -> None:
        """Returns once this use is in the log, as the ticket's first one. Raises :class:`LimitReached` if more tickets are in
        use than can be remembered, :class:`Unavailable` if the log does not answer."""
        if nonce in self._used:
            raise TokenRefused("used")
        self._forget()
        if len(self._used) + len(self._asking) >= USED_MAX:
            raise LimitReached("too many tickets at once", where="ticket", retry_after_s=USE_S_MAX)
        if not await self._first(TicketUsed(nonce=nonce, use=self._new_id(), until_us=int(until_s * 1e6))):
            raise TokenRefused("used")

    async def _first(self, used: TicketUsed) -> bool:
        """Write it down, and wait until the log says whether it was the first."""
        first: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._asking[used.use] = first
        try:
            async with asyncio.timeout(USE_S_MAX):
                await self._append(used.nonce, used)
                return await first
        except (TimeoutError, ApexError) as problem:
            raise Unavailable(
                "whether the ticket was used before cannot be found out now",
                where="ticket",
                hint="Get another one and try again",
            ) from problem
        finally:
            del self._asking[used.use]

    def on_records(self, _: Partition, records: list[Record]) -> None:
        """Take records of the topic, in its order."""
        for record in records:
            try:
                used = self._codec.decode(record.value or b"", TicketUsed)
            except ChunkDecodeError as problem:
                _log.error("a record of tickets cannot be read", offset=record.offset, error=str(problem))
                continue
            first = used.nonce not in self._used
            self._used.setdefault(used.nonce, used.until_us)
            asking = self._asking.get(used.use)
            if asking is not None and not asking.done():
                asking.set_result(first)
        self._forget()

    def _forget(self) -> None:
        """Leave out what expired long ago: those are refused for that."""
        gone_us = self._clock.now_us() - int(KEPT_S * 1e6)
        while self._used and next(iter(self._used.values())) <= gone_us:
            self._used.popitem(last=False)
