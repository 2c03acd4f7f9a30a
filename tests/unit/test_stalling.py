"""Who has stopped reading, and who is only slow."""

import asyncio
import socket
from collections.abc import Callable

from apexstream.gateway.stalling import STALLED_S, StallWatch, waiting_bytes


class Clock:
    """A loop whose time a test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay_s: float, act: Callable[[], None]) -> object:
        self.due.append((self.now + delay_s, act))
        return object()

    def run(self, until_s: float) -> None:
        while self.due and self.due[0][0] <= until_s:
            self.now, act = self.due.pop(0)
            act()


def watched(taken: Callable[[float], int]) -> tuple[Clock, list[float]]:
    """When a watch gave up on a client that has taken so much at each time."""
    clock, stalled = Clock(), []
    watch = StallWatch(clock, lambda: taken(clock.now), lambda: stalled.append(clock.now))  # type: ignore[arg-type]
    watch.start()
    return clock, stalled


def test_a_client_that_takes_nothing_is_given_up_once() -> None:
    clock, stalled = watched(lambda _: 7)
    clock.run(60)
    assert stalled == [STALLED_S]


def test_a_client_that_takes_a_little_now_and_then_is_waited_for() -> None:
    clock, stalled = watched(lambda now: int(now / (STALLED_S - 1)))
    clock.run(60)
    assert stalled == []


async def test_what_the_kernel_could_send_counts_as_taken() -> None:
    loop, made = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
    server = await loop.create_server(lambda: _Told(made), "127.0.0.1", 0)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, server.sockets[0].getsockname())
        transport: asyncio.Transport = await made
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 262_144)
        transport.write(bytes(4_000_000))
        kept = transport.get_write_buffer_size()
        before = waiting_bytes(transport)
        assert before > kept > 0
        async with asyncio.timeout(60):
            while waiting_bytes(transport) == before:
                await loop.sock_recv(client, 4096)
        transport.abort()
    server.close()
    await server.wait_closed()


class _Told(asyncio.Protocol):
    def __init__(self, made: "asyncio.Future[asyncio.Transport]") -> None:
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._made.set_result(transport)
