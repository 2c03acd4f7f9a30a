"""What the gateway makes of windows: put together from all partitions, without holes, with a trend and with what is unusual."""

from dataclasses import dataclass, field

import pytest

from apexstream.client.statistics import StatsWindow
from apexstream.core.events import Scope, WindowStats
from apexstream.core.widths import TOTALS, US
from apexstream.gateway.anomaly import LEARNING, REMEMBERED, scored
from apexstream.gateway.history import History, Name, trend_of

NOW = 1_795_000_000 * US
ACTION: Name = (Scope.ACTION, "", "shop.orders")
STREAM: Name = (Scope.STREAM, "", "s")


@dataclass
class Known:
    history: History = field(default_factory=History)
    number: int = 0

    def add(self, name: Name, start_us: int, partition: int = 0, width_s: int = 1, **counts: int) -> bytes:
        scope, tenant, called = name
        row = WindowStats(
            scope=scope, name=called, action="shop.orders", tenant=tenant, width_s=width_s, start_us=start_us, **counts
        )
        key = f"{scope}{tenant}{called}{width_s}{start_us}".encode()
        self.history.take(partition, key, row)
        return key


def windows(rates: list[float], latencies: list[float | None] | None = None) -> list[StatsWindow]:
    found = latencies or [None] * len(rates)
    return [
        StatsWindow(start_us=NOW + at * US, width_s=1, chunks_per_s=rate, latency_mean_s=latency)
        for at, (rate, latency) in enumerate(zip(rates, found, strict=True))
    ]


def test_partitions_add_up_and_the_worst_of_them_counts():
    known = Known()
    known.add(ACTION, NOW, 0, chunks=2, latency_count=1, latency_sum_us=100, latency_max_us=100, gap_max_us=5)
    known.add(ACTION, NOW, 7, chunks=4, latency_count=3, latency_sum_us=100, latency_max_us=60, gap_max_us=9)
    (window,) = known.history.windows([ACTION], 1, NOW)
    assert (window.chunks, window.chunks_per_s, window.gap_max_s) == (6, 6.0, 9e-6)
    assert (window.latency_mean_s, window.latency_max_s) == (5e-5, 1e-4)


def test_a_later_record_of_a_window_replaces_it_and_a_tombstone_takes_it_away():
    known = Known()
    known.add(ACTION, NOW, chunks=2)
    key = known.add(ACTION, NOW, chunks=3)
    assert [w.chunks for w in known.history.windows([ACTION], 1, NOW)] == [3]
    known.history.take(0, key, None)
    assert known.history.windows([ACTION], 1, NOW) == []
    assert known.history.names(Scope.ACTION) == []


def test_windows_in_which_nothing_happened_are_there_too():
    known = Known()
    known.add(ACTION, NOW - 5 * US, chunks=2)
    known.add(ACTION, NOW - 2 * US, chunks=2)
    assert [w.chunks for w in known.history.windows([ACTION], 1, NOW)] == [2, 0, 0, 2, 0, 0]


def test_the_windows_of_a_stream_end_with_it():
    known = Known()
    known.add(STREAM, NOW - 9 * US, chunks=2)
    known.add(STREAM, NOW - 9 * US, width_s=TOTALS, chunks=2, completed=1, last_us=NOW - 8 * US)
    assert len(known.history.windows([STREAM], 1, NOW)) == 1


def test_what_is_older_than_it_is_kept_is_not_shown_even_if_it_is_still_there():
    known = Known()
    known.add(ACTION, NOW - 700 * US, chunks=2)
    known.add(ACTION, NOW - 10 * US, chunks=2)
    assert known.history.windows([ACTION], 1, NOW)[0].start_us > NOW - 601 * US


def test_the_newest_window_is_not_over_yet():
    known = Known()
    known.add(ACTION, NOW - 10 * US, chunks=2)
    assert [w.whole for w in known.history.windows([ACTION], 1, NOW)][-5:] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("rates", "trend"),
    [
        ([1, 2, 3, 4], "rising"),
        ([4, 3, 2, 1], "falling"),
        ([4, 4.1, 4, 4.1], "steady"),
        ([1, 9], "steady"),
        ([], "steady"),
    ],
)
def test_a_trend_says_where_it_goes(rates: list[float], trend: str):
    assert trend_of(windows(rates)).rate == trend


def test_a_burst_and_a_stall_fire_and_what_is_usual_does_not():
    usual = [100.0 + at % 7 for at in range(100)]
    rates = [*usual, 5000.0, *usual[:10], 0.0, *usual[:10]]
    fires = [at for at, window in enumerate(scored(windows(rates))) if window.anomaly and window.anomaly.fires]
    assert fires == [100, 111]


def test_a_slow_window_fires_for_its_latency():
    latencies: list[float | None] = [0.002 + at % 5 / 10_000 for at in range(50)]
    last = scored(windows([100.0] * 51, [*latencies, 0.9]))[-1]
    assert last.anomaly is not None
    assert last.anomaly.fires == ("latency",)
    assert last.anomaly.latency > 0.999


def test_a_trifle_does_not_fire_where_nothing_ever_varied():
    assert not [w for w in scored(windows([100.0] * 40 + [101.0])) if w.anomaly and w.anomaly.fires]


def test_nothing_fires_before_it_is_known_what_is_usual():
    rates = [1.0, 9000.0] * (LEARNING // 2)
    assert not [w for w in scored(windows(rates)) if w.anomaly and w.anomaly.fires]


def test_what_lasts_becomes_usual():
    found = scored(windows([100.0 + at % 3 for at in range(60)] + [900.0 + at % 3 for at in range(200)]))
    fires = [at for at, window in enumerate(found) if window.anomaly and window.anomaly.fires]
    assert fires == list(range(60, 60 + REMEMBERED))


def test_scores_depend_on_the_windows_alone():
    rates = [float(at * 37 % 101) for at in range(200)]
    assert scored(windows(rates)) == scored(windows(rates))
