"""Many streams on one installation: what its processes hold in memory, and how long a replay of one of them takes.

The streams are short and have ended; each is sealed, and the gateway knows its task. The first row is a hundredth of them.
"""

import random
import statistics
import time

from tests.bench.finished import Streams, streams
from tests.bench.measure import quantile, table
from tests.bench.processes import usage
from tests.bench.sockets import lean_socket
from tests.support.system import own_broker

STREAM_CHUNKS, AT_ONCE = 20, 5_000
REPLAYS = 40
ROLES = ("broker", "gateway", "archiver")


async def run(count: int = 100_000) -> str:
    """Grow to ``count`` streams, and the table."""
    async with (
        own_broker("gateway", "runner", "archiver", APEX_SEAL_AFTER_S="0.5") as (url, bootstrap),
        streams(bootstrap) as made,
    ):
        rows = [await _row(url, await _grown(made, count // 100), count // 100)]
        rows.append(await _row(url, await _grown(made, count - count // 100), count))
    header = ["streams", *(f"{role} MB" for role in ROLES), "replay p50 ms", "replay p90 ms"]
    return table(f"Streams of {STREAM_CHUNKS} chunks, ended and sealed", header, rows)


async def _grown(made: Streams, count: int) -> list[str]:
    names: list[str] = []
    while len(names) < count:
        some = made.ids(min(AT_ONCE, count - len(names)))
        await made.submitted(some)
        await made.write(dict.fromkeys(some, STREAM_CHUNKS))
        names += some
    await made.sealed(names)
    return names


async def _row(url: str, names: list[str], count: int) -> list[object]:
    times = [await _replay(url, name) for name in random.sample(names, REPLAYS)]
    used = usage()
    return [count, *(used[role].rss_mb for role in ROLES), statistics.median(times), quantile(times, 0.9)]


async def _replay(url: str, stream_id: str) -> float:
    """Milliseconds from the command to the stream's end, on a socket that is open already."""
    async with lean_socket(url) as socket:
        began = time.perf_counter()
        socket.send({"type": "subscribe", "stream_id": stream_id, "from_seq": 0})
        while not (await socket.messages())[-1].startswith(b'{"type":"stream_complete"'):
            pass
        return (time.perf_counter() - began) * 1000
