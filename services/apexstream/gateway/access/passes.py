"""One socket's leave to be here: who it is, until when, and how fast it may speak.

A socket may come without a token; then its first message must bring one (or a ticket) within ``STALE_S``. The same message
later renews it. ``EXPIRING_S`` before the end the client is told, ``GRACE_S`` after it the socket is closed.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Final

from apexstream.core.errors import Forbidden, LimitReached, Unauthenticated
from apexstream.gateway.access.limits import Bucket
from apexstream.gateway.access.principal import Principal
from apexstream.gateway.closing import Close

STALE_S: Final = 10.0
EXPIRING_S: Final = 60.0
GRACE_S: Final = 25.0
MESSAGES_PER_S: Final = 50.0
MESSAGES_BURST: Final = 1_200.0  # a client that comes back subscribes to all of its streams at once

Warn = Callable[[float], None]
"""Tells the client in how many seconds its token expires."""
End = Callable[[Close, str], None]
"""Closes the socket with a code and a reason."""
Prove = Callable[[str, str], Awaitable[Principal]]
"""Gives whose token (first) or ticket (second, if there is no token) it is; raises :class:`Unauthenticated`."""


class Pass:
    """``entered`` and ``left`` are called with the principal that the socket turns out to be, and when that ends."""

    __slots__ = ("_end", "_entered", "_messages", "_now_s", "_principal", "_prove", "_timer", "_warn")

    def __init__(
        self,
        principal: Principal | None,
        *,
        prove: Prove,
        entered: Callable[[Principal], None],
        now_s: Callable[[], float],
    ) -> None:
        self._principal = principal
        self._prove = prove
        self._entered = entered
        self._now_s = now_s
        self._messages = Bucket(MESSAGES_PER_S, MESSAGES_BURST)
        self._timer: asyncio.TimerHandle | None = None
        self._warn: Warn = lambda _: None
        self._end: End = lambda _, __: None

    @property
    def principal(self) -> Principal:
        """Who it is; raises :class:`Unauthenticated` while nobody knows."""
        if self._principal is None:
            raise Unauthenticated(
                "the first message must bring a token or a ticket",
                where="message",
                hint='Send {"type":"authenticate","token":"..."}',
            )
        return self._principal

    @property
    def introduced(self) -> bool:
        """True once it is known who it is."""
        return self._principal is not None

    def watch(self, warn: Warn, end: End) -> None:
        """The socket is open: from now on warn and close it when its time has come."""
        self._warn, self._end = warn, end
        if self._principal is None:
            self._after(STALE_S, self._end, Close.UNAUTHENTICATED, f"no token within {STALE_S:g} s")
        else:
            self._watch_expiry(self._principal)

    def spoke(self, now: float) -> None:
        """A message came, at ``now`` on a monotonic clock; raises :class:`LimitReached` if there are too many."""
        wait_s = self._messages.take(now)
        if wait_s > 0:
            raise LimitReached(
                f"more than {MESSAGES_PER_S:g} messages a second",
                where="message",
                hint="Send fewer",
                retry_after_s=wait_s,
            )

    async def authenticate(self, *, token: str = "", ticket: str = "") -> Principal:
        """Take what the client shows, for the first time or in time before the last one expires.

        Raises :class:`Unauthenticated`, :class:`LimitReached` if the user has too many connections, and :class:`Forbidden` if
        it is another user's: whoever the socket was opened by keeps it.
        """
        principal = await self._prove(token, ticket)
        if self._principal is None:
            self._entered(principal)
        elif principal.user != self._principal.user:
            raise Forbidden("the token is another user's", where="token", hint="Open another socket for another user")
        self._principal = principal
        self._watch_expiry(principal)
        return principal

    def end(self) -> None:
        """The socket is closed."""
        if self._timer is not None:
            self._timer.cancel()

    def _watch_expiry(self, principal: Principal) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not math.isinf(principal.expires):
            self._after(max(0.0, principal.expires - EXPIRING_S - self._now_s()), self._expiring, principal.expires)

    def _expiring(self, expires: float) -> None:
        in_s = round(max(0.0, expires - self._now_s()), 1)
        self._warn(in_s)
        self._after(in_s + GRACE_S, self._end, Close.UNAUTHENTICATED, "the token has expired: authenticate again")

    def _after(self, delay_s: float, act: Callable[..., None], *arguments: object) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, act, *arguments)
