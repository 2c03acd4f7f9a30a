"""The monitor's samples say what the kernel says, on the beat, and a new attempt goes on counting."""

import os
import time

import psutil
import pytest
from apexstream_plugin_monitor.action import plugin
from apexstream_plugin_monitor.sample import Counters, busiest, read_counters, sample

from apexstream.plugin import InvalidParameters, PluginManager, StreamPersistence
from apexstream.plugin.persistence import encode_state, enter


def counters(**changes: float) -> Counters:
    zero = dict.fromkeys(Counters.__slots__, 0)
    return Counters(**(zero | changes))


def test_rates_are_over_the_time_between_two_looks():
    seen = sample(
        counters(at=100.0, busy_s=10.0, total_s=40.0, disk_read_bytes=1_000, network_sent_bytes=50),
        counters(at=104.0, busy_s=12.0, total_s=48.0, disk_read_bytes=9_000, network_sent_bytes=250),
    )
    assert (seen.at, seen.over_s, seen.cpu_percent) == (104.0, 4.0, 25.0)
    assert (seen.disk_read_bytes_per_s, seen.network_sent_bytes_per_s) == (2_000.0, 50.0)


def test_a_counter_that_fell_is_no_negative_rate():
    seen = sample(counters(at=1.0, disk_written_bytes=500), counters(at=2.0, disk_written_bytes=20))
    assert seen.disk_written_bytes_per_s == 0.0


def test_two_looks_at_the_same_instant_divide_by_nothing():
    now = read_counters()
    assert sample(now, now).cpu_percent == 0.0


def test_memory_is_that_of_this_machine():
    before = read_counters()
    seen = sample(before, read_counters())
    assert seen.memory_total_bytes == psutil.virtual_memory().total
    assert 0 < seen.memory_used_bytes < seen.memory_total_bytes
    assert seen.processes >= 2


def test_work_of_this_process_shows_among_the_busiest():
    busiest(0)
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    found = {process.pid: process for process in busiest(10_000).processes}
    assert found[os.getpid()].cpu_percent > 0
    assert found[os.getpid()].memory_bytes > 1_000_000


@pytest.fixture
def plugins() -> PluginManager:
    manager = PluginManager([])
    manager.add("monitor", plugin)
    return manager


async def test_the_stream_stops_after_the_wanted_samples(plugins: PluginManager):
    seen = [value async for value in plugins.run("monitor", "host", {"interval_s": 0.1, "samples": 3})]
    assert len(seen) == 3
    assert seen[0].at < seen[1].at < seen[2].at


async def test_a_new_attempt_counts_on(plugins: PluginManager):
    enter(StreamPersistence(checkpoint=encode_state(4)))
    stream = plugins.run("monitor", "processes", {"interval_s": 0.1, "samples": 5, "top": 3})
    seen = [value async for value in stream]
    assert len(seen) == 1
    assert len(seen[0].processes) == 3


@pytest.mark.parametrize("params", [{"interval_s": 0}, {"samples": -1}, {"interval": 1}])
async def test_parameters_that_make_no_sense_are_refused(plugins: PluginManager, params: dict[str, float]):
    with pytest.raises(InvalidParameters, match=r"interval|samples"):
        _ = [value async for value in plugins.run("monitor", "host", params)]
