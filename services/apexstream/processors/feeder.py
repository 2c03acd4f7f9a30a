"""Brings one input to a job: its folded content, as records of the job's partition of ``apex.pipeline-work``."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

import structlog

from apexstream.contracts.run_codec import RunEncoder
from apexstream.core.chunk import GENESIS, RUN_BYTES_MAX, RUN_CHUNKS_MAX, Chunk
from apexstream.core.claims import is_adaptive
from apexstream.core.errors import DataCorruption
from apexstream.processors.inputs import Rewound, Sight, StreamReader

AHEAD_CHUNKS_MAX = 8_192  # sent and not yet taken by the job
STALL_S = 15.0  # what the job has not taken by then is sent again

_log = structlog.get_logger(__name__)

Send = Callable[[bytes], Awaitable[int]]
"""Appends a record to the job's partition of work."""


class Feeder:
    """One input of a job, from ``next_seq`` on. ``name`` tells it from all others of the process; ``wants`` says whether the job
    wants more."""

    def __init__(
        self,
        sight: Sight,
        next_seq: int,
        *,
        name: str,
        tenant: str,
        reader: StreamReader,
        encoder: RunEncoder,
        send: Send,
        wants: Callable[[], bool],
    ) -> None:
        self._sight = sight
        self._name = name
        self._tenant = tenant
        self._taken = next_seq
        self._reader = reader
        self._encoder = encoder
        self._send = send
        self._wants = wants
        self._moved = asyncio.Event()
        self._sent = next_seq
        self._claims: Sequence[tuple[int, bytes]] = sight.fold.claims

    @property
    def behind(self) -> tuple[str, float] | None:
        """The input, if its writer wants to know, and how much of what the job may be behind it is behind, 0 to 1."""
        if not is_adaptive(self._claims):
            return None
        return self._sight.stream_id, min(1.0, max(0, self._sent - self._taken) / AHEAD_CHUNKS_MAX)

    def taken(self, next_seq: int) -> None:
        """The job has taken everything before ``next_seq``; it may want more, or want it again."""
        self._taken = next_seq
        self._moved.set()

    def _claimed(self, claims: Sequence[tuple[int, bytes]]) -> None:
        self._claims = claims

    async def run(self) -> None:
        """Until the input's end. Raises :class:`Rewound`, and whatever keeps the input from being read."""
        while True:
            try:
                await self._feed(self._taken)
            except (TimeoutError, DataCorruption) as problem:
                _log.warning("input sent again", stream=self._sight.stream_id, seq=self._taken, error=str(problem))
                rewinds = self._sight.rewinds
                self._sight = await self._reader.look(self._sight.stream_id)
                if self._sight.rewinds != rewinds:
                    raise Rewound("the stream was rewound", where=self._sight.stream_id) from None
            else:
                return

    async def _feed(self, from_seq: int) -> None:
        end = from_seq
        content = self._reader.content(
            self._sight, from_seq, tenant=self._tenant, reading=self._name, on_claims=self._claimed
        )
        async for seq, chunks in content:
            at = seq
            for run in runs_of(chunks):
                await self._room(at)
                value, _ = self._encoder.encode(at, run, None, GENESIS)
                await self._send(value)
                at += len(run)
                self._sent = at
            end = at
        while self._taken < end:
            await self._taking()

    async def _room(self, seq: int) -> None:
        while seq - self._taken > AHEAD_CHUNKS_MAX or not self._wants():
            await self._taking()

    async def _taking(self) -> None:
        """Wait for the job to take something; a job that does not want more takes its time."""
        self._moved.clear()
        if self._wants():
            async with asyncio.timeout(STALL_S):
                await self._moved.wait()
        else:
            await self._moved.wait()


def runs_of(chunks: Sequence[Chunk]) -> Iterator[Sequence[Chunk]]:
    """Cut ``chunks`` into runs."""
    start = size = 0
    for at, chunk in enumerate(chunks):
        size += len(chunk.payload)
        if at > start and (at - start == RUN_CHUNKS_MAX or size > RUN_BYTES_MAX):
            yield chunks[start:at]
            start, size = at, len(chunk.payload)
    if start < len(chunks):
        yield chunks[start:]
