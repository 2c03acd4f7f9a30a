"""Follows one stream over a WebSocket, through as many connections as it takes."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidProxy, InvalidStatus, InvalidURI, WebSocketException

from apexstream.client.address import Address
from apexstream.client.credentials import TokenSource, authorization
from apexstream.client.frames import EndFrame, Frame, Pong, Refused, decode_frame
from apexstream.client.patience import Patience, ReconnectPolicy, retry_after_s
from apexstream.client.position import Position, Step
from apexstream.contracts.close_codes import CloseCodes, Reconnect
from apexstream.core.errors import DataCorruption, InvalidRequest, Unauthenticated, Unavailable
from apexstream.runtime.clock import Clock

MESSAGE_BYTES_MAX = 8 * 1024 * 1024  # one chunk of 512 KiB, every character of it escaped, fits
QUEUE_FRAMES_MAX = 256  # received and not yet taken; beyond it the socket is not read, and the gateway feels it
PING_INTERVAL_S = 10.0
CLOSE_TIMEOUT_S = 1.0

_WANTS_TOKEN = 4401
_TRY_AGAIN_STATUS = frozenset({408, 425, 429})


class _Lost(Exception):
    """This connection is of no more use; another one may be."""


class _Subscribe(msgspec.Struct, frozen=True, tag_field="type", tag="subscribe"):
    stream_id: str
    from_seq: int | msgspec.UnsetType = msgspec.UNSET
    cursor: str | msgspec.UnsetType = msgspec.UNSET
    cursors: bool = True
    view: Mapping[str, Any] | msgspec.UnsetType = msgspec.UNSET


@dataclass(slots=True, kw_only=True)
class Follower:
    """One reader of one stream: :meth:`frames` yields every frame from ``position`` on exactly once, in order."""

    address: Address
    stream_id: str
    position: Position
    policy: ReconnectPolicy
    clock: Clock
    codes: CloseCodes
    token: TokenSource = lambda: ""
    view: Mapping[str, Any] | None = None
    draw: Callable[[], float] = random.random
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    _patience: Patience = field(init=False)
    _shown: str = ""  # the token of the newest connection
    _gap_at: int | None = -1  # the seq that a fresh subscription also failed to deliver

    def __post_init__(self) -> None:
        self._patience = Patience(self.policy, self.draw)

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """The frames of the stream until its end frame, inclusive.

        Raises :class:`Unavailable` when no connection could be had for ``policy.offline_max_s``, the gateway's error
        when it refuses the stream, and :class:`DataCorruption` when the gateway does not deliver what it must.
        """
        while True:
            connected_at: float | None = None
            try:
                async with self._connection() as socket:
                    connected_at = self.clock.monotonic()
                    async with aclosing(self._read(socket)) as frames:
                        async for frame in frames:
                            yield frame
                            if isinstance(frame, EndFrame):
                                return
            except (_Lost, WebSocketException, OSError, TimeoutError) as problem:
                self._refuse_if_final(problem)
                await self.pause(
                    self._patience.lost(
                        self.clock.monotonic(),
                        connected_at=connected_at,
                        reason=_reason(problem),
                        where=self.address.websocket,
                        least_s=self._asked_pause_s(problem),
                    )
                )

    def _asked_pause_s(self, problem: Exception) -> float:
        if isinstance(problem, InvalidStatus):
            return retry_after_s(problem.response.headers.get("retry-after"), self.clock.now_us()) or 0.0
        code = _close_code(problem)
        later = code not in {None, _WANTS_TOKEN} and self.codes.reconnect(code or 0) is Reconnect.LATER
        return self.policy.later_s if later else 0.0

    def _connection(self) -> connect:
        self._shown = self.token()
        return connect(
            self.address.websocket,
            additional_headers=authorization(self._shown),
            compression=None,
            proxy=None if self.address.loopback else True,
            open_timeout=self.policy.connect_timeout_s,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=PING_INTERVAL_S,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MESSAGE_BYTES_MAX,
            max_queue=QUEUE_FRAMES_MAX,
        )

    async def _read(self, socket: ClientConnection) -> AsyncGenerator[Frame, None]:
        await socket.send(msgspec.json.encode(self._command()), text=True)
        while True:
            frame = decode_frame(await socket.recv(decode=False))
            if frame is None or isinstance(frame, Pong):
                continue
            if isinstance(frame, Refused):
                self._refused(frame)
            elif frame.stream_id == self.stream_id and self._due(frame):
                self._patience.worked()
                yield frame

    def _command(self) -> _Subscribe:
        view = msgspec.UNSET if self.view is None else self.view
        if self.position.cursor:
            return _Subscribe(self.stream_id, cursor=self.position.cursor, view=view)
        return _Subscribe(self.stream_id, from_seq=self.position.next_seq or 0, view=view)

    def _due(self, frame: Frame) -> bool:
        step = self.position.take(frame)
        if step is not Step.GAP:
            return step is Step.DELIVER
        wanted = self.position.next_seq
        if self._gap_at == wanted:
            raise DataCorruption(
                f"the gateway went on at seq {frame.seq} twice instead of {wanted}",
                where=self.stream_id,
                hint="Follow the stream from seq 0 to see what it holds",
            )
        self._gap_at = wanted
        raise _Lost(f"seq {wanted} is missing")

    def _refused(self, frame: Refused) -> None:
        if frame.stream_id not in {"", self.stream_id}:
            return
        problem = frame.error.exception()
        if isinstance(problem, Unavailable):
            raise _Lost(problem.what)
        raise problem

    def _refuse_if_final(self, problem: Exception) -> None:
        """Raise what the caller must see if no further connection could help."""
        if _wants_token(problem):
            if self.token() != self._shown:
                return  # it was renewed meanwhile
            raise Unauthenticated(
                "the gateway wants a token, or a newer one",
                where=self.address.websocket,
                hint="Set APEX_TOKEN_FILE to a file that holds a valid one",
            ) from problem
        code = _close_code(problem)
        if code is not None and self.codes.reconnect(code) is Reconnect.NO:
            raise InvalidRequest(
                f"the gateway closed the connection for good: {problem}", where=self.address.websocket
            ) from problem
        _refuse_if_final(problem, self.address)


def _close_code(problem: Exception) -> int | None:
    """What the gateway closed with, if it said anything."""
    if not isinstance(problem, ConnectionClosed) or problem.rcvd is None:
        return None
    return problem.rcvd.code


def _wants_token(problem: Exception) -> bool:
    if isinstance(problem, InvalidStatus):
        return problem.response.status_code == HTTPStatus.UNAUTHORIZED
    return _close_code(problem) == _WANTS_TOKEN


def _refuse_if_final(problem: Exception, address: Address) -> None:
    """Raise what the caller must see if no further connection could help."""
    if isinstance(problem, InvalidURI | InvalidProxy):
        raise InvalidRequest(str(problem), where=address.websocket) from problem
    if isinstance(problem, InvalidStatus):
        status = problem.response.status_code
        if 400 <= status < 500 and status not in _TRY_AGAIN_STATUS:
            raise InvalidRequest(
                f"no WebSocket here: HTTP {status}",
                where=address.websocket,
                hint="Check the gateway's address",
            ) from problem


def _reason(problem: Exception) -> str:
    if isinstance(problem, TimeoutError):
        return "no answer in time"
    return str(problem) or type(problem).__name__
