"""The proof in short: a dozen kills in about a minute, on a broker of its own that is killed too."""

from pathlib import Path

import pytest
from tests.faults.harness import SHORT_SESSIONS, Plan, run
from tests.faults.workload import Mix

WEIGHTS = {"runner": 5, "plugin": 2, "archiver": 1, "dispatcher": 2, "gateway": 2, "broker": 1, "zombie": 1}


@pytest.mark.kafka
async def test_no_stream_loses_repeats_or_disorders_anything_whatever_is_killed(tmp_path: Path):
    plan = Plan(
        seed=20261123,
        kills=12,
        seconds=90,
        drain_s=40,
        width=10,
        mix=Mix(long_s=(3.0, 8.0)),
        weights=WEIGHTS,
        environ=SHORT_SESSIONS,
    )
    report, _ = await run(plan, keep=tmp_path, say=False)
    assert report.ok, str(report)
    assert report.kills >= plan.kills / 2
    assert report.streams >= plan.width
