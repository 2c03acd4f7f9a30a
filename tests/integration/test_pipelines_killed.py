"""Joins and windows against an oracle over the sorted input, while workers are killed. The long form is in tests/faults."""

from tests.support.jobs import Log
from tests.support.killed import run_killed


async def test_joins_and_windows_are_right_after_two_kills_and_a_rebalance(kafka: str) -> None:
    async with Log.open(kafka) as log:
        result = await run_killed(log, 10_000, 2)

    result.check()
    assert len(result.windows) > 1000
    assert len(result.pairs) > 1000
