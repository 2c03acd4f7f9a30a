"""A broker that stands still: a runner's memory stays under its bound, whatever its actions would yield, and nothing is lost."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest
from tests.faults.brokers import OneBroker, one_broker
from tests.faults.conftest import follow
from tests.faults.evidence import Job
from tests.faults.harness import started
from tests.faults.processes import Service

pytestmark = pytest.mark.kafka

STREAMS = 40
PAD = 1000
BUFFER_MB = 4
# On top: what the one plugin process had under way when it was held, one read of its socket.
SLACK_BYTES = 1 << 20
CREDIT_BYTES = STREAMS * 256 * 1024  # what the runner would hold without a bound of its own
RSS_GROWTH_BYTES_MAX = 48 << 20  # payloads, their objects, their records and batches
STALL_S = 5.0
_BUFFERED = re.compile(r"^apexstream_runner_buffered_bytes (\S+)$", re.MULTILINE)
_METRICS = re.compile(r'"url":"(http[^"]+)","event":"metrics and health"')


@pytest.mark.parametrize(
    ("stall_s", "append_timeout_s"),
    [
        pytest.param(STALL_S, 30, id="short"),
        pytest.param(20.0, 5, id="longer-than-appends-may-take", marks=pytest.mark.faults),
    ],
)
async def test_a_runner_with_fast_actions_and_a_stalled_broker_stays_under_its_bound(
    tmp_path: Path, stall_s: float, append_timeout_s: int
):
    settings = {
        "APEX_RUNNER_BUFFER_MB": str(BUFFER_MB),
        "APEX_RUNNER_CAPACITY": "100",
        "APEX_APPEND_TIMEOUT_S": str(append_timeout_s),
    }
    async with one_broker() as broker, started(broker, tmp_path, 7, runners=["runner-a"], **settings) as run:
        runner = run.installation.services["runner-a"]
        gate = tmp_path / "gate"
        gate.mkdir()
        following = follow(run, (_fast(number, gate) for number in range(STREAMS)))
        async with asyncio.timeout(120):
            while len(list(gate.iterdir())) < STREAMS:
                await asyncio.sleep(0.02)
        rss_before = _rss_bytes(runner)
        async with _watched(runner) as seen:
            with _stopped(broker):
                (gate / "open").touch()
                async with asyncio.timeout(60):
                    while await _buffered(runner) < BUFFER_MB << 20:
                        await asyncio.sleep(0.02)
                await asyncio.sleep(stall_s)
        await asyncio.gather(*following)
        report = await run.verdict()
    assert report.ok, str(report)
    buffered, rss = max(held for held, _ in seen), max(rss for _, rss in seen)
    assert (BUFFER_MB << 20) <= buffered <= (BUFFER_MB << 20) + SLACK_BYTES < CREDIT_BYTES
    assert rss - rss_before < RSS_GROWTH_BYTES_MAX


def _fast(number: int, gate: Path) -> Job:
    """Waits at the gate, and then yields everything at once."""
    task_id = f"fast-{number}"
    plan = {"key": task_id, "n": 600, "burst": 1000, "pad": PAD, "gate": str(gate)}
    return Job(task_id=task_id, action="deterministic", plan=plan, options={"max_attempts": 100})


@contextmanager
def _stopped(broker: OneBroker) -> Iterator[None]:
    pid = broker.broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def _watched(runner: Service) -> AsyncIterator[list[tuple[int, int]]]:
    """(bytes buffered, resident bytes), ten times a second."""
    seen: list[tuple[int, int]] = []

    async def watch() -> None:
        while True:
            seen.append((await _buffered(runner), _rss_bytes(runner)))
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch(), name="watch memory")
    try:
        yield seen
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _buffered(runner: Service) -> int:
    url = _METRICS.search(runner.log.read_text())
    assert url is not None, runner.last_lines()
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        found = _BUFFERED.search((await http.get(url[1] + "/metrics")).text)
    assert found is not None
    return int(float(found[1]))


def _rss_bytes(runner: Service) -> int:
    status = Path(f"/proc/{runner.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
