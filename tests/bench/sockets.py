"""A WebSocket client that costs next to nothing, so that a benchmark of the gateway measures the gateway."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import msgspec

READ_BYTES = 256 * 1024


class LeanSocket:
    """Sends commands and cuts what comes into messages; reads text frames of a server that neither fragments nor compresses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._kept = b""

    def send(self, command: dict[str, object]) -> None:
        """A frame as clients send them: masked, here with zeros."""
        body = msgspec.json.encode(command)
        assert len(body) < 126
        self._writer.write(bytes((0x81, 0x80 | len(body), 0, 0, 0, 0)) + body)

    async def messages(self) -> list[bytes]:
        """What came next, at least one message."""
        while True:
            data = await self._reader.read(READ_BYTES)
            assert data, "the gateway closed the socket"
            found, self._kept = _cut(self._kept + data if self._kept else data)
            if found:
                return found


def _cut(data: bytes) -> tuple[list[bytes], bytes]:
    found, at, end = [], 0, len(data)
    while end - at >= 2:
        size, body = data[at + 1], at + 2
        if size == 126:
            size, body = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        elif size == 127:
            size, body = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
        if body + size > end or body > end:
            break
        at = body + size
        found.append(data[body:at])
    return found, data[at:]


@asynccontextmanager
async def lean_socket(url: str) -> AsyncIterator[LeanSocket]:
    """Connect to ``/stream`` of the gateway at ``url``."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    reader, writer = await asyncio.open_connection(host, port, limit=4 * READ_BYTES)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /stream HTTP/1.1\r\nhost: {host}:{port}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head, head
    try:
        yield LeanSocket(reader, writer)
    finally:
        writer.close()
