"""Scores how unusual each window of a history is for those before it, with river's online Gaussian scorer.

A score needs only the windows that are kept, so every gateway gives the same ones, and whoever asks again gets them again.
River is an extra (``apexstream[anomaly]``): it brings numpy and scipy, and takes a second to load.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Final

import msgspec

from apexstream.client.statistics import Anomaly, StatsWindow

REMEMBERED = 60  # windows that what is usual is learnt from
LEARNING = 15  # of them before anything can be unusual
FIRES_AT = 0.999  # of a normal distribution one in a thousand is as far from the mean
DEVIATES: Final = (
    0.5  # and it is at least this far from it, relative to it: what hardly varies is not unusual for a trifle
)

Score = Callable[[Sequence[StatsWindow]], list[StatsWindow]]


def available() -> bool:
    """Whether the extra is installed."""
    return find_spec("river") is not None


def scored(windows: Sequence[StatsWindow]) -> list[StatsWindow]:
    """``windows`` of one name, oldest first and without holes, each with its anomaly; those that are not over have none."""
    rate, latency = _Signal(), _Signal()
    return [_scored(window, rate, latency) if window.whole else window for window in windows]


def _scored(window: StatsWindow, rate: "_Signal", latency: "_Signal") -> StatsWindow:
    signals = {"rate": rate.next(window.chunks_per_s)}
    if window.latency_mean_s is not None:
        signals["latency"] = latency.next(window.latency_mean_s)
    scores = {name: score for name, (score, _) in signals.items()}
    fires = tuple(name for name, (_, fires) in signals.items() if fires)
    return msgspec.structs.replace(window, anomaly=Anomaly(**scores, fires=fires))


class _Signal:
    """One number a window. What fires is not learnt from: an incident must not become usual while it lasts …"""

    def __init__(self) -> None:
        from river.anomaly import GaussianScorer

        self._make: Callable[[], Any] = lambda: GaussianScorer(window_size=REMEMBERED, grace_period=LEARNING)
        self._scorer = self._make()
        self._fired = 0

    def next(self, value: float) -> tuple[float, bool]:
        """The score of ``value``, and whether it is unusual."""
        score = float(self._scorer.score_one(None, value))
        mean = float(self._scorer.gaussian.mu)
        fires = score >= FIRES_AT and abs(value - mean) > DEVIATES * abs(mean)
        self._fired = self._fired + 1 if fires else 0
        if not fires:
            self._scorer.learn_one(None, value)
        elif self._fired >= REMEMBERED:  # … unless it lasts: then that is how it is now
            self._scorer, self._fired = self._make(), 0
        return score, fires
