"""Ends tasks that wait: their streams are closed, so that whoever waits for them is told."""

import asyncio

import msgspec

from apexstream.core.chunk import FROM_UNKNOWN, GENESIS, Chunk, Kind
from apexstream.core.claims import ClaimWords
from apexstream.core.errors import Unavailable
from apexstream.dispatcher.decisions import End
from apexstream.log.chunks import ChunkLog
from apexstream.runtime.clock import Clock

CLAIM_TRIES_MAX = 5


def error_of(end: End) -> dict[str, str]:
    """The error that the stream of a task ends with that failed while it waited."""
    return {"code": "upstream_failed", "message": end.reason, "where": end.task_id}


async def close_stream(end: End, chunks: ChunkLog, clock: Clock, *, since_us: int, tenant: str) -> None:
    """Write the end of the task's stream. One that never ran has no attempt, so the claim and the end go together; a stream
    that an attempt has claimed after all stays as it is. One that was parked is claimed as an attempt does it. ``since_us``
    is when the task was submitted, ``tenant`` whose it is."""
    words = ClaimWords(tenant=tenant).encode()
    if end.attempt == 1:
        encoder = chunks.encoder(end.task_id, 1)
        claim, _ = encoder.encode(0, (Chunk(Kind.CLAIM, words, clock.now_us()),), None, GENESIS)
        last, _ = encoder.encode(0, (_last(end, 0, clock),), None, GENESIS)
        await asyncio.gather(chunks.append(end.task_id, claim), chunks.append(end.task_id, last))
        return
    for attempt in range(end.attempt, end.attempt + CLAIM_TRIES_MAX):
        if await _close_parked(end, chunks, clock, attempt=attempt, since_us=since_us, words=words):
            return
    raise Unavailable(f"lost {CLAIM_TRIES_MAX} claims to other writers", where=end.task_id)


async def _close_parked(end: End, chunks: ChunkLog, clock: Clock, *, attempt: int, since_us: int, words: bytes) -> bool:
    encoder = chunks.encoder(end.task_id, attempt)
    claim, _ = encoder.encode(FROM_UNKNOWN, (Chunk(Kind.CLAIM, words, clock.now_us()),), None, GENESIS)
    offset = await chunks.append(end.task_id, claim)
    fold = await chunks.fold(end.task_id, since_us=since_us, end=offset + 1)
    if fold.closed is not None:
        return True
    if (fold.attempt, fold.writer) != (attempt, chunks.writer_id):
        return False
    fence, _ = encoder.encode(fold.next_seq, (Chunk(Kind.RESUME, b"", clock.now_us()),), None, fold.hash)
    last, _ = encoder.encode(fold.next_seq, (_last(end, fold.next_seq, clock),), None, fold.hash)
    await asyncio.gather(chunks.append(end.task_id, fence), chunks.append(end.task_id, last))
    return True


def _last(end: End, seq: int, clock: Clock) -> Chunk:
    receipt = {"reason": end.reason, "stopped_at_seq": seq, "after_ms": 0}
    failed = end.outcome == "failed"
    payload = msgspec.json.encode(error_of(end) if failed else receipt)
    return Chunk(Kind.ERROR if failed else Kind.CANCELLED, payload, clock.now_us())
