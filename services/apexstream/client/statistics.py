"""What actions and streams did: now, before, and where it is going, as ``GET /stats`` tells."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from apexstream.core.errors import InvalidRequest
from apexstream.core.widths import NAMES

if TYPE_CHECKING:
    from apexstream.client.client import Client

HISTORY_WINDOWS = 60


class Anomaly(msgspec.Struct, frozen=True, kw_only=True):
    """How unusual a window is for what came before it: 0 (as ever) to 1. ``fires`` names the signals that are."""

    rate: float = 0.0
    latency: float = 0.0
    fires: tuple[str, ...] = ()


class StatsWindow(msgspec.Struct, frozen=True, kw_only=True):
    """What happened from ``start_us`` on for ``width_s`` seconds (0: in a stream's whole life), by event time.

    Latency is from a chunk's yield to its place in the log, ``gap_max_s`` the longest time between two chunks of a stream.
    Tasks (``started`` to ``cancelled``) are counted for actions; of a stream only how it ended. ``whole``: the window is over.
    """

    start_us: int
    width_s: int
    chunks: int = 0
    chunks_per_s: float = 0.0
    payload_bytes: int = 0
    bytes_per_s: float = 0.0
    latency_mean_s: float | None = None
    latency_max_s: float | None = None
    gap_max_s: float = 0.0
    claims: int = 0
    rewinds: int = 0
    started: int = 0
    retried: int = 0
    parked: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    whole: bool = True
    anomaly: Anomaly | None = None


class Trend(msgspec.Struct, frozen=True, kw_only=True):
    """Where the whole windows of a history are going: ``rising``, ``falling`` or ``steady`` (less than a tenth of the mean over
    all of it), and by how much a second each second."""

    rate: str = "steady"
    rate_per_s: float = 0.0
    latency: str = "steady"
    latency_per_s: float = 0.0


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """An action or a stream. ``current`` is the newest window that is over, ``totals`` a stream's whole life, ``history`` oldest
    first. ``retention_s``: for how long windows of each width are kept. ``scored``: anomalies are looked for."""

    name: str
    scope: str
    action: str
    window: str
    retention_s: dict[str, int]
    current: StatsWindow | None = None
    totals: StatsWindow | None = None
    history: tuple[StatsWindow, ...] = ()
    trend: Trend = Trend()
    scored: bool = False


class ActionStats(msgspec.Struct, frozen=True, kw_only=True):
    """An action in the newest minute that is over."""

    action: str
    current: StatsWindow | None = None


class StatsOverview(msgspec.Struct, frozen=True, kw_only=True):
    """All actions of which anything is kept."""

    actions: tuple[ActionStats, ...] = ()


class StreamingMetricsCollector:
    """Metrics of one action (``plugin.action``) or one stream, in windows of ``window``: ``1s``, ``1m`` or ``1h``.

    >>> metrics = StreamingMetricsCollector(client, action="corpus.analyze")
    >>> (await metrics.current()).chunks_per_s
    """

    def __init__(self, client: "Client", *, action: str = "", stream: str = "", window: str = "1s") -> None:
        """Raises :class:`InvalidRequest` unless it is exactly one of ``action`` and ``stream``, or for an unknown window."""
        if bool(action) == bool(stream):
            raise InvalidRequest("needs an action or a stream", where="StreamingMetricsCollector")
        if window not in NAMES:
            raise InvalidRequest(f"{window!r} is no window", where="window", hint=f"Use {', '.join(NAMES)}")
        self._client = client
        self._action = action
        self._stream = stream
        self._window = window

    async def stats(self, limit: int = HISTORY_WINDOWS) -> Stats:
        """Everything at once, with the newest ``limit`` windows."""
        return await self._client.stats(action=self._action, stream=self._stream, window=self._window, limit=limit)

    async def current(self) -> StatsWindow | None:
        """The newest window that is over; None if there is none yet."""
        return (await self.stats(1)).current

    async def history(self, limit: int = HISTORY_WINDOWS) -> Sequence[StatsWindow]:
        """The newest ``limit`` windows, oldest first; those in which nothing happened are there too."""
        return (await self.stats(limit)).history

    async def trend(self, limit: int = HISTORY_WINDOWS) -> Trend:
        """Where the newest ``limit`` windows are going."""
        return (await self.stats(limit)).trend

    async def anomalies(self, limit: int = HISTORY_WINDOWS) -> Sequence[StatsWindow]:
        """Those of the newest ``limit`` windows that are unusual."""
        return [window for window in await self.history(limit) if window.anomaly is not None and window.anomaly.fires]

    async def retention(self) -> Mapping[str, int]:
        """For how many seconds windows of each width are kept."""
        return (await self.stats(1)).retention_s

    async def watch(self, every_s: float = 1.0) -> AsyncGenerator[StatsWindow, None]:
        """Every window from now on, once it is over. Asks every ``every_s``."""
        seen = 0
        while True:
            windows = [window for window in await self.history() if window.whole and window.start_us > seen]
            for window in windows if seen else windows[-1:]:
                seen = window.start_us
                yield window
            await asyncio.sleep(every_s)
