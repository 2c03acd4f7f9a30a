"""How long it takes until streams move again when their runner is killed in the middle of a thousand of them."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from aiokafka.structs import TopicPartition
from tests.faults.avro import Reader, Unreadable
from tests.faults.brokers import one_broker, scratch
from tests.faults.installation import Installation, installation, until
from tests.faults.rawlog import raw_consumer

STREAMS = 1000
SUBMITTERS = 20
INTERVAL_S = 1.0
CHUNKS = 1200
RESTART_S = 0.5  # as a supervisor does
START_TIMEOUT_S = 180.0
MOVE_TIMEOUT_S = 240.0
ACTIONS = ("checkpointed", "persistent", "restart")  # a deterministic one would first repeat its own pauses


class Pulse:
    """When each stream first had a data chunk appended since :meth:`begin`, on the clock of this process, and by whom."""

    def __init__(self) -> None:
        self.moved_at: dict[str, float] = {}
        self.writer: dict[str, str] = {}
        self._reader = Reader()

    def begin(self) -> float:
        """Forget what was, and return the time."""
        self.moved_at = {}
        return time.monotonic()

    def note(self, values: Iterable[bytes | None]) -> None:
        """Take records of ``apex.chunks`` in."""
        now = time.monotonic()
        for value in values:
            try:
                fields = self._reader.read(value, "chunk-run").fields
            except Unreadable:
                continue
            if any(chunk["kind"] == "data" for chunk in fields["chunks"]):
                self.moved_at.setdefault(fields["stream_id"], now)
                self.writer[fields["stream_id"]] = fields["writer"]


@dataclass(frozen=True, slots=True)
class Case:
    """What becomes of the killed runner. ``again_after_s``: when it is started again, None: never; ``sole``: whether it then
    knows that it is the only one of its name; ``other``: whether a second runner runs."""

    name: str
    again_after_s: float | None
    sole: bool
    other: bool


CASES = (
    Case("the other runner takes over once the session is over", None, sole=False, other=True),
    Case("started again at once, two runners", RESTART_S, sole=True, other=True),
    Case("started again at once, no other runner", RESTART_S, sole=True, other=False),
    Case("the same, but it does not know that it is the only one of its name", RESTART_S, sole=False, other=False),
)


@dataclass(frozen=True, slots=True)
class Recovery:
    """How long the streams of a killed runner stood still, seconds, rising."""

    case: Case
    streams: int
    took_s: Sequence[float]

    def __str__(self) -> str:
        first, half, last = self.took_s[0], statistics.median(self.took_s), self.took_s[-1]
        return (
            f"{self.case.name}: {len(self.took_s)} of {self.streams} streams were its own; they moved again after "
            f"{first:.1f} s (first), {half:.1f} s (half), {last:.1f} s (last)"
        )


async def measure(keep: Path | None, streams: int = STREAMS) -> int:
    """Kill the runner of ``streams`` running streams in every way of :data:`CASES`, and print how long they stood still."""
    with scratch() as folder:
        async for recovery in recoveries(keep or folder, streams, CASES):
            print(recovery, flush=True)
    return 0


async def recoveries(directory: Path, streams: int, cases: Sequence[Case], **environ: str) -> AsyncIterator[Recovery]:
    """Start the streams, and kill ``runner-a`` with ``kill -9`` once for each case. ``environ`` goes to all services."""
    directory.mkdir(parents=True, exist_ok=True)
    room = {"APEX_RUNNER_CAPACITY": str(streams + 100), **environ}
    async with one_broker() as broker, installation(broker, directory, "apex.", **room) as made:
        victim, other = made.of("runner")
        await made.shared_by(victim, other)
        async with _pulse(broker.bootstrap_servers) as pulse:
            await _submit(made.url, streams)
            await _all_move(pulse, streams, START_TIMEOUT_S)
            for case in cases:
                if not case.other and other.pid is not None:
                    made.expect_end(other)
                    other.ask_to_end()
                    await other.ended()
                yield await _recovery(made, pulse, streams, case)
                if case.again_after_s is None:
                    made.revive(victim)
                    await made.shared_by(victim, other)


async def _recovery(made: Installation, pulse: Pulse, streams: int, case: Case) -> Recovery:
    for _ in range(2):  # the second time all of them move at the same time, with the partitions where they are now
        pulse.begin()
        await _all_move(pulse, streams, START_TIMEOUT_S)
    victim = made.services["runner-a"]
    theirs = [stream for stream, writer in pulse.writer.items() if writer.startswith(f"{victim.name}.")]
    made.kill(victim)
    killed_at = pulse.begin()
    if case.again_after_s is not None:
        await asyncio.sleep(case.again_after_s)
        made.revive(victim, APEX_SOLE_INSTANCE=str(case.sole).lower())
    await _all_move(pulse, streams, MOVE_TIMEOUT_S)
    return Recovery(case, streams, sorted(pulse.moved_at[stream] - killed_at for stream in theirs))


async def _all_move(pulse: Pulse, streams: int, timeout_s: float) -> None:
    async def moved() -> bool:
        return len(pulse.moved_at) >= streams

    await until(moved, f"{streams} streams move", timeout_s)


async def _submit(url: str, streams: int) -> None:
    numbers = iter(range(streams))

    async def some() -> None:
        for number in numbers:
            key = f"many-{number:04d}"
            plan = {"key": key, "n": CHUNKS, "interval_s": INTERVAL_S}
            body = {
                "plugin": "fault",
                "action": ACTIONS[number % len(ACTIONS)],
                "params": {"plan": plan},
                "task_id": key,
            }
            (await http.post("/tasks", json=body)).raise_for_status()

    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
        await asyncio.gather(*(some() for _ in range(SUBMITTERS)))


@asynccontextmanager
async def _pulse(bootstrap: str) -> AsyncIterator[Pulse]:
    """Follow the topic of chunks from now on."""
    pulse = Pulse()

    async def follow() -> None:
        while True:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                pulse.note(record.value for record in records)

    async with raw_consumer(bootstrap) as consumer:
        cluster = await consumer._client.fetch_all_metadata()
        consumer.assign(
            [TopicPartition("apex.chunks", number) for number in cluster.partitions_for_topic("apex.chunks")]
        )
        following = asyncio.create_task(follow(), name="pulse")
        try:
            yield pulse
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
