"""Three brokers with three copies: one is killed under load. Nothing that was acknowledged is lost, and the alarm comes and goes.

``make test-brokers``. The judge is that of the fault runs: it reads the raw log with code of its own.
"""

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.faults.brokers import three_brokers
from tests.faults.conftest import follow, steady
from tests.faults.harness import SHORT_SESSIONS, started
from tests.monitoring.prometheus import MISSING, RULES, Prometheus, prometheus
from tests.support.cluster import NODES
from tests.support.system import free_ports

pytestmark = [
    pytest.mark.brokers,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason=MISSING),
]
ALARM = "ApexStreamBrokerLost"
SERVICES = ("gateway", "dispatcher", "archiver", "runner-a", "runner-b")
STREAMS, STREAM_S, TIMEOUT_S = 20, 60.0, 240.0


async def test_a_broker_that_is_killed_under_load_loses_nothing_and_raises_the_alarm(tmp_path: Path):
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    metrics = {name: {"APEX_METRICS_PORT": str(port)} for name, port in ports.items()}
    async with (
        three_brokers() as cluster,
        started(cluster, tmp_path, 2026, timeout_s=TIMEOUT_S, hurt=metrics, **SHORT_SESSIONS) as run,
        prometheus(ports, RULES) as server,
        asyncio.timeout(2 * TIMEOUT_S),
    ):
        while await brokers(server) != NODES:
            await asyncio.sleep(0.5)
        following = follow(run, steady(STREAMS, STREAM_S))
        while run.load.running < STREAMS:
            await asyncio.sleep(0.1)
        before = await server.firing()
        killed = await cluster.crash("apex.chunks", 0)
        while ALARM not in await server.firing():
            await asyncio.sleep(0.5)
        fewest = await brokers(server)
        running = run.load.running
        await cluster.recover()
        while ALARM in await server.firing():
            await asyncio.sleep(0.5)
        await asyncio.gather(*following)
        report = await run.verdict()
    assert ALARM not in before
    assert (fewest, killed[:5]) == (NODES - 1, "node ")
    assert running > 0, "the load was over before the alarm"
    assert report.ok, str(report)
    assert report.streams >= STREAMS


async def brokers(server: Prometheus) -> int:
    """How many serve, as the process says that sees the fewest; 0 while not all are scraped."""
    seen = await server.query("apexstream_kafka_brokers > 0")
    return min(int(float(each["value"][1])) for each in seen) if len(seen) >= len(SERVICES) else 0
