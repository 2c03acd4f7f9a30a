"""Memory of a runner whose broker stands still while actions yield as fast as they can.

The broker is stopped (SIGSTOP) and later goes on. What a runner holds is bounded over all of its streams by
APEX_RUNNER_BUFFER_MB; past it the runner reads nothing more from its plugin processes.
"""

import asyncio
import os
import signal

import httpx
from tests.bench.measure import table
from tests.bench.processes import pids, usage
from tests.support.system import own_broker

STREAMS, CHUNKS, PAD = 48, 2_000_000, 1_000
BUFFER_MB = 8
FLOWING_S, STALLED_S, SAMPLE_S = 4.0, 8.0, 0.1


async def run(buffer_mb: int = BUFFER_MB) -> str:
    """Stall once, and the table."""
    async with (
        own_broker("gateway", "dispatcher", "runner", APEX_RUNNER_BUFFER_MB=str(buffer_mb)) as (url, _),
        httpx.AsyncClient(base_url=url, timeout=30.0) as http,
    ):
        idle = _runner_mb()
        body = {"plugin": "probe", "action": "count", "params": {"n": CHUNKS, "pad": PAD}}
        tasks = [(await http.post("/tasks", json=body)).json()["task_id"] for _ in range(STREAMS)]
        flowing = await _peak_mb(FLOWING_S)
        (broker,) = pids("broker")
        os.kill(broker, signal.SIGSTOP)
        try:
            stalled = await _peak_mb(STALLED_S)
        finally:
            os.kill(broker, signal.SIGCONT)
        after = await _peak_mb(FLOWING_S)
        for task in tasks:
            await http.delete(f"/tasks/{task}")
    rows = [["idle", idle], ["chunks flow", flowing], [f"the broker stands still for {STALLED_S:.0f} s", stalled]]
    title = f"Memory of a runner, {STREAMS} streams as fast as they can, a buffer of {buffer_mb} MB"
    return table(title, ["", "highest MB"], [*rows, ["chunks flow again", after]])


async def _peak_mb(seconds: float) -> float:
    """The most that the runner had in this time."""
    peak = 0.0
    for _ in range(int(seconds / SAMPLE_S)):
        peak = max(peak, _runner_mb())
        await asyncio.sleep(SAMPLE_S)
    return peak


def _runner_mb() -> float:
    return usage()["runner"].rss_mb
