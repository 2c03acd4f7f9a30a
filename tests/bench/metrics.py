"""What counting costs on a chunk's path: everything that this process computes for a chunk, with the measures and without.

From the batch that a plugin process hands over to the bytes for a viewer's socket: append, encode, decode, fold, frame.
Sockets and Kafka, which cost more than all of it, are left out, so the share of a whole system is smaller than this one.
"""

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Any

from tests.bench.measure import median_ratio, table

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import GENESIS, Chunk, Kind
from apexstream.core.fold import StreamFold
from apexstream.gateway.frames import JsonFrames
from apexstream.gateway.live import LiveStream, TailMemory
from apexstream.gateway.measures import StreamMeasures
from apexstream.log.cipher import StreamOpener
from apexstream.runner.appender import StreamAppender
from apexstream.runner.buffer import Buffer
from apexstream.runner.measures import ActionMeasures, AttemptMeasures
from apexstream.runtime import meters
from apexstream.runtime.clock import SystemClock

ROUNDS, CHUNKS, PAD = 15, 20_000, 150
STREAM = "01kb0f6mrf8d2v3n4p5q6r7s8t"
TRACE = "0af7651916cd43dd8448eb211c80319c"


@dataclass(slots=True)
class Record:
    """As it comes from the log."""

    offset: int
    key: bytes
    value: bytes
    timestamp: int = 0


class SilentAttempt(AttemptMeasures):
    """Counts nothing."""

    __slots__ = ()

    def yielded(self, count: int, size_bytes: int, now: float) -> None:
        """Nothing."""


class SilentStream(StreamMeasures):
    """Counts nothing."""

    __slots__ = ()

    def handed_over(self, yielded_us: int) -> None:
        """Nothing."""


class Viewer:
    """Takes frames and forgets them."""

    def __init__(self) -> None:
        self.viewer: Any = self

    def send(self, _: object, data: bytes) -> None:
        """Nothing."""


def path(counted: bool, size: int) -> float:
    """CPU seconds for ``CHUNKS`` chunks that come ``size`` at once."""
    codec, clock = Codec(), SystemClock()
    action = ActionMeasures("bench", "path", clock)
    attempt = AttemptMeasures(action, clock, TRACE) if counted else SilentAttempt(action, clock, TRACE)
    measures = (StreamMeasures if counted else SilentStream)("bench", "path", clock.now_us)
    appended = meters.LOG_APPENDED_BYTES.of("bench")
    live = LiveStream(
        STREAM,
        ("chunks", 0),
        codec=codec,
        opener=StreamOpener(STREAM, None),
        memory=TailMemory(1 << 20),
        measures=measures,
        fold=StreamFold(),
        offset=0,
    )
    encoding = JsonFrames()
    live.attach(Viewer(), encoding.name, encoding.open(STREAM))  # type: ignore[arg-type]
    encoder = codec.run_encoder(STREAM, 1, "bench")
    claim, _ = encoder.encode(0, (Chunk(Kind.CLAIM, b"", 1),), None, GENESIS)
    key, offset = STREAM.encode(), 1
    live.take([Record(0, key, claim)])
    flown: list[bytes] = []
    appender = StreamAppender(
        encoder,
        lambda value, _: flown.append(value),
        next_seq=0,
        previous_hash=GENESIS,
        buffer=Buffer(1 << 30, hold=lambda _: None),
    )
    chunks = [Chunk(Kind.DATA, b'{"pad":"%b"}' % (b"x" * PAD), clock.now_us()) for _ in range(size)]
    size_bytes = sum(len(chunk.payload) for chunk in chunks)
    began = time.process_time()
    for _ in range(CHUNKS // size):
        attempt.yielded(size, size_bytes, clock.monotonic())
        appender.put(chunks)
        while flown:
            value = flown.pop(0)
            if counted:
                appended.value += len(key) + len(value)
            live.take([Record(offset, key, value)])
            offset += 1
            appender.appended(offset)
    took = time.process_time() - began
    assert live.fold.next_seq == CHUNKS // size * size
    return took


async def run() -> str:
    """All rounds, and the table."""
    rows = []
    for size in (1, 16, 250):
        path(counted=True, size=size)  # warm
        pairs = []
        for number in range(ROUNDS):
            order = (True, False) if number % 2 else (False, True)
            took = {counted: path(counted, size) for counted in order}
            pairs.append((took[True], took[False]))
            await asyncio.sleep(0)
        counted, silent = zip(*pairs, strict=True)
        each_us = statistics.median(counted) / CHUNKS * 1e6
        rows.append([size, each_us, f"{(median_ratio(counted, silent) - 1) * 100:+.1f} %"])
    return table("Metrics on a chunk's path", ["chunks at once", "CPU a chunk, µs", "of it for metrics"], rows)
