"""The WebSocket protocol of ``schemas/gateway/PROTOCOL.md``: one socket, its commands in, its streams out."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from apexstream.core.errors import ApexError, Forbidden, InvalidRequest, LimitReached, Unauthenticated
from apexstream.core.events import ControlVerb
from apexstream.core.fold import UNTOLD
from apexstream.core.task import TaskState
from apexstream.core.views import read_view
from apexstream.gateway import commands, messages
from apexstream.gateway.access import Principal, Verb, pass_of
from apexstream.gateway.closing import Close
from apexstream.gateway.control import Control
from apexstream.gateway.cursors import Position
from apexstream.gateway.frames import JsonFrames, websocket_frame
from apexstream.gateway.parts import Parts
from apexstream.gateway.sockets import CLOSE_GRACE_S, EXTENSION, FrameSocket
from apexstream.gateway.subscription import FromTail, FromTime, Start, Subscription
from apexstream.gateway.viewed import Viewed
from apexstream.runtime import meters

BEHIND_BYTES_MAX = 4 * 1024 * 1024  # unread by the client; past this it is closed, and may come back and resume
SUBSCRIPTIONS_MAX = 1_000
WATCHED_MAX = 1_000


class WebSockets:
    """The route."""

    def __init__(self, parts: Parts, control: Control) -> None:
        self._parts = parts
        self._control = control
        meters.VIEWERS.of("websocket")
        meters.SLOW_CLOSES.of("websocket")

    def routes(self) -> list[BaseRoute]:
        """Where it is."""
        return [WebSocketRoute("/stream", self.stream)]

    async def stream(self, websocket: WebSocket) -> None:
        """Speak the protocol until the client leaves, falls too far behind, or this gateway stops."""
        await websocket.accept()
        session = _Session(websocket, self._parts, self._control)
        meters.VIEWERS.of("websocket").value += 1
        with self._parts.hub.draining(lambda: session.close(Close.DRAINING, "this gateway stops")):
            try:
                session.introduce()
                await session.listen()
            finally:
                meters.VIEWERS.of("websocket").value -= 1
                session.leave()


class _Session:
    """One socket, and the viewer of all its subscriptions; see :class:`apexstream.gateway.subscription.Viewer`."""

    def __init__(self, websocket: WebSocket, parts: Parts, control: Control) -> None:
        self._websocket = websocket
        self._parts = parts
        self._hub = parts.hub
        self._control = control
        self._pass = pass_of(websocket)
        self._socket: FrameSocket = websocket.scope["extensions"][EXTENSION]
        self._socket.open()
        self._socket.on_stalled = lambda: self.close(Close.SLOW, "read nothing for 5 s", grace_s=0.0)
        self._subscriptions: dict[str, Subscription] = {}
        self._asked: dict[Subscription, messages.Id] = {}  # ids of commands that are answered when it begins
        self._watched: set[str] = set()

    def introduce(self) -> None:
        """From now on the client has to say who it is, and again before that expires."""
        self._pass.watch(lambda in_s: self._say(messages.Expiring(in_s=in_s)), self.close)

    async def listen(self) -> None:
        """Follow commands until the socket is closed."""
        while True:
            try:
                message = await self._websocket.receive()
            except WebSocketDisconnect:
                return
            if message["type"] == "websocket.disconnect":
                return
            await self._take(message.get("text") or message.get("bytes") or b"")

    async def _take(self, text: str | bytes) -> None:
        command: commands.Command | None = None
        try:
            self._pass.spoke(asyncio.get_running_loop().time())
            command = commands.read_command(text)
            if not isinstance(command, commands.Authenticate):
                _ = self._pass.principal  # whatever it wants, nobody gets anything here
            waiting = _FOLLOW[type(command)](self, command)
            if waiting is not None:
                await waiting
        except ApexError as problem:
            stream_id = getattr(command, "stream_id", "")
            self._say(messages.refused(problem, command_id=getattr(command, "id", None), stream_id=stream_id))
            if isinstance(problem, LimitReached):
                self.close(Close.LIMIT, problem.what)
            elif isinstance(problem, Unauthenticated) and not self._pass.introduced:
                self.close(Close.UNAUTHENTICATED, problem.what)

    def leave(self) -> None:
        """The socket is closed: get nothing more."""
        for subscription in self._subscriptions.values():
            self._hub.unsubscribe(subscription)
        for task_id in self._watched:
            self._parts.registry.unwatch(task_id, self._show_task)

    def close(self, code: Close, reason: str, grace_s: float = CLOSE_GRACE_S) -> None:
        """Tell the client where to go on in every stream, and close."""
        if code is Close.SLOW:
            meters.SLOW_CLOSES.of("websocket").value += 1
        cursors = {
            stream_id: cursor
            for stream_id, subscription in self._subscriptions.items()
            if not subscription.ended and (cursor := self._cursor(subscription))
        }
        self._say(messages.Closing(code=code, reason=reason, cursors=cursors))
        only = next(iter(cursors.values())) if len(cursors) == 1 else ""
        self._socket.finish(code, only or reason, grace_s)

    # As a viewer.

    def began(self, subscription: Subscription) -> None:
        """Answer the command."""
        if subscription in self._asked:
            position = subscription.position
            self._say(
                messages.Subscribed(
                    id=self._asked.pop(subscription),
                    stream_id=subscription.stream_id,
                    seq=position.seq,
                    cursor=self._mint(subscription, position),
                    recovered=subscription.recovered,
                )
            )

    def send(self, subscription: Subscription, data: bytes) -> None:  # noqa: ARG002 - the frames say which stream
        """Write, and close if the client is too far behind."""
        if data and self._socket.write(data) > BEHIND_BYTES_MAX:
            self.close(Close.SLOW, "4 MiB behind")

    def caught_up(self, subscription: Subscription) -> None:
        """Nothing to say."""

    def failed(self, subscription: Subscription, problem: ApexError) -> None:
        """Tell the client; the socket stays open."""
        stream_id = subscription.stream_id
        self._say(messages.refused(problem, command_id=self._asked.pop(subscription, None), stream_id=stream_id))

    async def room(self) -> None:
        """Wait until the transport has passed on most of what was written."""
        await asyncio.sleep(0)  # other viewers have their turn
        await self._socket.writable.wait()

    def behind(self) -> float:
        """By what the client has yet to take."""
        return min(1.0, self._socket.untaken_bytes / BEHIND_BYTES_MAX)

    # Commands.

    def _permit(self, verb: Verb, name: str) -> str:
        """The one place that decides whether this client may do that: raises :class:`Forbidden` if not. The client's tenant,
        which decides what there is for it."""
        principal = self._pass.principal
        principal.require(verb, name)
        return principal.tenant

    async def _authenticate(self, command: commands.Authenticate) -> None:
        principal = await self._pass.authenticate(token=command.token, ticket=command.ticket)
        expires = None if math.isinf(principal.expires) else int(principal.expires)
        self._say(
            messages.Authenticated(id=command.id, subject=principal.subject, tenant=principal.home, expires=expires)
        )
        self._review(principal)

    def _review(self, principal: Principal) -> None:
        """A renewed token may allow less."""
        problem = Forbidden("the new token does not allow this", where="scope")
        for stream_id in [name for name in self._subscriptions if not principal.may(Verb.READ, name)]:
            self._drop(stream_id)
            self._say(messages.refused(problem, stream_id=stream_id))
        for task_id in [name for name in self._watched if not principal.may(Verb.READ, name)]:
            self._forget(task_id)

    def _subscribe(self, command: commands.Subscribe) -> None:
        tenant = self._permit(Verb.READ, command.stream_id)
        view = None if command.view is None else read_view(msgspec.json.encode(command.view))
        bound = "" if view is None else view.name
        start = self._start(command, bound)
        self._drop(command.stream_id)
        if len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
            raise InvalidRequest(f"more than {SUBSCRIPTIONS_MAX} streams on one socket", hint="Open another socket")
        frames = JsonFrames(self._parts.cursors if command.cursors else None, command.batches, bound)
        encoding = frames if view is None else Viewed(frames, view)
        subscription = self._hub.subscribe(command.stream_id, start, self, encoding, rate=command.rate, tenant=tenant)
        self._subscriptions[command.stream_id] = subscription
        if command.id is not None:
            self._asked[subscription] = command.id
            if not self._hub.exists(command.stream_id, tenant):
                self._say(messages.Waiting(id=command.id, stream_id=command.stream_id))

    def _start(self, command: commands.Subscribe, view: str) -> Start:
        if command.cursor is not None:
            return self._parts.cursors.read(command.cursor, command.stream_id, view)
        if command.tail is not None:
            return FromTail(command.tail)
        if command.from_time is not None:
            return FromTime(command.from_time)
        return Position(command.from_seq or 0, UNTOLD)

    def _unsubscribe(self, command: commands.Unsubscribe) -> None:
        subscription = self._drop(command.stream_id)
        self._done(command.id, subscription)

    def _drop(self, stream_id: str) -> Subscription | None:
        subscription = self._subscriptions.pop(stream_id, None)
        if subscription is not None:
            self._hub.unsubscribe(subscription)
            self._asked.pop(subscription, None)
        return subscription

    def _hold(self, command: commands.Hold) -> None:
        subscription = self._subscribed(command.stream_id)
        self._hub.pause(subscription)
        self._done(command.id, subscription)

    def _release(self, command: commands.Release) -> None:
        subscription = self._subscribed(command.stream_id)
        self._hub.resume(subscription)
        self._done(command.id, subscription)

    def _pace(self, command: commands.Pace) -> None:
        subscription = self._subscribed(command.stream_id)
        self._hub.pace(subscription, command.rate)
        self._done(command.id, subscription)

    def _subscribed(self, stream_id: str) -> Subscription:
        subscription = self._subscriptions.get(stream_id)
        if subscription is None:
            raise InvalidRequest("not subscribed to this stream", where=stream_id, hint="Subscribe first")
        return subscription

    def _watch(self, command: commands.Watch) -> None:
        tenant = self._permit(Verb.READ, command.task_id)
        if len(self._watched) >= WATCHED_MAX:
            raise InvalidRequest(f"more than {WATCHED_MAX} tasks on one socket", hint="Open another socket")
        state = self._parts.registry.task(command.task_id, tenant)
        if command.task_id not in self._watched:
            self._watched.add(command.task_id)
            self._parts.registry.watch(command.task_id, self._show_task)
        self._done(command.id)
        self._show_task(state)

    def _unwatch(self, command: commands.Unwatch) -> None:
        self._forget(command.task_id)
        self._done(command.id)

    def _forget(self, task_id: str) -> None:
        if task_id in self._watched:
            self._watched.discard(task_id)
            self._parts.registry.unwatch(task_id, self._show_task)

    async def _cancel(self, command: commands.Cancel) -> None:
        tenant = self._permit(Verb.CONTROL, command.task_id)
        await self._control.cancel(command.task_id, command.reason, tenant)
        self._done(command.id)

    async def _pause(self, command: commands.Pause) -> None:
        tenant = self._permit(Verb.CONTROL, command.task_id)
        await self._control.ask(command.task_id, ControlVerb.PAUSE, tenant)
        self._done(command.id)

    async def _resume(self, command: commands.Resume) -> None:
        tenant = self._permit(Verb.CONTROL, command.task_id)
        await self._control.ask(command.task_id, ControlVerb.RESUME, tenant)
        self._done(command.id)

    def _ping(self, command: commands.Ping) -> None:
        self._say(messages.Pong(id=command.id))

    # Saying things.

    def _done(self, command_id: messages.Id, subscription: Subscription | None = None) -> None:
        if command_id is not None:
            cursor = self._cursor(subscription) if subscription is not None else None
            self._say(messages.Done(id=command_id, cursor=cursor))

    def _cursor(self, subscription: Subscription) -> str | None:
        """Where the client is; None while nobody knows where it starts."""
        position = subscription.position
        known = subscription.began or isinstance(subscription.start, Position)
        if not known or position.rewinds == UNTOLD:
            return None
        return self._mint(subscription, position)

    def _mint(self, subscription: Subscription, position: Position) -> str:
        encoding = subscription.encoding
        view = encoding.view.name if isinstance(encoding, Viewed) else ""
        return self._parts.cursors.mint(subscription.stream_id, position, view)

    def _show_task(self, state: TaskState) -> None:
        self._socket.write(websocket_frame(messages.task_message(state)))

    def _say(self, message: messages.Message) -> None:
        self._socket.write(websocket_frame(msgspec.json.encode(message)))


_FOLLOW: dict[type, Callable[[_Session, Any], Awaitable[None] | None]] = {
    commands.Subscribe: _Session._subscribe,  # noqa: SLF001 - parts of one class
    commands.Unsubscribe: _Session._unsubscribe,  # noqa: SLF001
    commands.Hold: _Session._hold,  # noqa: SLF001
    commands.Release: _Session._release,  # noqa: SLF001
    commands.Pace: _Session._pace,  # noqa: SLF001
    commands.Watch: _Session._watch,  # noqa: SLF001
    commands.Unwatch: _Session._unwatch,  # noqa: SLF001
    commands.Cancel: _Session._cancel,  # noqa: SLF001
    commands.Pause: _Session._pause,  # noqa: SLF001
    commands.Resume: _Session._resume,  # noqa: SLF001
    commands.Authenticate: _Session._authenticate,  # noqa: SLF001
    commands.Ping: _Session._ping,  # noqa: SLF001
}
