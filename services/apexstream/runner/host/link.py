"""The runner's end of the socket to one plugin process. It trusts nothing: what breaks a rule ends the process."""

import asyncio
from collections.abc import Callable

from apexstream.core.errors import InvalidRequest
from apexstream.core.ids import check_id
from apexstream.plugin.base import check_resume
from apexstream.runner.host.frames import (
    Asked,
    Batch,
    BrokenFrame,
    Described,
    Ended,
    Frame,
    Frames,
    FromChild,
    Ping,
    Pong,
    encode,
    from_child_decoder,
)
from apexstream.runner.host.remote import RemoteCall

UNREAD_BYTES_MAX = 16 * 1024 * 1024  # sent to a process that does not read


class Link(asyncio.Protocol):
    """Frames in both directions, and the calls that run at the other end by number."""

    transport: asyncio.Transport

    def __init__(self, broken: Callable[[str], None]) -> None:
        """``broken`` is called once with the reason if the other end breaks a rule; nothing is read after that."""
        loop = asyncio.get_running_loop()
        self.described: asyncio.Future[Described] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.calls: dict[int, RemoteCall] = {}
        self.guilty: RemoteCall | None = None  # the call whose frame broke a rule
        self._broken = broken
        self._frames: Frames[FromChild] = Frames(from_child_decoder)
        self._unsent: list[bytearray] = []  # of this turn of the loop: a call to the kernel costs more than most frames
        self._pinged = 0  # number of the last ping …
        self._answered = 0  # … of the last that was answered …
        self._excused = 0  # … and of the last whose answer may lie unread because nothing was read for a while
        self._deaf = False
        self._held = False

    @property
    def unanswered(self) -> int:
        """Pings that the process is late with."""
        return max(0, self._pinged - max(self._answered, self._excused))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The loop has taken the socket over."""
        self.transport = transport  # type: ignore[assignment]  # of a stream socket
        if self._held:
            self.transport.pause_reading()

    def connection_lost(self, problem: Exception | None) -> None:  # noqa: ARG002 - how the process ended tells more
        """The other end has closed."""
        self._deaf = True
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        """What the process says."""
        if self._deaf:
            return
        try:
            for frame in self._frames.feed(data):
                self._take(frame)
        except BrokenFrame as problem:
            self._give_up(f"sent {problem}")

    def send(self, frame: Frame) -> None:
        """Queue a frame; all of a turn of the loop leave together. A process that does not read what it is sent is broken."""
        if self._deaf:
            return
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(encode(frame))

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._deaf:
            return
        self.transport.writelines(unsent)
        if self.transport.get_write_buffer_size() > UNREAD_BYTES_MAX:
            self._give_up("does not read what it is sent")

    def ping(self) -> None:
        """Ask for a sign of life; :attr:`unanswered` counts those without an answer."""
        if self._held or self.transport.is_closing():
            return  # no answer would be read
        self._pinged += 1
        self.send(Ping(self._pinged))

    def hold(self, full: bool) -> None:
        """Read nothing while ``full``."""
        if full is self._held:
            return
        self._held, self._excused = full, self._pinged
        if self._deaf:
            return
        if full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def close(self) -> None:
        """Hear and say nothing more; the process ends when it sees this."""
        self._deaf = True
        self.transport.abort()

    def _give_up(self, reason: str) -> None:
        self.close()
        self._broken(reason)

    def _take(self, frame: FromChild) -> None:
        if not self.described.done():
            if not isinstance(frame, Described):
                raise BrokenFrame("another frame before it said what it is")
            self.described.set_result(_checked(frame))
        elif isinstance(frame, Batch | Ended | Asked):
            self._take_from(self._call(frame.call), frame)
        elif isinstance(frame, Pong) and self._answered < self._pinged and frame.number == self._answered + 1:
            self._answered += 1
        else:
            raise BrokenFrame("an answer to nothing")

    def _call(self, number: int) -> RemoteCall:
        call = self.calls.get(number)
        if call is None:
            raise BrokenFrame("a frame of a call that does not run")
        return call

    def _take_from(self, call: RemoteCall, frame: Batch | Ended | Asked) -> None:
        try:
            if isinstance(frame, Batch):
                call.batch(frame)
            elif isinstance(frame, Asked):
                call.asked(frame)
            else:
                call.ended(frame)
                del self.calls[frame.call]
        except BrokenFrame:
            self.guilty = call
            raise


def _checked(described: Described) -> Described:
    try:
        for action in described.actions:
            check_id(action.spec.name, "action name")
            check_resume(action.spec.resume, action.spec.name)
    except (InvalidRequest, TypeError) as problem:
        raise BrokenFrame(f"an action that cannot be: {problem}") from None
    return described
