"""Jobs of pipelines without Kafka: a table that is a dict, crashes at any write, and what the results must be."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from apexstream.core.chunk import Chunk, Kind
from apexstream.core.events import PipelineRow
from apexstream.core.pipelines import Definition, read_definition
from apexstream.processors.chain import Chain
from apexstream.processors.rows import State

SECOND = 1_000_000


def definition(**fields: Any) -> Definition:
    """A definition as a user writes it."""
    return read_definition(msgspec.json.encode(fields))


def chunks_of(values: Iterable[Any], *, closed: bool = True) -> list[Chunk]:
    """A stream's chunks, with its end."""
    chunks = [Chunk(Kind.DATA, msgspec.json.encode(value), at) for at, value in enumerate(values)]
    return [*chunks, Chunk(Kind.COMPLETE, b"{}", len(chunks))] if closed else chunks


class Bench:
    """One job and its table. :meth:`crash` loses all but what was written, of the last step only ``kept`` writes."""

    def __init__(self, spec: Definition, functions: dict[str, Any] | None = None, part: int = 0) -> None:
        self.spec = spec
        self.part = part
        self.functions = functions or {}
        self.table: dict[bytes, PipelineRow] = {}
        self.output: list[Chunk] = []
        self.sides: dict[str, list[Chunk]] = {}
        self.restarts = 0
        self._open()

    def _open(self) -> None:
        self.state = State("job", self.spec.rows_max, self.table.get)
        whole = self.state.load(dict(self.table))
        self.restarts += not whole
        header = self.state.header
        self.next = [seq for seq, _ in header.inputs] if header else [0] * len(self.spec.inputs)
        self.written = dict(header.outputs) if header else {"": 0}
        self.chain = Chain(self.spec, self.part, self.state, sum)

    async def call(self, function: str, values: Sequence[Any], *, folds: bool, so_far: Any) -> list[Any]:
        results: list[Any] = []
        for value in values:
            if folds and so_far is msgspec.UNSET:
                so_far = value
            else:
                so_far = self.functions[function](*((so_far, value) if folds else (value,)))
            results.append(so_far)
        return results

    async def step(self, number: int, chunks: Sequence[Chunk], kept: int | None = None) -> None:
        """Feed, write the output, write ``kept`` rows of the state (None: all)."""
        items = await self.chain.feed(number, chunks, self.call)
        self.state.check()
        self._write("", self.output, self.chain.written(items))
        for name, late in self.chain.sides().items():
            self._write(name, self.sides.setdefault(name, []), late)
        self.next[number] += len(chunks)
        writes = self.state.commit(
            definition="", inputs=tuple((seq, 0) for seq in self.next), outputs=self.written, last_us=0, ended=False
        )
        for write in writes if kept is None else writes[:kept]:
            if write.row is None:
                self.table.pop(write.key, None)
            else:
                self.table[write.key] = write.row
        if kept is not None and kept < len(writes):
            self._open()

    def _write(self, name: str, log: list[Chunk], chunks: Sequence[Chunk]) -> None:
        """What the log has already must be what comes again."""
        at = self.written.get(name, 0)
        assert log[at : at + len(chunks)] == list(chunks[: max(0, len(log) - at)])
        log += chunks[max(0, len(log) - at) :]
        self.written[name] = at + len(chunks)

    def values(self) -> list[Any]:
        return [msgspec.json.decode(chunk.payload) for chunk in self.output]

    def side(self, name: str) -> list[Any]:
        return [msgspec.json.decode(chunk.payload) for chunk in self.sides.get(name, [])]


async def run(bench: Bench, *inputs: Sequence[Chunk], seed: int = 0, crashes: int = 0, run_max: int = 7) -> Bench:
    """Feed the inputs in runs of any size, in any order between them, with that many crashes in the middle of a commit."""
    draw = random.Random(seed)
    total = sum(map(len, inputs))
    crash_at = sorted(draw.sample(range(total), min(crashes, total)), reverse=True)
    fed = 0
    while any(at < len(chunks) for at, chunks in zip(bench.next, inputs, strict=True)):
        number = draw.choice([n for n, chunks in enumerate(inputs) if bench.next[n] < len(chunks)])
        at = bench.next[number]
        size = draw.randint(1, run_max)
        kept = None
        if crash_at and fed >= crash_at[-1]:
            crash_at.pop()
            kept = draw.randint(0, 3)
        await bench.step(number, inputs[number][at : at + size], kept)
        fed += size
    return bench


# What results must be: a few lines over the whole input.


def windows_of(events: Sequence[tuple[int, Any]], size: int, hop: int) -> dict[int, list[Any]]:
    """Elements by window start, of (time, element)."""
    found: dict[int, list[Any]] = {}
    for time, element in sorted(events, key=lambda event: event[0]):
        for start in range((time - size) // hop * hop + hop, time // hop * hop + 1, hop):
            found.setdefault(start, []).append(element)
    return found


def joined(left: Sequence[Any], right: Sequence[Any], within: int, how: str) -> list[tuple[Any, Any]]:
    """Pairs of dicts with ``k`` and ``t``; None stands for nobody."""
    pairs = [(a, b) for a in left for b in right if a["k"] == b["k"] and abs(a["t"] - b["t"]) <= within]
    if how in {"left", "outer"}:
        pairs += [(a, None) for a in left if not any(a is pair[0] for pair in pairs)]
    if how in {"right", "outer"}:
        pairs += [(None, b) for b in right if not any(b is pair[1] for pair in pairs)]
    return pairs
