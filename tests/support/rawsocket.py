"""A WebSocket client that breaks rules: it sends bytes, and says what the server closed with."""

import asyncio
import base64
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

CLOSE, TEXT = 0x8, 0x1


def frame(payload: bytes, *, opcode: int = TEXT, final: bool = True, rsv1: bool = False, masked: bool = True) -> bytes:
    """One frame as asked for, right or wrong."""
    first = (0x80 if final else 0) | (0x40 if rsv1 else 0) | opcode
    size = len(payload)
    if size < 126:
        length = bytes([size | (0x80 if masked else 0)])
    elif size < 65536:
        length = bytes([126 | (0x80 if masked else 0)]) + struct.pack(">H", size)
    else:
        length = bytes([127 | (0x80 if masked else 0)]) + struct.pack(">Q", size)
    return bytes([first]) + length + (b"\0\0\0\0" if masked else b"") + payload


@dataclass
class RawSocket:
    """``head`` is the answer to the handshake."""

    head: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """(opcode, payload) until the connection ends."""
        while True:
            try:
                first, second = await self.reader.readexactly(2)
                size = second & 0x7F
                if size == 126:
                    (size,) = struct.unpack(">H", await self.reader.readexactly(2))
                elif size == 127:
                    (size,) = struct.unpack(">Q", await self.reader.readexactly(8))
                yield first & 0x0F, await self.reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                return

    async def closed_with(self) -> tuple[int, str]:
        """Code and reason of the server's close frame; 1006 if it just hung up."""
        async with asyncio.timeout(20):
            async for opcode, payload in self.frames():
                if opcode == CLOSE:
                    return struct.unpack(">H", payload[:2])[0], payload[2:].decode()
        return 1006, ""


@asynccontextmanager
async def raw_socket(url: str, headers: dict[str, str] | None = None) -> AsyncIterator[RawSocket]:
    """Shake hands with the gateway at ``url``, whatever it answers."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    asked = {
        "host": parts.netloc,
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": base64.b64encode(os.urandom(16)).decode(),
        "sec-websocket-version": "13",
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in asked.items())
    writer.write(f"GET /stream HTTP/1.1\r\n{lines}\r\n".encode())
    try:
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        yield RawSocket(head, reader, writer)
    finally:
        writer.close()
