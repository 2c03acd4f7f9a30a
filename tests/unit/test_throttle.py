"""The controller of a stream's rate: bounded, calm, slower while somebody is behind, free again when nobody is."""

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.core.throttle import (
    EXPIRES_S,
    FASTER,
    HIGH,
    LOW,
    READERS_MAX,
    SAY_S,
    SETTLE_S,
    SLOWER,
    Bounds,
    Reporter,
    Throttle,
)
from apexstream.plugin import BasePlugin, PluginManager
from apexstream.runner.host.engine import Execution
from apexstream.runner.host.frames import Batch
from apexstream.runner.host.port import Call, CallOutcome, Ending

pressures = st.floats(0, 1)
bounds = st.builds(Bounds, st.floats(1, 100), st.one_of(st.just(math.inf), st.floats(1, 100_000)))
worlds = st.lists(st.tuples(pressures, st.floats(0, 1e6), st.floats(0.1, 5)), max_size=60)


@settings(deadline=None)
@given(bounds, worlds)
def test_the_rate_is_within_its_bounds_moves_the_right_way_and_not_too_often(
    made: Bounds, world: list[tuple[float, float, float]]
):
    throttle, now, changed = Throttle(made), 0.0, -math.inf
    for pressure, seen, passed in world:
        now += passed
        throttle.press("r", pressure, now)
        before = throttle.rate
        if throttle.look(seen, now):
            assert now - changed >= SETTLE_S
            changed = now
            assert pressure >= HIGH or pressure <= LOW
            assert (throttle.rate < before) == (pressure >= HIGH)
            assert throttle.rate <= max(before * FASTER, made.most) * 1.001
        else:
            assert throttle.rate == before
        assert min(made.least, made.most) <= throttle.rate <= made.most


@settings(deadline=None)
@given(bounds, st.floats(10, 1e5))
def test_whoever_stays_behind_slows_it_to_its_least_and_is_heard_no_longer_when_gone(made: Bounds, seen: float):
    throttle, now = Throttle(made), 0.0
    for _ in range(100):
        now += SETTLE_S
        throttle.press("r", 1.0, now)
        throttle.look(min(seen, throttle.rate), now)
    assert throttle.rate == min(made.least, made.most)
    for _ in range(200):
        now += max(SETTLE_S, EXPIRES_S / 10)
        throttle.look(throttle.rate if math.isfinite(throttle.rate) else seen, now)
    assert throttle.rate == made.most


@given(st.floats(LOW + 0.001, HIGH - 0.001))
def test_between_the_marks_nothing_changes(pressure: float):
    throttle = Throttle(Bounds())
    throttle.press("r", 1.0, 0.0)
    assert throttle.look(1000.0, 0.0)
    assert throttle.rate == 1000 * SLOWER
    for second in range(1, 100):
        throttle.press("r", pressure, float(second))
        assert not throttle.look(700.0, float(second))


def test_the_reader_that_is_furthest_behind_decides_and_readers_are_bounded():
    throttle = Throttle(Bounds())
    for number in range(READERS_MAX + 50):
        throttle.press(str(number), 0.9 if number == 0 else 0.1, 0.0)
    assert throttle.pressure(0.0) == 0.1
    throttle.press("x", 0.7, 0.0)
    assert throttle.pressure(1.0) == 0.7
    assert throttle.pressure(EXPIRES_S) == 0.0


def test_a_stream_that_stands_still_is_not_limited_further():
    throttle = Throttle(Bounds())
    throttle.press("r", 1.0, 0.0)
    assert not throttle.look(0.0, 0.0)
    assert throttle.rate == math.inf


@given(st.lists(pressures, max_size=100))
def test_a_reader_under_pressure_is_heard_before_it_expires_and_a_calm_one_says_nothing(said: list[float]):
    reporter, last, calm = Reporter(), 0.0, 0.0
    for second, pressure in enumerate(said):
        if reporter.due(pressure, float(second)):
            last, calm = float(second), pressure
        assert pressure == 0 or second - last <= SAY_S < EXPIRES_S or calm == 0
        assert abs(pressure - calm) < 0.1
    assert not any(Reporter().due(0.0, float(second)) for second in range(20))


class Outlet:
    def __init__(self) -> None:
        self.chunks: list[int] = []
        self.over = asyncio.Event()
        self.outcome: CallOutcome | None = None

    def batch(self, batch: Batch) -> bool:
        self.chunks += [int(payload) for payload in batch.payloads]
        return True

    def asked(self, number: int, question: int, data: bytes) -> None: ...

    def ended(self, number: int, outcome: CallOutcome) -> None:
        self.outcome = outcome
        self.over.set()


def executing(generator: Any, outlet: Outlet) -> Execution:
    class Paced(BasePlugin):
        name = "paced"

        def get_actions(self) -> list[str]:
            return ["go"]

        def execute_action_stream(self, *_: Any) -> Any:
            return generator()

    plugins = PluginManager([])
    plugins.add("paced", Paced())
    call = Call(task_id="t", attempt=1, plugin="paced", action="go", params=b"{}")
    return Execution(plugins, call, outlet, lambda: 1, credit=1 << 30)


async def numbers() -> Any:
    for number in range(30):
        yield number


def plain_numbers() -> Any:
    yield from range(30)


@pytest.mark.parametrize("generator", [numbers, plain_numbers])
async def test_a_paced_action_yields_no_faster_and_all_of_it(generator: Any):
    outlet, loop = Outlet(), asyncio.get_running_loop()
    execution, began = executing(generator, outlet), loop.time()
    execution.pace(100.0)
    execution.begin()
    async with asyncio.timeout(60):
        await outlet.over.wait()
    assert loop.time() - began >= 29 / 100
    assert outlet.chunks == list(range(30))


@pytest.mark.parametrize("generator", [numbers, plain_numbers])
async def test_a_paced_action_can_be_let_go_and_parked_while_it_waits(generator: Any):
    free, parked = Outlet(), Outlet()
    executions = [executing(generator, outlet) for outlet in (free, parked)]
    for execution in executions:
        execution.pace(1e-6)  # a chunk in eleven days
        execution.begin()
    await asyncio.sleep(0)
    executions[0].pace(0.0)
    executions[1].park()
    async with asyncio.timeout(60):
        await asyncio.gather(free.over.wait(), parked.over.wait())
    assert free.chunks == list(range(30))
    assert parked.outcome is not None
    assert parked.outcome.ending is Ending.PARKED
    assert parked.chunks == list(range(len(parked.chunks)))
