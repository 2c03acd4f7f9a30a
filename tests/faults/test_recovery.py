"""After ``kill -9`` of a runner its streams go on; the long form is ``python -m tests.faults --thousand``."""

from pathlib import Path

import pytest
from tests.faults.brokers import scratch
from tests.faults.recovery import RESTART_S, Case, recoveries

pytestmark = pytest.mark.kafka

SESSION_S = 60.0
STREAMS = 40


async def test_a_runner_that_is_started_again_has_its_streams_back_long_before_its_session_is_over():
    case = Case("started again", RESTART_S, sole=True, other=False)
    with scratch() as folder:
        runs = recoveries(Path(folder), STREAMS, [case], APEX_SESSION_TIMEOUT_S=str(SESSION_S))
        (recovery,) = [one async for one in runs]
    assert len(recovery.took_s) == STREAMS
    assert recovery.took_s[-1] < SESSION_S / 2
