"""Whatever an action does and whenever its chunks are taken: legal batches, everything once, in order, state with its chunk."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.core.chunk import RUN_CHUNKS_MAX, Kind
from apexstream.plugin import ActionContext, Plugin, PluginManager
from apexstream.plugin import Chunk as Yielded
from apexstream.runner.host.engine import Execution
from apexstream.runner.host.frames import Batch, Frames, encode, from_child_decoder
from apexstream.runner.host.port import Call, CallOutcome, Ending, Resume
from apexstream.runner.host.receiver import Window

STEP = st.one_of(
    st.tuples(st.just("data"), st.sampled_from([1, 50, 5_000, 70_000, 300_000])),
    st.tuples(st.just("many"), st.integers(1, 600)),
    st.tuples(st.just("state"), st.sampled_from([1, 50, 5_000, 200_000])),
    st.tuples(st.just("progress"), st.sampled_from([1, 9_000])),
    st.tuples(st.just("turn"), st.just(0)),
)
FRESH = Resume()


async def act(ctx: ActionContext, steps: list[tuple[str, int]]) -> AsyncIterator[Any]:
    done, _ = ctx.restored(tuple[int, bytes]) or (0, b"")
    at = 0
    for kind, size in steps:
        for _ in range(size if kind == "many" else 1):
            if kind == "progress":
                await ctx.progress(None, "m" * size)
            elif kind == "turn":
                await asyncio.sleep(0)
            else:
                at += 1
                if at > done:
                    yield chunk(kind, at, size)


def act_in_thread(ctx: ActionContext, steps: list[tuple[str, int]]) -> Iterator[Any]:
    """The same as a plain generator."""
    done, _ = ctx.restored(tuple[int, bytes]) or (0, b"")
    at = 0
    for kind, size in steps:
        for _ in range(size if kind == "many" else 1):
            if kind == "progress":
                ctx.report(None, "m" * size)
            elif kind == "turn":
                time.sleep(0.0003)
            else:
                at += 1
                if at > done:
                    yield chunk(kind, at, size)


def chunk(kind: str, at: int, size: int) -> Any:
    head = at.to_bytes(4, "big")
    if kind == "state":
        return Yielded(head, checkpoint=(at, b"s" * size))
    return head + b"x" * (0 if kind == "many" else size)


class Model:
    """An outlet that takes what it is given every few turns, has no room every few batches, and parks where it is told."""

    def __init__(
        self, steps: list[tuple[str, int]], resume: Resume, *, plain: bool, lag: int, park_after: int | None
    ) -> None:
        plugin, plugins = Plugin("p"), PluginManager([])

        if plain:

            @plugin.action(resume="checkpointed")
            def go(ctx: ActionContext) -> Iterator[Any]:
                yield from act_in_thread(ctx, steps)

        else:

            @plugin.action(resume="checkpointed")
            async def go(ctx: ActionContext) -> AsyncIterator[Any]:
                async for value in act(ctx, steps):
                    yield value

        plugins.add("p", plugin)
        call = Call(task_id="t", attempt=1, plugin="p", action="go", params=b"{}", resume=resume)
        self.window = Window()
        self.frames = Frames(from_child_decoder)
        self.data: list[int] = []
        self.checkpoint: tuple[int, bytes] | None = None
        self.untaken = 0
        self.lag = lag
        self.batches = 0
        self.crowded = False
        self.plain = plain
        self.park_after = park_after
        self.outcome: CallOutcome | None = None
        self.execution = Execution(plugins, call, self, lambda: 1)

    def batch(self, batch: Batch) -> bool:
        assert not self.crowded or self.execution.task.done()  # the last may come all the same
        (received,) = self.frames.feed(bytes(encode(batch)))
        assert isinstance(received, Batch)
        received.check(received.payload_bytes)
        assert self.window.available > 0
        self.window.deliver(received, received.payload_bytes)
        self.untaken += received.payload_bytes
        chunks = received.chunks()
        assert len(chunks) <= RUN_CHUNKS_MAX
        for at, chunk in enumerate(chunks):
            if chunk.kind is Kind.DATA:
                self.data.append(int.from_bytes(chunk.payload[:4], "big"))
            if received.checkpoint is not None and at + 1 == received.covered:
                state = msgspec.msgpack.decode(received.checkpoint, type=tuple[int, bytes])
                assert state[0] == self.data[-1]
                self.checkpoint = (len(self.data), received.checkpoint)
        self.batches += 1
        self.crowded = self.batches % self.lag == 0 and not self.execution.task.done()
        return not self.crowded

    def ended(self, number: int, outcome: CallOutcome) -> None:
        self.outcome = outcome

    async def run(self) -> "Model":
        self.execution.begin()
        turns = 0
        async with asyncio.timeout(20):
            while self.outcome is None:
                await asyncio.sleep(0.0001 if self.plain else 0)
                turns += 1
                if turns == self.park_after:
                    self.execution.park()
                if turns % self.lag == 0:
                    if self.crowded:
                        self.crowded = False
                        self.execution.go_on()
                    self.untaken, taken = 0, self.untaken
                    freed = self.window.take(taken)
                    if freed:
                        self.execution.credit(freed)
        return self


def ran(steps: list[tuple[str, int]], resume: Resume, lag: int, park_after: int | None, *, plain: bool) -> Model:
    async def run() -> Model:
        return await Model(steps, resume, plain=plain, lag=lag, park_after=park_after).run()

    return asyncio.run(run())


def total(steps: list[tuple[str, int]]) -> int:
    return sum(size if kind == "many" else kind in {"data", "state"} for kind, size in steps)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEP, max_size=30), lag=st.integers(1, 40), plain=st.booleans())
def test_every_chunk_comes_once_in_order_in_legal_batches(steps: list[tuple[str, int]], lag: int, plain: bool):
    model = ran(steps, FRESH, lag, None, plain=plain)
    assert model.outcome == CallOutcome(ending=Ending.COMPLETED)
    assert model.data == list(range(1, total(steps) + 1))


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(STEP, max_size=30),
    lag=st.integers(1, 40),
    cuts=st.lists(st.integers(1, 60), max_size=4),
    plain=st.booleans(),
)
def test_a_stream_cut_anywhere_and_resumed_from_its_checkpoints_has_the_same_content(
    steps: list[tuple[str, int]], lag: int, cuts: list[int], plain: bool
):
    content: list[int] = []
    resume = FRESH
    for cut in [*cuts, None]:
        model = ran(steps, resume, lag, cut, plain=plain)
        assert model.outcome is not None
        if model.outcome.ending is Ending.COMPLETED:
            content += model.data
            break
        assert model.outcome.ending is Ending.PARKED
        if model.checkpoint is not None:
            kept, state = model.checkpoint
            content += model.data[:kept]
            resume = Resume(next_seq=len(content), data_count=len(content), checkpoint=state)
    assert content == list(range(1, total(steps) + 1))
