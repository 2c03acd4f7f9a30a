"""The alerts: their unit tests, and one that fires because something is really wrong."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from tests.monitoring.prometheus import MISSING, RULES, prometheus
from tests.support.system import ALL, free_ports, processes

from apexstream.log.broker import EmbeddedBroker
from apexstream.runtime.settings import Settings

pytestmark = [
    pytest.mark.monitoring,
    pytest.mark.skipif(shutil.which("prometheus") is None or shutil.which("promtool") is None, reason=MISSING),
]
DEADLINE_S = 120


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    command = ["promtool", "test", "rules", RULES.with_name("rules.test.yml").name]

    done = subprocess.run(command, check=False, cwd=RULES.parent, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


async def test_a_broker_that_hangs_raises_the_alarm_and_its_return_ends_it() -> None:
    ports = dict(zip(ALL, free_ports(len(ALL)), strict=True))
    with tempfile.TemporaryDirectory() as home, EmbeddedBroker(Path(home), Settings().cache_path, port=0) as broker:
        assert broker.pid is not None
        async with (
            processes(broker.bootstrap_servers, "apex.", metrics_ports=ports),
            prometheus(ports, RULES) as server,
            asyncio.timeout(DEADLINE_S),
        ):
            while len(await server.query("apexstream_kafka_silence_seconds")) < len(ports):
                await asyncio.sleep(0.5)
            before = await server.firing()
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                while "ApexStreamKafkaSilent" not in (during := await server.firing()):
                    await asyncio.sleep(0.5)
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            while "ApexStreamKafkaSilent" in (after := await server.firing()):
                await asyncio.sleep(0.5)

    assert before == set()
    assert "ApexStreamTargetDown" not in during
    assert "ApexStreamKafkaSilent" not in after
