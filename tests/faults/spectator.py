"""A viewer that records all it is shown: one socket, many streams, and a new socket whenever the old one is lost.

Written from the protocol's text, not with the product's client, so that both can be wrong only independently.
"""

import asyncio
import json
import random
from contextlib import suppress
from typing import Any

from tests.faults.evidence import Seen
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

RECONNECT_S = (0.05, 0.5)
CONNECT_TIMEOUT_S = 3.0
SUBSCRIBE_AGAIN_S = 0.5
_ENDS = ("stream_complete", "stream_error", "stream_cancelled")


class Spectator:
    """Watches streams until each has ended. With ``hop_s`` it leaves its socket after about as long, again and again."""

    def __init__(self, name: str, url: str, rng: random.Random, hop_s: float | None = None) -> None:
        self.name = name
        self.seen: list[Seen] = []
        self.refusals: list[dict[str, Any]] = []
        self._url = f"ws{url.removeprefix('http')}/stream"
        self._rng = rng
        self._hop_s = hop_s
        self._open: dict[str, Seen] = {}
        self._ended: dict[str, asyncio.Event] = {}
        self._socket: ClientConnection | None = None
        self._again: set[asyncio.Task[None]] = set()

    async def watch(self, stream_id: str, from_seq: int = 0) -> Seen:
        """Begin to record a stream; it need not exist yet."""
        seen = Seen(stream_id=stream_id, viewer=self.name, from_seq=from_seq)
        self.seen.append(seen)
        self._open[stream_id] = seen
        self._ended[stream_id] = asyncio.Event()
        await self._subscribe(seen)
        return seen

    async def end_of(self, stream_id: str) -> None:
        """Return once the stream's end was shown."""
        await self._ended[stream_id].wait()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            try:
                async with connect(
                    self._url,
                    max_size=None,
                    compression=None,
                    open_timeout=CONNECT_TIMEOUT_S,
                    ping_interval=5,
                    ping_timeout=15,
                    close_timeout=0.5,
                ) as socket:
                    await self._use(socket)
            except (OSError, WebSocketException, TimeoutError):
                pass  # what a viewer does about it is to come back
            finally:
                self._socket = None
            await asyncio.sleep(self._rng.uniform(*RECONNECT_S))

    async def _use(self, socket: ClientConnection) -> None:
        self._socket = socket
        for seen in list(self._open.values()):
            await self._subscribe(seen)
        stay_s = None if self._hop_s is None else self._rng.uniform(0.3, 2.0) * self._hop_s
        async with asyncio.timeout(stay_s):
            async for message in socket:
                self._take(str(message))

    async def _subscribe(self, seen: Seen) -> None:
        if self._socket is None or seen.ended:
            return
        command = {"type": "subscribe", "stream_id": seen.stream_id, "from_seq": seen.next_seq}
        with suppress(WebSocketException):  # the next connection subscribes to all that is open
            await self._socket.send(json.dumps(command))

    def _take(self, message: str) -> None:
        frame: dict[str, Any] = json.loads(message)
        seen = self._open.get(frame.get("stream_id", ""))
        if seen is None:
            return  # the answer to nothing, or something after the end
        if frame["type"] == "error":
            self._refused(seen, frame)
        else:
            record(seen, frame, message)
        if seen.ended:
            del self._open[seen.stream_id]
            self._ended[seen.stream_id].set()

    def _refused(self, seen: Seen, frame: dict[str, Any]) -> None:
        self.refusals.append(frame["error"])
        if frame["error"]["code"] != "unavailable":
            seen.broken.append(f"refused: {frame['error']}")
            return

        async def again() -> None:
            await asyncio.sleep(SUBSCRIBE_AGAIN_S)
            await self._subscribe(seen)

        task = asyncio.create_task(again(), name=f"subscribe again to {seen.stream_id}")
        self._again.add(task)
        task.add_done_callback(self._again.discard)


def record(seen: Seen, frame: dict[str, Any], message: str) -> None:
    """Add one frame to what was seen, as the protocol says: seqs are dense, a rewind takes back what it names."""
    seq = frame["seq"]
    if frame["type"] == "stream_rewind":
        at = max(0, seq - seen.from_seq)
        seen.forgotten += enumerate(seen.frames[at:], seen.from_seq + at)
        del seen.frames[at:]
        seen.from_seq = min(seen.from_seq, seq)
        return
    if seq != seen.next_seq:
        seen.broken.append(f"seq {seq} where {seen.next_seq} is next ({frame['type']})")
        return
    seen.frames.append(message)
    seen.ended = frame["type"] in _ENDS
