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
from apexstream.log.connection import connection
from apexstream.log.writer import Writer
from apexstream.runtime.settings import Settings

TICK_S = 0.005


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
            pending: set[asyncio.Task[int]] = set()

            def put(stream: str, value: bytes) -> None:
                task = asyncio.create_task(writer.append(self.topic, stream.encode(), value))
                pending.add(task)
                task.add_done_callback(pending.discard)

            if not self.channel:
                for stream, author in authors.items():
                    put(stream, author.claim(0))
            began, sent, at = time.perf_counter(), 0, 0
            while sent < self.rate * self.seconds:
                due = self.rate * self.seconds if self.burst else self.rate * (time.perf_counter() - began)
                while sent < due:
                    stream = self.streams[at % len(self.streams)]
                    at += 1
                    put(stream, self._value(authors[stream]))
                    sent += self.run
                    if len(pending) > 2000:
                        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(TICK_S)
            if self.end:
                for stream, author in authors.items():
                    put(stream, author.run([Chunk(Kind.COMPLETE, b"{}", 0)]))
            await asyncio.gather(*pending)
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
