"""100,000 events through windows and joins, without a kill and with twenty kills and a rebalance: both as the oracle says."""

import pytest
from tests.support.jobs import Log
from tests.support.killed import run_killed

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("kills", [0, 20])
async def test_joins_and_windows_are_those_of_the_sorted_input(kafka: str, kills: int) -> None:
    async with Log.open(kafka) as log:
        result = await run_killed(log, 100_000, kills)

    result.check()
    print(f"\n{kills} kills: {result.seconds:.0f} s, {len(result.windows)} windows, {len(result.pairs)} pairs")
