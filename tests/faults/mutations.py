"""The product, broken on purpose: each mutation undoes one thing that exactly-once rests on, and the checker must see it.

Each function patches this process before a service starts in it (``FAULT_MUTATION``). One that no longer finds what it
patches fails, so that no mutation dies unnoticed.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

EVERY = 12  # what a mutation does "now and then" it does every so many times


def claim_without_reading() -> None:
    """The runner goes on from what it read before its predecessor's last run, instead of up to its own claim."""
    import apexstream.log.chunks
    from apexstream.core.fold import Outcome, StreamFold, Verdict

    class Lagging(StreamFold):
        late: Any = None

        def apply(self, run: Any) -> Outcome:
            if run.chunks and run.chunks[0].kind.fences:
                return super().apply(run)
            late, self.late = self.late, run
            return super().apply(late) if late is not None else Outcome(Verdict.DEAD)

    _patch(apexstream.log.chunks, "StreamFold", Lagging)


def no_fence() -> None:
    """All runners write as one and the same writer, and never claim a higher attempt: nobody's records ever die."""
    import apexstream.log.chunks
    import apexstream.runner.attempt
    import apexstream.runner.work

    log, attempt = apexstream.log.chunks.ChunkLog, apexstream.runner.attempt.Attempt
    make_log, make_attempt = log.__init__, attempt.__init__

    def shared_log(self: Any, *args: Any, **named: Any) -> None:
        given = inspect.signature(make_log).bind(self, *args, **named)
        given.arguments["writer_id"] = "anybody"
        make_log(*given.args, **given.kwargs)

    def shared_attempt(self: Any, *args: Any, **named: Any) -> None:
        make_attempt(self, *args, **{**named, "writer": "anybody"})

    async def always_first(self: Any, attempt: Any) -> Any:
        self._number = 1
        return await attempt.claim(1)

    _patch(log, "__init__", shared_log)
    _patch(attempt, "__init__", shared_attempt)
    _patch(apexstream.runner.work.Work, "_claim", always_first)


def commit_unfinished() -> None:
    """The runner commits all that it has taken, finished or not."""
    from apexstream.log.ledger import OffsetLedger

    def commit(self: Any) -> Any:
        at = None if self._next is None else (self._next, "")
        return at if at != self._committed else None

    _patch(OffsetLedger, "commit", commit)


def chunk_duplicated() -> None:
    """Now and then the appender takes the same chunks twice."""
    from apexstream.runner.appender import StreamAppender

    put, count = StreamAppender.put, [0]

    def twice(self: Any, chunks: Any, checkpoint: Any = None) -> None:
        count[0] += 1
        if count[0] % EVERY == 0 and not chunks[-1].kind.closes:
            put(self, chunks, None)
        put(self, chunks, checkpoint)

    _patch(StreamAppender, "put", twice)


def chunk_dropped() -> None:
    """Now and then the appender forgets chunks that it was given."""
    from apexstream.runner.appender import StreamAppender

    put, count = StreamAppender.put, [0]

    def forgetful(self: Any, chunks: Any, checkpoint: Any = None) -> None:
        count[0] += 1
        if count[0] % EVERY or chunks[-1].kind.closes:
            put(self, chunks, checkpoint)

    _patch(StreamAppender, "put", forgetful)


def chunks_swapped() -> None:
    """Now and then two runs of chunks change places."""
    from apexstream.runner.appender import StreamAppender

    put, kept = StreamAppender.put, {}

    def late(self: Any, chunks: Any, checkpoint: Any = None) -> None:
        waiting = kept.pop(id(self), None)
        if waiting is None and len(kept) < EVERY and self.next_seq % EVERY == 5 and not chunks[-1].kind.closes:
            kept[id(self)] = chunks
            return
        put(self, chunks, checkpoint)
        if waiting is not None:
            put(self, waiting, None)

    _patch(StreamAppender, "put", late)


def hash_not_chained() -> None:
    """Runs are hashed each for itself, not chained to the one before."""
    from apexstream.contracts.run_codec import RunEncoder
    from apexstream.core.chunk import GENESIS

    encode = RunEncoder.encode

    def alone(self: Any, first_seq: int, chunks: Any, checkpoint: Any, previous_hash: bytes) -> Any:
        fence = chunks[0].kind.fences
        return encode(self, first_seq, chunks, checkpoint, previous_hash if fence else GENESIS)

    _patch(RunEncoder, "encode", alone)


def checkpoint_late() -> None:
    """A checkpoint travels with the chunk after the one that it belongs to."""
    from apexstream.runner.appender import StreamAppender

    put, kept = StreamAppender.put, {}

    def late(self: Any, chunks: Any, checkpoint: Any = None) -> None:
        before, kept[id(self)] = kept.get(id(self)), checkpoint
        put(self, chunks, before)

    _patch(StreamAppender, "put", late)


def rewind_hidden() -> None:
    """The gateway tells nobody that a stream was rewound."""
    from apexstream.gateway.subscription import Subscription

    def silent(self: Any, position: Any) -> None:
        self.move(position)

    _patch(Subscription, "rewind", silent)


def zombie_shown() -> None:
    """The gateway's fold takes whoever writes next for the stream's writer, claim or no claim."""
    import apexstream.gateway.catching_up
    import apexstream.gateway.watched
    from apexstream.core.fold import Outcome, StreamFold, Verdict

    class Trusting(StreamFold):
        def apply(self, run: Any) -> Any:
            if run.chunks[0].kind.fences:
                return super().apply(run)
            self.next_seq = run.first_seq + len(run.chunks)
            self.closed = run.chunks[-1].kind if run.chunks[-1].kind.closes else None
            return Outcome(Verdict.ACCEPTED, run.first_seq)

    for module in (apexstream.gateway.watched, apexstream.gateway.catching_up):
        _patch(module, "StreamFold", Trusting)


def ended_too_soon() -> None:
    """The runner reports the end of a task and only then closes its stream."""
    from apexstream.runner.attempt import Attempt

    close, closing = Attempt._close, set()

    async def later(self: Any, kind: Any, payload: bytes) -> None:
        async def soon() -> None:
            await asyncio.sleep(0.2)
            await close(self, kind, payload)

        closing.add(asyncio.create_task(soon()))

    _patch(Attempt, "_close", later)


def _patch(owner: Any, name: str, value: Any) -> None:
    if not hasattr(owner, name):
        raise RuntimeError(f"{owner} has no {name} any more: mend tests/faults/mutations.py")
    setattr(owner, name, value)


MUTATIONS: dict[str, Callable[[], None]] = {
    name: mutation
    for name, mutation in list(globals().items())
    if callable(mutation) and getattr(mutation, "__module__", "") == __name__ and not name.startswith("_")
}
