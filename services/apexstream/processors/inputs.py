"""The folded content of a stream: what is sealed from its segments, the rest from the log, then whatever is appended.

A stream that is rewound has other content from then on. Every reading is therefore of one *sight* of the stream: it tells how
often the stream was rewound before, gives only content that was not taken back by then, and ends with :class:`Rewound` when it
is rewound again.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import Chunk, ChunkRun
from apexstream.core.claims import tenant_of
from apexstream.core.errors import ApexError, ChunkDecodeError, DataCorruption
from apexstream.core.events import StreamState
from apexstream.core.fold import StreamFold, Verdict
from apexstream.log.cipher import claimed_key
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.index import StreamIndex, check_readable, fold_of
from apexstream.log.pull import Pull
from apexstream.log.segments import SegmentReader

LOOKS_MAX = 3  # at a stream whose chunks are trimmed, or whose segments go away, while it is read
WAIT_MS = 500

_log = structlog.get_logger(__name__)


class ForeignInput(ApexError):
    """The stream belongs to another tenant than the pipeline."""

    code = "unknown_task"


class SealedInput(ApexError):
    """The stream is encrypted, and what is made of it would not be."""

    code = "input_encrypted"


class Rewound(ApexError):
    """The stream was rewound while it was read: what was read may not count any more."""

    code = "rewound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A stream as the log has it before offset ``end`` of its partition: its fold there, how often it was rewound.

    ``state`` is what is sealed, valid at offset ``start``; ``undone`` the (offset, seq) of each rewind since.
    """

    stream_id: str
    partition: Partition
    state: StreamState | None
    start: int
    end: int
    fold: StreamFold
    rewinds: int
    undone: tuple[tuple[int, int], ...]

    def counts_to(self, offset: int) -> int:
        """The seq before which what was appended at ``offset`` was not taken back."""
        return min((seq for at, seq in self.undone if at > offset), default=1 << 62)


OnClaims = Callable[[Sequence[tuple[int, bytes]]], None]


def check_usable(stream_id: str, fold: StreamFold, tenant: str) -> None:
    """Raise :class:`ForeignInput` if the stream exists and is not ``tenant``'s, :class:`SealedInput` if it is encrypted."""
    if fold.attempt and tenant_of(fold.claims) != tenant:
        raise ForeignInput(
            "there is no such stream", where=stream_id, hint="A pipeline reads streams of its own tenant"
        )
    if any(claimed_key(payload) is not None for _, payload in fold.claims):
        raise SealedInput(
            "the stream is encrypted, and pipelines keep what they hold unencrypted",
            where=stream_id,
            hint="Transform it in a plugin (docs/operators.md), or for one reader by a view",
        )


