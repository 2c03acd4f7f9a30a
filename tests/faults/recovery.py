"""How long it takes until streams move again when one of two runners is killed in the middle of a thousand of them."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from aiokafka.structs import TopicPartition
from tests.faults.avro import Reader, Unreadable
from tests.faults.brokers import one_broker, scratch
from tests.faults.installation import installation, until
from tests.faults.rawlog import raw_consumer

STREAMS = 1000
SUBMITTERS = 20
INTERVAL_S = 1.0
CHUNKS = 600
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


async def measure(keep: Path | None, streams: int = STREAMS) -> int:
    """Start the streams, kill a runner with ``kill -9``, print how long the first, half and the last of them took."""
    with scratch() as folder:
        directory = keep or folder
        directory.mkdir(parents=True, exist_ok=True)
        room = {"APEX_RUNNER_CAPACITY": str(streams + 100)}
        async with one_broker() as broker, installation(broker, directory, "apex.", **room) as made:
            await made.shared_by(*made.of("runner"))
            async with _pulse(broker.bootstrap_servers) as pulse:
                await _submit(made.url, streams)
                await _all_move(pulse, streams, START_TIMEOUT_S)
                pulse.begin()
                await _all_move(pulse, streams, START_TIMEOUT_S)  # once more: all of them at the same time
                victim = made.services["runner-a"]
                theirs = [stream for stream, writer in pulse.writer.items() if writer.startswith(f"{victim.name}.")]
                made.kill(victim)
                killed_at = pulse.begin()
                await _all_move(pulse, streams, MOVE_TIMEOUT_S)
                _tell(pulse, theirs, killed_at)
    return 0


def _tell(pulse: Pulse, theirs: list[str], killed_at: float) -> None:
    took = sorted(pulse.moved_at[stream] - killed_at for stream in theirs)
    last = max(pulse.moved_at.values()) - killed_at
    print(f"{len(pulse.moved_at)} streams ran, {len(theirs)} of them on the runner that was killed (kill -9)")
    print(
        f"its streams moved again after {took[0]:.1f} s (first), {statistics.median(took):.1f} s (half), {took[-1]:.1f} s (last)"
    )
    print(f"the last of all streams moved again after {last:.1f} s")


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
