"""One part of a pipeline at work: takes runs of its inputs, steps, writes outputs, then remembers.

The order is outputs, acknowledged; then the state; and the inputs' places are in the state. After a crash the job therefore goes
on from a state that is at most behind its outputs, makes what came after once more, and its outputs drop what they hold. Where
the state is not whole, or an input was rewound, the job starts over from its inputs' beginning.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog

from apexstream.core.chunk import Chunk, ChunkRun, Kind
from apexstream.core.errors import ApexError, Erased, Expired
from apexstream.core.events import PipelineRow
from apexstream.core.pipelines import Definition, sides_of
from apexstream.processors.chain import Call, Chain, Fall
from apexstream.processors.feeder import AHEAD_CHUNKS_MAX, Feeder
from apexstream.processors.inputs import ForeignInput, Rewound, SealedInput, Sight, StreamReader, check_usable
from apexstream.processors.items import END, PipelineFailed
from apexstream.processors.output import Output, Streams
from apexstream.processors.rows import State, Write
from apexstream.runtime import meters
from apexstream.runtime.clock import Clock

QUEUED_RUNS_MAX = 2 * AHEAD_CHUNKS_MAX  # runs may hold a single chunk; two lives of a feeder may overlap
STEP_CHUNKS_MAX = 4_096  # that one step takes, so that its cost is shared
RETRY_DELAY_S = 1.0
_CLOSED = "ends"

_log = structlog.get_logger(__name__)


class Rows(Protocol):
    """The table, as one job sees it."""

    def of(self, job: str) -> Mapping[bytes, PipelineRow]:
        """All rows of a job."""

    def read(self, key: bytes) -> PipelineRow | None:
        """One row."""

    async def write(self, job: str, writes: Sequence[Write]) -> None:
        """Change the table; returns once the changelog has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """What the jobs of a process share. ``send`` appends a record to a job's partition of work."""

    name: str
    reader: StreamReader
    streams: Streams
    rows: Rows
    functions: Callable[[float], AbstractAsyncContextManager[Call]]
    fall: Fall
    clock: Clock
    send: Callable[[str, bytes], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Somebody asked the pipeline to stop."""

    reason: str
    at_us: int


class Job:
    """Part ``part`` of a pipeline. ``fingerprint`` identifies the definition."""

    def __init__(
        self, job_id: str, definition: Definition, fingerprint: str, hands: Hands, *, part: int, tenant: str
    ) -> None:
        self.job_id = job_id
        self.definition = definition
        self.fingerprint = fingerprint
        self.part = part
        self.tenant = tenant
        self.hands = hands
        self.cancelled: Cancelled | None = None
        self._lives = 0
        self._life: _Life | None = None
        self._queue: deque[ChunkRun] = deque()
        self._arrived = asyncio.Event()

    def offer(self, run: ChunkRun) -> None:
        """A record of the job's partition of work. What there is no room for is sent again by its feeder."""
        if len(self._queue) < QUEUED_RUNS_MAX:
            self._queue.append(run)
            self._arrived.set()

    def behind(self) -> Iterable[tuple[str, float]]:
        """Its inputs whose writers want to know, and how far it is behind in each, 0 to 1."""
        return () if self._life is None else self._life.behind()

    @property
    def waiting_chunks(self) -> int:
        """Chunks that wait for their step. Safe from any thread."""
        return sum(len(run.chunks) for run in tuple(self._queue))

    @property
    def waiting_since_us(self) -> int | None:
        """When the oldest of them was yielded; None: none waits. Safe from any thread."""
        waiting = tuple(self._queue)[:1]
        return waiting[0].chunks[0].event_time_us if waiting else None

    def cancel(self, reason: str, at_us: int) -> None:
        """End the outputs with a receipt."""
        self.cancelled = Cancelled(reason, at_us)
        self._arrived.set()

    async def run(self) -> None:
        """Work until the outputs have ended; a failure of whatever is around the job costs a new life, not the job."""
        async with self.hands.functions(self.definition.function_timeout_s) as call:
            await self._live_on(call)

    async def _live_on(self, call: Call) -> None:
        careful = False
        while True:
            self._lives += 1
            self._queue.clear()
            life = _Life(self, f"{self.hands.name}.{self._lives}", call, careful=careful)
            try:
                if await life.open():
                    self._life = life
                    await self._live(life)
            except Rewound as problem:
                _log.info("an input was rewound; the job starts over", job=self.job_id, stream=problem.where)
            except _NotOneByOne:
                careful = True
            except (Erased, Expired, ForeignInput, SealedInput) as problem:
                await life.gone(problem)
                return
            except (ApexError, OSError) as problem:
                _log.warning("the job starts again", job=self.job_id, error=str(problem), in_s=RETRY_DELAY_S)
                await asyncio.sleep(RETRY_DELAY_S)
            else:
                return
            finally:
                self._life = None

    async def _live(self, life: "_Life") -> None:
        feeding = asyncio.ensure_future(life.feed())
        feeding.add_done_callback(lambda _: self._arrived.set())
        try:
            while not life.ended:
                await self._arrived.wait()
                self._arrived.clear()
                while self._queue and not life.ended and self.cancelled is None:
                    await life.step(self._taken())
                if self.cancelled is not None and not life.ended:
                    await life.cancel(self.cancelled)
                if feeding.done() and not life.ended:
                    feeding.result()
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    def _taken(self) -> Sequence[ChunkRun]:
        taken: list[ChunkRun] = []
        chunks = 0
        while self._queue and chunks < STEP_CHUNKS_MAX:
            taken.append(self._queue.popleft())
            chunks += len(taken[-1].chunks)
        return taken


class _NotOneByOne(ApexError):
    """A step of several chunks failed: what came before the failure is to be written, so it is taken again one by one."""

    code = "not_one_by_one"


class _Life:
    """A job from when it knows its inputs until it has to look at them again.

    ``careful``: one chunk is one step, so that what is written before a failure never depends on how chunks came together.
    """

    def __init__(self, job: Job, name: str, call: Call, *, careful: bool) -> None:
        self.ended = False
        self._job_id = job.job_id
        self._name = name
        self._call = call
        self._careful = careful
        self._definition = definition = job.definition
        self._fingerprint = job.fingerprint
        self._part = job.part
        self._tenant = job.tenant
        self._hands = hands = job.hands
        self._state = State(job.job_id, definition.rows_max, hands.rows.read)
        self._sights: list[Sight] = []
        self._next: list[int] = []
        self._outputs: dict[str, Output] = {}
        self._feeders: dict[int, Feeder] = {}
        self._chain: Chain
        self._last_us = 0
        self._complete = False

    async def open(self) -> bool:
        """Know the inputs, load the state, claim the outputs. False if the job has ended before."""
        rows, state = self._hands.rows, self._state
        if not state.load(rows.of(self._job_id)):
            _log.warning("the state is not whole; the job starts over", job=self._job_id)
        if state.header is not None and state.header.ended and state.header.definition == self._fingerprint:
            return False
        entries = self._definition.inputs
        self._sights = list(await asyncio.gather(*(self._hands.reader.look(entry.stream) for entry in entries)))
        for sight in self._sights:
            check_usable(sight.stream_id, sight.fold, self._tenant)
        rewinds = [sight.rewinds for sight in self._sights]
        header = state.header
        if header is not None and (
            header.definition != self._fingerprint or [count for _, count in header.inputs] != rewinds
        ):
            state.forget(rows.of(self._job_id))
        if not await self._claim(rewinds):
            return False
        header = state.header
        self._last_us = 0 if header is None else header.last_us
        self._next = [entry.from_seq for entry in entries] if header is None else [seq for seq, _ in header.inputs]
        self._chain = Chain(self._definition, self._part, state, self._hands.fall)
        self._make_feeders()
        return True

    async def gone(self, problem: ApexError) -> None:
        """An input's content is gone: what was made of it is taken back, and the output ends with that error."""
        await self._claim([])
        await self.fail(PipelineFailed(problem.what, where=problem.where, hint=problem.hint))

    async def _claim(self, rewinds: Sequence[int]) -> bool:
        said = msgspec.json.encode({"tenant": self._tenant, "pipeline": self._fingerprint, "inputs": rewinds})
        names = ["", *sides_of(self._definition)]
        self._outputs = {
            name: Output(
                f"{self._job_id}.{name}" if name else self._job_id,
                said,
                streams=self._hands.streams,
                look=self._hands.reader.look,
                writer=self._name,
                now_us=self._hands.clock.now_us(),
            )
            for name in names
        }
        held = dict(zip(names, await asyncio.gather(*(out.open() for out in self._outputs.values())), strict=True))
        header = self._state.header
        if header is not None and any(held[name] < header.outputs.get(name, 0) for name in names):
            _log.warning("an output is behind the state; the job starts over", job=self._job_id)
            self._state.forget(self._hands.rows.of(self._job_id))
            header = None
        for name, output in self._outputs.items():
            output.next_seq = 0 if header is None else header.outputs.get(name, 0)
        if all(output.closed is not None for output in self._outputs.values()):
            await self._remember(ended=True)
            return False
        return True

    def _make_feeders(self) -> None:
        ended = self._state.part(_CLOSED)
        for number, (entry, sight) in enumerate(zip(self._definition.inputs, self._sights, strict=True)):
            if ended.get(str(number).encode()) is None:
                self._feeders[number] = Feeder(
                    sight,
                    self._next[number],
                    name=f"{self._job_id}/{number}",
                    tenant=self._tenant,
                    reader=self._hands.reader,
                    encoder=self._hands.streams.encoder(f"{self._job_id}/{number}", sight.rewinds, entry.stream),
                    send=lambda value: self._hands.send(self._job_id, value),
                    wants=lambda number=number: self._chain.wants(number),  # type: ignore[misc]
                )

    def behind(self) -> Iterable[tuple[str, float]]:
        """See :meth:`Job.behind`."""
        return [found for feeder in self._feeders.values() if (found := feeder.behind) is not None]

    async def feed(self) -> None:
        """Bring the inputs, until they end; raises what keeps one from being read."""
        tasks = [asyncio.ensure_future(feeder.run()) for feeder in self._feeders.values()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def step(self, runs: Iterable[ChunkRun]) -> None:
        """Take runs, in order; what is of another life, or known already, changes nothing."""
        try:
            done = await self._feed_chain(runs)
            await self._remember(ended=done)
        except PipelineFailed as problem:
            if not self._careful:
                raise _NotOneByOne(str(problem)) from problem
            await self.fail(problem)
        for number, feeder in self._feeders.items():
            feeder.taken(self._next[number])

    async def _feed_chain(self, runs: Iterable[ChunkRun]) -> bool:
        written: dict[str, list[Chunk]] = {name: [] for name in self._outputs}
        try:
            for run in runs:
                number = int(run.stream_id.rpartition("/")[2])
                chunks = self._fresh(number, run)
                meters.PIPELINE_CHUNKS.of("in").value += len(chunks)
                size = 1 if self._careful else max(1, len(chunks))
                for at in range(0, len(chunks), size):
                    if await self._feed_one(number, chunks[at : at + size], written):
                        break
        finally:  # what came before a failure is part of the output
            for name, output in self._outputs.items():
                if written[name]:
                    meters.PIPELINE_CHUNKS.of(name.rstrip("0123456789") or "out").value += len(written[name])
                    self._last_us = max(self._last_us, written[name][-1].event_time_us)
                    await output.write(written[name])
        closing = self._closing()
        if closing is None:
            return False
        await self._end(*closing)
        return True

    async def _feed_one(self, number: int, chunks: Sequence[Chunk], written: dict[str, list[Chunk]]) -> bool:
        """True if the output is complete whatever the inputs still bring."""
        if self._complete:
            return True
        self._next[number] += len(chunks)
        last = chunks[-1]
        if last.kind.closes:
            self._state.part(_CLOSED).put(
                str(number).encode(), [int(last.kind), last.payload.decode("utf-8", "replace")]
            )
            if last.kind is not Kind.COMPLETE and len(self._next) == 1:
                chunks = chunks[:-1]  # what is open stays open: nobody knows what would have come
        items = await self._chain.feed(number, chunks, self._call)
        written[""] += self._chain.written(items)
        for name, side in self._chain.sides().items():
            written[name] += side
        if END in items:
            self._state.part(_CLOSED).put(b"all", [int(Kind.COMPLETE), "{}"])
            self._complete = True
        self._state.check()
        return self._complete

    def _fresh(self, number: int, run: ChunkRun) -> Sequence[Chunk]:
        if number >= len(self._next) or run.attempt != self._sights[number].rewinds:
            return ()
        skip = self._next[number] - run.first_seq
        return run.chunks[skip:] if skip >= 0 else ()

    def _closing(self) -> tuple[Kind, bytes] | None:
        """How the outputs end, if they do: as complete as all inputs are."""
        ends = dict(self._state.part(_CLOSED).items())
        each = [(number, ends.get(str(number).encode())) for number in range(len(self._next))]
        bad = [(number, end) for number, end in each if end is not None and end[0] != Kind.COMPLETE]
        if b"all" not in ends and not (bad and len(ends) == len(self._next)):
            return None
        if not bad:
            return Kind.COMPLETE, b"{}"
        number, (kind, said) = bad[0]
        stream = self._definition.inputs[number].stream
        what = "was cancelled" if kind == Kind.CANCELLED else "ended with an error"
        problem = PipelineFailed(f"its input {what}: {said[:500]}", where=stream)
        return Kind.ERROR, msgspec.json.encode({**problem.as_dict(), "code": "input_failed"})

    async def fail(self, problem: PipelineFailed) -> None:
        """End the output with an error; the side outputs are complete."""
        _log.warning("a pipeline failed", job=self._job_id, error=str(problem))
        await self._end(Kind.ERROR, msgspec.json.encode(problem.as_dict()))
        self._state.forget(self._hands.rows.of(self._job_id))
        await self._remember(ended=True)

    async def cancel(self, cancelled: Cancelled) -> None:
        """End all outputs with a receipt."""
        seq = self._outputs[""].next_seq
        receipt = {"reason": cancelled.reason, "stopped_at_seq": seq, "after_ms": self._since_ms(cancelled.at_us)}
        await self._end(Kind.CANCELLED, msgspec.json.encode(receipt))
        await self._remember(ended=True)

    def _since_ms(self, at_us: int) -> int:
        return max(0, self._hands.clock.now_us() - at_us) // 1000

    async def _end(self, kind: Kind, payload: bytes) -> None:
        for name, output in self._outputs.items():
            side = Chunk(Kind.COMPLETE, b"{}", self._last_us)
            end = Chunk(kind, payload, self._last_us) if not name or kind is Kind.CANCELLED else side
            await output.write((end,))

    async def _remember(self, *, ended: bool) -> None:
        self.ended = self.ended or ended
        if ended:
            self._state.forget(self._hands.rows.of(self._job_id))
        writes = self._state.commit(
            definition=self._fingerprint,
            inputs=tuple((seq, sight.rewinds) for seq, sight in zip(self._next, self._sights, strict=True))
            if self._next
            else tuple((0, sight.rewinds) for sight in self._sights),
            outputs={name: output.next_seq for name, output in self._outputs.items()},
            last_us=self._last_us,
            ended=ended,
        )
        await self._hands.rows.write(self._job_id, writes)