class StreamReader:
    """Reads streams by themselves. ``partition_of`` gives the place of a stream's chunks."""

    def __init__(
        self,
        reader: LogReader,
        index: StreamIndex,
        segments: SegmentReader,
        codec: Codec,
        *,
        partition_of: Callable[[str], Partition],
        now_us: Callable[[], int],
    ) -> None:
        self._reader = reader
        self._index = index
        self._segments = segments
        self._codec = codec
        self._partition_of = partition_of
        self._now_us = now_us

    async def look(self, stream_id: str, end: int | None = None) -> Sight:
        """The stream as it is now, or before offset ``end``. A stream that does not exist yet is empty.

        Raises :class:`Erased` or :class:`Expired` for content that is gone.
        """
        for attempt in range(LOOKS_MAX):
            try:
                return await self._look(stream_id, end)
            except DataCorruption:  # it was sealed and trimmed after we were told where it begins
                if attempt == LOOKS_MAX - 1:
                    raise
        raise AssertionError

    async def _look(self, stream_id: str, end: int | None) -> Sight:
        partition = self._partition_of(stream_id)
        state = self._index.get(stream_id)
        if state is not None:
            check_readable(state, self._now_us())
        start = await self._start(partition, state)
        fold = StreamFold() if state is None else fold_of(state)
        stop = end if end is not None else (await self._reader.ends([partition]))[partition]
        undone: list[tuple[int, int]] = []
        if fold.closed is None:
            key = stream_id.encode()
            async for records, _ in self._reader.scan(partition, start, stop):
                for record, run in self._runs(records, key):
                    outcome = fold.apply(run)
                    if outcome.verdict is Verdict.REWOUND:
                        undone.append((record.offset, outcome.seq))
        return Sight(
            stream_id=stream_id,
            partition=partition,
            state=state,
            start=start,
            end=max(start, stop),
            fold=fold,
            rewinds=(0 if state is None else state.rewinds) + len(undone),
            undone=tuple(undone),
        )

    async def _start(self, partition: Partition, state: StreamState | None) -> int:
        if state is not None:
            return state.offset
        sealed_to = self._index.sealed_to(partition[1])
        # What is sealed is in some state; a stream without a state begins after that.
        first = (await self._reader.starts([partition]))[partition]
        return first if sealed_to is None else max(first, sealed_to)

    async def content(
        self, sight: Sight, from_seq: int, *, tenant: str, reading: str, on_claims: OnClaims
    ) -> AsyncIterator[tuple[int, Sequence[Chunk]]]:
        """Chunks of ``tenant``'s stream from ``from_seq`` to its end, as (first seq, chunks), waiting for those to come.

        The end is always given, even if the stream ends before ``from_seq``. ``reading`` tells readings apart that go on at the
        same time; ``on_claims`` is given the stream's claims when they change. Raises as :func:`check_usable`,
        :class:`Rewound`, and :class:`DataCorruption` where what is not read yet was sealed and trimmed meanwhile: look again
        and go on.
        """
        seq = from_seq
        async for first, chunks in self._all(sight, tenant, reading, on_claims):
            skip = seq - first
            if skip >= len(chunks) and chunks[-1].kind.closes:
                yield seq, chunks[-1:]
            elif skip < len(chunks):
                yield max(first, seq), chunks[skip:] if skip > 0 else chunks
                seq = first + len(chunks)

    async def _all(
        self, sight: Sight, tenant: str, reading: str, on_claims: OnClaims
    ) -> AsyncIterator[tuple[int, Sequence[Chunk]]]:
        check_usable(sight.stream_id, sight.fold, tenant)
        if sight.state is not None:
            limit = sight.counts_to(-1)
            async for first, chunks in self._sealed(sight.partition[1], sight.state):
                if first >= limit:
                    break
                yield first, chunks[: limit - first]
            if fold_of(sight.state).closed is not None:
                return
        async for first, chunks in self._logged(sight, tenant, reading, on_claims):
            yield first, chunks

    async def _sealed(self, partition: int, state: StreamState) -> AsyncIterator[tuple[int, Sequence[Chunk]]]:
        async for ref in self._segments.leaves(partition, state.stream_id, state.segments, 0):
            sealed = await self._segments.chunks(partition, state.stream_id, ref)
            yield ref.first_seq, sealed.chunks()

    async def _logged(
        self, sight: Sight, tenant: str, reading: str, on_claims: OnClaims
    ) -> AsyncIterator[tuple[int, Sequence[Chunk]]]:
        fold = StreamFold() if sight.state is None else fold_of(sight.state)
        pull = Pull(self._reader, sight.partition, sight.start, channel=reading)
        key = sight.stream_id.encode()
        while fold.closed is None:
            for record, run in self._runs(await pull.next(WAIT_MS), key):
                outcome = fold.apply(run)
                if outcome.verdict in {Verdict.CLAIMED, Verdict.RESUMED, Verdict.REWOUND}:
                    check_usable(sight.stream_id, fold, tenant)
                    on_claims(fold.claims)
                if outcome.verdict is Verdict.REWOUND and record.offset >= sight.end:
                    raise Rewound(f"the stream was rewound to seq {outcome.seq}", where=sight.stream_id)
                if outcome.verdict is Verdict.ACCEPTED:
                    chunks = run.chunks[: max(0, sight.counts_to(record.offset) - outcome.seq)]
                    if chunks:
                        yield outcome.seq, chunks

    def _runs(self, records: Sequence[Record], key: bytes) -> list[tuple[Record, ChunkRun]]:
        runs = []
        for record in records:
            if record.key != key:
                continue
            try:
                runs.append((record, self._codec.decode_run(record.value)))
            except ChunkDecodeError as problem:
                _log.error("skipped a record that cannot be read", offset=record.offset, error=str(problem))
        return runs
