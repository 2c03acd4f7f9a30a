"""Many WebSocket clients in one process that cost next to nothing: ``python -m tests.bench.crowd``.

The first line of its input is a JSON object, see :class:`Crowd`. Says ``ready`` once all are subscribed; on a line of its input
it begins to count anew, on the next one it says what it counted. Messages are counted, not parsed; of each read the last one
gives a latency, by the time (``"t":`` nanoseconds) in it.
"""

import json
import re
import select
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

READ_BYTES = 256 * 1024
SAMPLES_MAX = 2_000_000
_TIME = b'"t":'


def frame(body: bytes, opcode: int = 0x81) -> bytes:
    """A client's frame, of text unless told otherwise, masked with zeros."""
    size = bytes((0x80 | len(body),)) if len(body) < 126 else b"\xfe" + len(body).to_bytes(2, "big")
    return bytes((opcode,)) + size + bytes(4) + body


PING = re.compile(rb"\x89\x04(.{4})|\x81\x02({})", re.DOTALL)
"""A WebSocket's ping, as ApexStream sends it, or Centrifugo's own. Texts are ASCII, so little else looks like one, and an answer
that nobody asked for does no harm."""


@dataclass(slots=True, eq=False)
class Client:
    """One connection; ``say`` are the messages that it begins with."""

    say: list[str]
    socket: socket.socket
    upgraded: bool = False
    subscribed: bool = False
    reads: bool = True
    closed: bool = False
    count: int = 0
    tail: bytes = b""
    done_at: float = 0.0


@dataclass(slots=True)
class Crowd:
    """``mark`` is in every message that counts, ``answer`` in what says that a client is subscribed, ``pings`` in what a server
    asks for signs of life with; ``wanted`` messages make a client done (0: none)."""

    host: str
    port: int
    path: str
    mark: bytes
    answer: bytes
    pings: bytes
    wanted: int = 0
    receive_bytes: int = 0
    clients: list[Client] = field(default_factory=list)
    poll: select.epoll = field(default_factory=select.epoll)
    by_fd: dict[int, Client] = field(default_factory=dict)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))
    latencies_ns: list[int] = field(default_factory=list)
    counted: int = 0
    closed: int = 0
    first_at: float = 0.0  # of what is counted
    last_at: float = 0.0

    def connect(self, says: list[list[str]]) -> None:
        for say in says:
            made = socket.socket()
            if self.receive_bytes:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_bytes)
            made.connect((self.host, self.port))
            made.setblocking(False)
            client = Client(say, made)
            made.send(
                f"GET {self.path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                "sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
            )
            self.clients.append(client)
            self.by_fd[made.fileno()] = client
            self.poll.register(made, select.EPOLLIN)
            self.turn(0)

    def turn(self, timeout_s: float) -> bool:
        """Read what there is, or wait for it; True if the input has something to say."""
        told = False
        for fd, _ in self.poll.poll(timeout_s):
            client = self.by_fd.get(fd)
            if client is None:
                told = True
            else:
                self._read(client)
        return told

    def _read(self, client: Client) -> None:
        try:
            data = bytes(self.buffer[: client.socket.recv_into(self.buffer)])
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(client)
            return
        if not client.upgraded:
            self._upgrade(client, data)
            return
        if not client.subscribed:
            data = client.tail + data
            client.tail = data[-64:]
            if self.answer not in data:
                return
            client.subscribed = True
            data = data.partition(self.answer)[2]
        self._count(client, data)

    def _upgrade(self, client: Client, data: bytes) -> None:
        client.tail += data
        if b"\r\n\r\n" not in client.tail:
            return
        assert b" 101 " in client.tail, client.tail
        client.upgraded, client.tail = True, client.tail.partition(b"\r\n\r\n")[2]
        for message in client.say:
            client.socket.send(frame(message.encode()))

    def _count(self, client: Client, data: bytes) -> None:
        keep = len(self.mark) - 1
        joined = client.tail[-keep:] + data if client.subscribed and client.tail else data
        if self.pings in joined:
            self._answer(client, joined)
        found = joined.count(self.mark)
        client.tail = joined[-keep:]
        client.count += found
        if found:
            self.last_at = time.perf_counter()
            self.first_at = self.first_at or self.last_at
        self.counted += found
        if self.wanted and client.count >= self.wanted and not client.done_at:
            client.done_at = time.perf_counter()
        at = data.rfind(_TIME)
        if at >= 0 and len(self.latencies_ns) < SAMPLES_MAX:
            said = data[at + len(_TIME) : at + len(_TIME) + 19]
            if len(said) == 19 and said.isdigit():
                self.latencies_ns.append(time.time_ns() - int(said))

    def _answer(self, client: Client, data: bytes) -> None:
        for ping in PING.finditer(data):
            payload, text = ping.groups()
            client.socket.send(frame(text) if text else frame(payload, 0x8A))

    def _close(self, client: Client) -> None:
        client.closed = True
        self.closed += 1
        self._ignore(client)
        client.socket.close()

    def _ignore(self, client: Client) -> None:
        self.poll.unregister(client.socket)
        del self.by_fd[client.socket.fileno()]

    def stop_reading(self, count: int) -> None:
        for client in self.clients[:count]:
            client.reads = False
            self._ignore(client)


def quantiles(values: list[int]) -> dict[str, float]:
    ordered = sorted(values) or [0]
    return {
        name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] / 1e6 for name, q in (("p50", 0.5), ("p99", 0.99))
    }


def main() -> None:
    """Follow the lines of the input: ``count``, ``report``, ``stop N``; the end of it is the end."""
    wanted: dict[str, Any] = json.loads(sys.stdin.readline())
    says = wanted.pop("says")
    marks = {name: wanted.pop(name).encode("latin-1") for name in ("mark", "answer", "pings")}
    crowd = Crowd(**marks, **wanted)
    began = time.perf_counter()
    crowd.connect(says)
    while not all(client.subscribed or client.closed for client in crowd.clients):
        crowd.turn(0.1)
    say({"ready": time.perf_counter() - began})
    crowd.poll.register(sys.stdin, select.EPOLLIN)
    while True:
        if crowd.turn(0.05):
            line = sys.stdin.readline().split()
            if not line:
                return
            if line[0] == "count":
                crowd.latencies_ns.clear()
                crowd.counted, crowd.first_at = 0, 0.0
            elif line[0] == "stop":
                crowd.stop_reading(int(line[1]))
            else:
                took = crowd.last_at - crowd.first_at
                say({"counted": crowd.counted, "took": took, "closed": crowd.closed, **quantiles(crowd.latencies_ns)})
        if crowd.wanted and all(client.done_at or client.closed for client in crowd.clients):
            say({"done": max(client.done_at for client in crowd.clients) - began, "closed": crowd.closed})
            crowd.wanted = 0


def say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
