"""What a socket does with frames: gathered by turn, held for who takes nothing, and in order."""

import asyncio
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from apexstream.gateway.sockets import JOINED_BYTES_MAX, FrameSocket, Outbox


class Transport:
    """Takes what is written, and shows each write."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.waiting_bytes = 0

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def writelines(self, lines: list[bytes]) -> None:
        self.writes.append(b"".join(lines))

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes

    def is_closing(self) -> bool:
        return False


def socket_with(transport: Any, outbox: Outbox | None = None) -> FrameSocket:
    config = Config(lambda: None, log_config=None, lifespan="off")
    config.load()
    made = FrameSocket(outbox or Outbox(), config, ServerState(), {}, asyncio.get_running_loop())
    made.transport = transport
    return made


async def test_frames_of_one_turn_leave_in_one_write_and_in_order() -> None:
    transport = Transport()
    socket = socket_with(transport)
    for frame in (b"a", b"b", b"c"):
        socket.write(frame)
    assert transport.writes == []
    await asyncio.sleep(0)
    socket.write(b"d")
    await asyncio.sleep(0)
    assert transport.writes == [b"abc", b"d"]


async def test_what_a_client_does_not_take_is_held_counted_and_sent_once_it_does() -> None:
    transport = Transport()
    socket = socket_with(transport)
    socket.pause_writing()
    transport.waiting_bytes = 100
    assert [socket.write(b"x" * 10) for _ in range(3)] == [110, 120, 130]
    assert socket.untaken_bytes == 130
    await asyncio.sleep(0)
    assert transport.writes == []
    assert not socket.writable.is_set()

    transport.waiting_bytes = 0
    socket.resume_writing()

    assert transport.writes == [b"x" * 30]
    assert socket.writable.is_set()
    assert socket.write(b"y") == 1
    socket._stop_watching()


async def test_a_client_that_stops_again_while_it_gets_what_was_held_stays_paused() -> None:
    class Choking(Transport):
        def writelines(self, lines: list[bytes]) -> None:
            super().writelines(lines)
            socket.pause_writing()

    transport = Choking()
    socket = socket_with(transport)
    socket.pause_writing()
    socket.write(b"z" * (JOINED_BYTES_MAX + 1))
    socket.resume_writing()
    socket.write(b"later")
    await asyncio.sleep(0)
    assert [len(write) for write in transport.writes] == [JOINED_BYTES_MAX + 1]
    assert not socket.writable.is_set()
    socket._stop_watching()


async def test_sockets_that_share_an_outbox_are_flushed_in_the_same_turn() -> None:
    outbox, transports = Outbox(), [Transport(), Transport()]
    for transport in transports:
        socket_with(transport, outbox).write(b"1")
    await asyncio.sleep(0)
    assert [transport.writes for transport in transports] == [[b"1"], [b"1"]]
