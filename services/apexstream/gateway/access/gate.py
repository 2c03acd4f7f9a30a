"""Who may come in: every request and every socket passes :class:`Guard` before any route sees it.

What is not public needs a principal; the guard puts it where :func:`principal_of` (HTTP) and :func:`pass_of` (sockets) find it.
Whether that principal may do what it asks is for the route to say, in one line: ``principal_of(request).require(verb, name)``.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from apexstream.core.errors import ApexError, LimitReached, Unauthenticated
from apexstream.gateway.access.limits import Admission, Connections, UserBuckets
from apexstream.gateway.access.origins import Origins
from apexstream.gateway.access.passes import GRACE_S, Pass
from apexstream.gateway.access.principal import OPEN, Principal
from apexstream.gateway.access.tickets import Tickets
from apexstream.gateway.answers import refusal
from apexstream.runtime.clock import Clock

_PRINCIPAL: Final = "apexstream.principal"
_PASS: Final = "apexstream.pass"  # noqa: S105 - a key of the ASGI scope


class Verify(Protocol):
    """Verifies tokens."""

    async def __call__(self, token: str) -> Principal:
        """Whose token it is; raises :class:`Unauthenticated`, :class:`Unavailable` without keys."""


class Access:
    """Everything that decides who comes in. ``verify`` None: the gateway is open, and asks nobody who they are."""

    def __init__(
        self,
        *,
        verify: Verify | None,
        tickets: Tickets,
        origins: Origins,
        connections: Connections,
        submissions: UserBuckets,
        admission: Admission,
        clock: Clock,
        new_nonce: Callable[[], str],
    ) -> None:
        self._verify = verify
        self._tickets = tickets
        self.origins = origins
        self._connections = connections
        self._submissions = submissions
        self._admission = admission
        self._clock = clock
        self._new_nonce = new_nonce

    async def principal(self, headers: Headers, ticket: str = "") -> Principal | None:
        """Who asks, by the ``Authorization`` header or else a ticket; None if neither is there.

        Raises :class:`Unauthenticated` for what is refused, :class:`Unavailable` if nobody can be asked.
        """
        if self._verify is None:
            return OPEN
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return await self._verify(token.strip())
        return await self._redeem(ticket, headers.get("origin", "")) if ticket else None

    def ticket(self, principal: Principal, headers: Headers) -> str:
        """A one-time ticket for ``principal``, good for pages of the same Origin."""
        return self._tickets.mint(
            principal, headers.get("origin", ""), nonce=self._new_nonce(), now_s=self._clock.now_us() / 1e6
        )

    def submitting(self, principal: Principal) -> None:
        """A task is about to be submitted; raises :class:`LimitReached` if that is too fast for one user."""
        if principal.known:
            self._submissions.take(principal.user, self._clock.monotonic(), "submissions")

    @contextmanager
    def counted(self, principal: Principal) -> Iterator[None]:
        """A request of ``principal`` is under way; raises :class:`LimitReached` if one user has too many."""
        if not principal.known:
            yield
            return
        self._connections.opened(principal.user)
        try:
            yield
        finally:
            self._connections.closed(principal.user)

    @contextmanager
    def socket(self, principal: Principal | None, headers: Headers) -> Iterator[Pass]:
        """A socket is let in, for as long as this context lasts; raises :class:`LimitReached` if there is no room."""
        entered: list[Principal] = []
        self._admission.enter(self._clock.monotonic(), random.random(), stranger=principal is None)  # noqa: S311
        origin = headers.get("origin", "")

        def introduced(who: Principal) -> None:
            self._connections.opened(who.user)
            entered.append(who)
            self._admission.introduced()

        async def prove(token: str, ticket: str) -> Principal:
            return await self._prove(token, ticket, origin)

        made = Pass(principal, prove=prove, entered=introduced, now_s=lambda: self._clock.now_us() / 1e6)
        try:
            if principal is not None and principal.known:
                self._connections.opened(principal.user)
                entered.append(principal)
            yield made
        finally:
            made.end()
            self._admission.leave(stranger=principal is None and not entered)
            for who in entered:
                self._connections.closed(who.user)

    def left_s(self, principal: Principal) -> float | None:
        """How long an answer to ``principal`` may still take; None: without end."""
        if math.isinf(principal.expires):
            return None
        return max(0.0, principal.expires + GRACE_S - self._clock.now_us() / 1e6)

    async def _prove(self, token: str, ticket: str, origin: str) -> Principal:
        if self._verify is None:
            return OPEN
        return await (self._verify(token) if token else self._redeem(ticket, origin))

    async def _redeem(self, ticket: str, origin: str) -> Principal:
        return await self._tickets.redeem(ticket, origin, now_s=self._clock.now_us() / 1e6)


class Guard:
    """ASGI middleware around all routes. ``public`` tells which paths need no principal: the page's files, health."""

    def __init__(self, app: ASGIApp, access: Access, public: Callable[[str], bool]) -> None:
        self._app = app
        self._access = access
        self._public = public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or answer it."""
        try:
            let_through = {"http": self._http, "websocket": self._websocket}[scope["type"]]
            await let_through(scope, receive, send, HTTPConnection(scope))
        except ApexError as problem:
            status = 503 if scope["type"] == "websocket" and isinstance(problem, LimitReached) else None
            await refusal(problem, status)(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send, connection: HTTPConnection) -> None:
        headers = connection.headers
        self._access.origins.check(headers.get("origin"), headers.get("host", ""))
        if self._public(scope["path"]):
            await self._app(scope, receive, send)
            return
        # A ticket comes with a GET only: one must not make another.
        ticket = connection.query_params.get("ticket", "") if scope["method"] == "GET" else ""
        principal = await self._access.principal(headers, ticket)
        if principal is None:
            raise Unauthenticated("this needs a token", where="authorization", hint="Send Authorization: Bearer TOKEN")
        scope[_PRINCIPAL] = principal
        with self._access.counted(principal):
            await _until_expired(self._app(scope, receive, send), self._access.left_s(principal))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, connection: HTTPConnection) -> None:
        headers = connection.headers
        self._access.origins.check(headers.get("origin"), headers.get("host", ""))
        principal = await self._access.principal(headers)
        with self._access.socket(principal, headers) as made:
            scope[_PASS] = made
            await self._app(scope, receive, send)


def principal_of(connection: HTTPConnection) -> Principal:
    """Who asks. Only what the guard lets through unasked (public paths) has nobody: that raises :class:`Unauthenticated`."""
    principal: Principal | None = connection.scope.get(_PRINCIPAL)
    if principal is None:
        raise Unauthenticated("this needs a token", where="authorization", hint="Send Authorization: Bearer TOKEN")
    return principal


def pass_of(connection: HTTPConnection) -> Pass:
    """The leave of a socket."""
    made: Pass = connection.scope[_PASS]
    return made


async def _until_expired(answering: Awaitable[Any], left_s: float | None) -> None:
    """An answer that goes on when the token has expired is broken off, so that the client comes back with a new one."""
    if left_s is None:
        await answering
        return
    try:
        async with asyncio.timeout(left_s) as limit:
            await answering
    except TimeoutError:
        if not limit.expired():
            raise
