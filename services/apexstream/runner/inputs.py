"""What other tasks made, as parameters of one that comes after them: read from segments and the hot log, once they ended."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import msgspec

from apexstream.core.chunk import Chunk
from apexstream.core.errors import Erased, Expired, Unavailable
from apexstream.core.fold import Verdict
from apexstream.core.inputs import INPUT_BYTES_MAX, InputMissing, Ref, filled, references, values_of
from apexstream.log.cipher import KeyProvider, StreamOpener
from apexstream.log.index import StreamIndex
from apexstream.log.outside import OutsideChunks
from apexstream.log.segments import SegmentReader

CATCH_UP_S_MAX = 60.0
READ_BYTES_MAX = 16 * INPUT_BYTES_MAX  # what was taken back included
TAIL_CHUNKS = 64  # of a sealed stream, where its result is wanted: the last data chunk is nearly always among them


class Inputs:
    """Fills references in. The index of streams is read from the log when it is first asked for, since few tasks do."""

    def __init__(
        self,
        make_index: Callable[[], StreamIndex],
        make_log: Callable[[StreamIndex], OutsideChunks],
        segments: SegmentReader,
        keys: KeyProvider | None,
    ) -> None:
        self._make_index = make_index
        self._make_log = make_log
        self._segments = segments
        self._keys = keys
        self._index: asyncio.Future[StreamIndex] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Inputs":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def fill(self, params: bytes) -> bytes:
        """``params`` with what they refer to. Raises :class:`InputMissing`; :class:`Unavailable` if the log cannot be read."""
        wanted = msgspec.json.decode(params)
        index = await self._read_index()
        found: dict[tuple[str, str], list[object] | InputMissing] = {}
        for ref in references(wanted):
            if (ref.what, ref.task_id) not in found:
                found[ref.what, ref.task_id] = await self._values(index, ref)
        made = msgspec.json.encode(filled(wanted, lambda ref: _taken(ref, found)))
        if len(made) > INPUT_BYTES_MAX:
            raise _too_large()
        return made

    async def _read_index(self) -> StreamIndex:
        if self._reading is None or self._reading.done():  # its reading may have failed
            self._index = asyncio.get_running_loop().create_future()
            self._reading = asyncio.create_task(self._follow(self._index), name="streams' index")
        assert self._index is not None  # noqa: S101 - made with the task
        try:
            async with asyncio.timeout(CATCH_UP_S_MAX):
                return await asyncio.shield(self._index)
        except TimeoutError:
            raise Unavailable("reading the index of streams takes long", where="inputs") from None

    async def _follow(self, ready: asyncio.Future[StreamIndex]) -> None:
        try:
            async with self._make_index() as index, asyncio.TaskGroup() as tasks:
                tasks.create_task(index.run(), name="follow streams")
                await index.caught_up.wait()
                ready.set_result(index)
        except Exception as problem:  # whatever it is, the task that waits for it tries again
            if not ready.done():
                ready.set_exception(Unavailable(f"the index of streams cannot be read: {problem!r}", where="inputs"))
                ready.exception()

    async def _values(self, index: StreamIndex, ref: Ref) -> list[object] | InputMissing:
        try:
            values: list[object] = values_of(await self._content(index, ref.task_id, last=ref.what == "result"))
        except (Erased, Expired) as problem:
            return InputMissing(problem.what, where=ref.task_id)
        except InputMissing as problem:
            return problem
        if not values and ref.what == "result":
            return InputMissing("it has published nothing that could be an input", where=ref.task_id)
        return values

    async def _content(self, index: StreamIndex, stream_id: str, *, last: bool) -> list[Chunk]:
        """The chunks of a stream that count; with ``last`` only some of its end, if a data chunk is among them."""
        content = await self._read(index, stream_id, last=last)
        if last and content.first_seq and not values_of(content.chunks):
            content = await self._read(index, stream_id, last=False)
        return content.chunks

    async def _read(self, index: StreamIndex, stream_id: str, *, last: bool) -> "_Content":
        log, opener = self._make_log(index), StreamOpener(stream_id, self._keys)
        fold, offset = await log.base(stream_id)
        end = await log.end(stream_id)
        content = _Content(last=last)
        state, partition = index.get(stream_id), log.partition(stream_id)[1]
        from_seq = max(0, fold.next_seq - TAIL_CHUNKS) if last else 0
        async for ref in self._segments.leaves(partition, stream_id, () if state is None else state.segments, from_seq):
            sealed = await self._segments.chunks(partition, stream_id, ref)
            content.add(sealed.first_seq, opener.open(fold.claims, sealed.first_seq, sealed.chunks()))
        if fold.closed is not None:
            return content
        async for run in log.between(stream_id, offset, end):
            outcome = fold.apply(run)
            if outcome.verdict is Verdict.REWOUND:
                content.take_back(outcome.seq)
            elif outcome.verdict is Verdict.ACCEPTED:
                content.add(run.first_seq, opener.open(fold.claims, run.first_seq, run.chunks))
        if fold.closed is None:
            raise InputMissing("its stream has no end in the log", where=stream_id, hint="It may have expired")
        return content


class _Content:
    """What was read of a stream and still counts: from ``first_seq`` on, or with ``last`` from near its end."""

    def __init__(self, *, last: bool) -> None:
        self.first_seq = 0
        self.chunks: list[Chunk] = []
        self._last = last
        self._bytes = 0

    def add(self, seq: int, chunks: Sequence[Chunk]) -> None:
        """What follows. Raises :class:`InputMissing` if that is more than an input may be."""
        if not self.chunks:
            self.first_seq = seq
        self.chunks += chunks
        self._bytes += sum(len(chunk.payload) for chunk in chunks)
        if self._last and len(self.chunks) > 2 * TAIL_CHUNKS:
            self.first_seq += len(self.chunks) - TAIL_CHUNKS
            del self.chunks[:-TAIL_CHUNKS]
        elif not self._last and self._bytes > READ_BYTES_MAX:
            raise _too_large()

    def take_back(self, seq: int) -> None:
        """The stream went back to ``seq``."""
        del self.chunks[max(0, seq - self.first_seq) :]


def _taken(ref: Ref, found: Mapping[tuple[str, str], list[object] | InputMissing]) -> object:
    values = found[ref.what, ref.task_id]
    if isinstance(values, InputMissing):
        raise values
    return values if ref.what == "stream" else values[-1]


def _too_large() -> InputMissing:
    return InputMissing(
        f"the parameters with their inputs are over {INPUT_BYTES_MAX} bytes",
        where="params",
        hint="Refer to a result instead of a stream, or pass on where the data is",
    )
