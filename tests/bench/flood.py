"""Writes chunks at a rate, as runners would, or the same messages for Centrifugo: ``python -m tests.bench.flood``,
with a :class:`Flood` as a line of JSON."""

import asyncio
import json
import sys
import time
from dataclasses import dataclass

import uvloop
from tests.support.streams import Author

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.errors import Unavailable
from apexstream.log.connection import connection
from apexstream.log.writer import Writer
from apexstream.runtime.settings import Settings

TICK_S = 0.005
UNSAID_MAX = 4_000


class _Unsaid:
    """Records of which nothing is known yet: one listener of all, since a task each costs more than what is measured."""

    def __init__(self) -> None:
        self.count = 0
        self._none = asyncio.Event()

    def appended(self, offset: int) -> None:
        self.count -= 1
        if self.count == 0:
            self._none.set()

    def failed(self, error: Unavailable) -> None:
        raise error

    async def none(self) -> None:
        """Wait until all are acknowledged."""
        while self.count:
            self._none.clear()
            await self._none.wait()


@dataclass(frozen=True, slots=True)
class Flood:
    """``streams`` get ``rate`` messages a second in all, for ``seconds``, in runs of ``run``; ``channel``: for Centrifugo."""

    bootstrap: str
    topic: str
    streams: list[str]
    rate: float
    seconds: float
    run: int = 1
    pad: int = 150
    channel: bool = False
    burst: bool = False  # as fast as it goes, ``rate * seconds`` messages
    claim: bool = True
    end: bool = False

    def payload(self) -> bytes:
        return b'{"t":%d,"pad":"%b"}' % (time.time_ns(), b"x" * self.pad)

    async def pour(self) -> float:
        settings = Settings(bootstrap_servers=self.bootstrap)
        async with Writer(connection(settings), client_id="flood", timeout_s=30) as writer:
            await writer.prepare(self.topic)
            authors = {stream: Author(stream) for stream in self.streams}
            places = {stream: writer.partition_of(self.topic, stream.encode()) for stream in self.streams}
            unsaid = _Unsaid()

            def put(stream: str, value: bytes) -> None:
                unsaid.count += 1
                writer.put(self.topic, places[stream], stream.encode(), value, unsaid)

            if not self.channel:
                for stream, author in authors.items():
                    put(stream, author.claim(0))
            began, sent, at, total = time.perf_counter(), 0, 0, self.rate * self.seconds
            while sent < total:
                due = total if self.burst else min(total, self.rate * (time.perf_counter() - began))
                while sent < due and unsaid.count < UNSAID_MAX:
                    stream = self.streams[at % len(self.streams)]
                    at += 1
                    put(stream, self._value(authors[stream]))
                    sent += self.run
                await asyncio.sleep(TICK_S)
            if self.end:
                for stream, author in authors.items():
                    put(stream, author.run([Chunk(Kind.COMPLETE, b"{}", 0)]))
            await unsaid.none()
            return sent / (time.perf_counter() - began)

    def _value(self, author: Author) -> bytes:
        if self.channel:
            return b'{"method":"publish","payload":{"channel":"%b","data":%b}}' % (
                author.stream_id.encode(),
                self.payload(),
            )
        return author.run([Chunk(Kind.DATA, self.payload(), time.time_ns() // 1000) for _ in range(self.run)])


if __name__ == "__main__":
    print(json.dumps({"rate": uvloop.run(Flood(**json.loads(sys.stdin.readline())).pour())}), flush=True)
