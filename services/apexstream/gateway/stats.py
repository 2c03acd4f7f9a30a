"""HTTP: what actions and streams did, from the windows that processors keep."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from apexstream.client.statistics import HISTORY_WINDOWS, ActionStats, Stats, StatsOverview, StatsWindow
from apexstream.contracts.codec import Codec
from apexstream.core.errors import ApexError, ChunkDecodeError, InvalidRequest
from apexstream.core.events import Scope, WindowStats
from apexstream.core.ids import ID_PATTERN, check_id
from apexstream.core.widths import NAMES, RETENTION_S
from apexstream.gateway import anomaly
from apexstream.gateway.access import Principal, Verb, principal_of
from apexstream.gateway.access.principal import sees
from apexstream.gateway.answers import Conflict, answer
from apexstream.gateway.history import WINDOWS_MAX, History, Name, trend_of
from apexstream.gateway.openapi import operation
from apexstream.gateway.parts import Parts
from apexstream.gateway.tasks import TRACE
from apexstream.log.fetcher import LogReader, Partition, Record
from apexstream.log.view import View
from apexstream.runtime import tracing

_NAME: Final = {"type": "string"}
_QUERY: Final[Mapping[str, Mapping[str, Any]]] = {
    "action": _NAME,
    "stream": {**_NAME, "pattern": f"^{ID_PATTERN}$"},
    "trace": TRACE,
    "window": {"type": "string", "enum": list(NAMES), "default": "1s"},
    "limit": {"type": "integer", "minimum": 1, "maximum": WINDOWS_MAX, "default": HISTORY_WINDOWS},
}

_log = structlog.get_logger(__name__)


class UnknownStats(ApexError):
    """Nothing is kept of that action or stream."""

    code = "unknown_stats"


class KnownStats:
    """Reads ``apex.stats``. Use as an async context manager, and let :meth:`run` run."""

    def __init__(self, reader: LogReader, topic: str, codec: Codec) -> None:
        self._reader = reader
        self._topic = topic
        self._codec = codec
        self._view: View | None = None
        self.history = History()

    async def __aenter__(self) -> "KnownStats":
        self._view = await View.open(self._reader, {self._topic: self.on_stats})
        return self

    async def __aexit__(self, *_: object) -> None:
        self._view = None

    async def run(self) -> None:
        """Read and follow the topic until cancelled. Nobody waits until it has caught up: statistics hold up no stream."""
        if self._view is None:
            raise RuntimeError("it is not open")
        await self._view.run()

    def on_stats(self, at: Partition, records: Iterable[Record]) -> None:
        """Windows that were counted in, or have expired."""
        for record in records:
            try:
                row = None if record.value is None else self._codec.decode(record.value, WindowStats)
            except ChunkDecodeError as problem:
                _log.error("skipped a record that cannot be read", offset=record.offset, error=str(problem))
                continue
            self.history.take(at[1], record.key or b"", row)


class Statistics:
    """The handlers."""

    def __init__(self, parts: Parts, history: History) -> None:
        self._registry = parts.registry
        self._clock = parts.clock
        self._history = history
        self._scores = anomaly.available()

    def routes(self) -> list[BaseRoute]:
        """Where they are."""
        return [Route("/stats", self.stats), Route("/stats/actions", self.actions, name="stats_of_actions")]

    @operation({200: StatsOverview})
    async def actions(self, request: Request) -> Response:
        """``GET /stats/actions``: every action in the newest minute that is over."""
        principal = principal_of(request)
        principal.require(Verb.READ)
        return answer(self._overview(principal))

    @operation({200: Stats}, query=_QUERY, refusals=(400, 404, 409))
    async def stats(self, request: Request) -> Response:
        """``GET /stats``: current values, history and trend of an action or a stream."""
        principal = principal_of(request)
        principal.require(Verb.READ)
        query = request.query_params
        action, stream, trace = (query.get(name, "") for name in ("action", "stream", "trace"))
        window = query.get("window", "1s")
        if bool(action) + bool(stream) + bool(trace) > 1:
            raise Conflict("it is one action, one stream, or one trace", where="query", hint="Name one of them")
        if window not in NAMES:
            raise InvalidRequest(f"{window[:20]!r} is no window", where="window", hint=f"Use {', '.join(NAMES)}")
        limit = _limit(query.get("limit", str(HISTORY_WINDOWS)))
        if action:
            return await self._shown(Scope.ACTION, action, principal, window, limit)
        if not stream and not trace:
            raise UnknownStats("nothing is named", where="query", hint="Name an action, a stream or a trace")
        stream = check_id(stream, "stream") if stream else self._of_trace(trace, principal)
        principal.require(Verb.READ, stream)
        return await self._shown(Scope.STREAM, stream, principal, window, limit)

    async def _shown(self, scope: Scope, name: str, principal: Principal, window: str, limit: int) -> Response:
        names = [known for known in self._history.find(scope, name) if sees(principal.tenant, known[1])]
        if not names:
            raise UnknownStats(
                f"nothing is kept of {name[:100]!r}",
                where=scope,
                hint="Do processors run? Windows expire, and of streams only the newest are kept",
            )
        now_us = self._clock.now_us()
        windows: Sequence[StatsWindow] = self._history.windows(names, NAMES[window], now_us)
        if self._scores:
            windows = await asyncio.to_thread(anomaly.scored, windows)
        shown = windows[-limit:]
        found = Stats(
            name=name,
            scope=scope,
            action=name if scope is Scope.ACTION else self._history.action(names),
            window=window,
            retention_s={each: RETENTION_S[scope][width_s] for each, width_s in NAMES.items()},
            current=_newest(windows),
            totals=self._history.totals(names, now_us),
            history=tuple(shown),
            trend=trend_of(shown),
            scored=self._scores,
        )
        return answer(found)

    def _of_trace(self, trace: str, principal: Principal) -> str:
        """The stream of the newest task of a trace."""

        def wanted(name: str) -> bool:
            of_trace = tracing.trace_id_of(self._registry.traceparent_of(name)) == trace
            return of_trace and principal.may(Verb.READ, name)

        for state in self._registry.recent(1, principal.tenant, wanted):
            return state.task_id
        raise UnknownStats(f"no task is known of trace {trace[:40]!r}", where="trace")

    def _overview(self, principal: Principal) -> StatsOverview:
        names: dict[str, list[Name]] = {}
        for known in self._history.names(Scope.ACTION):
            if sees(principal.tenant, known[1]):
                names.setdefault(known[2], []).append(known)
        now_us = self._clock.now_us()
        shown = (
            ActionStats(action=name, current=_newest(self._history.windows(known, 60, now_us)))
            for name, known in names.items()
        )
        return StatsOverview(actions=tuple(shown))


def _newest(windows: Sequence[StatsWindow]) -> StatsWindow | None:
    return next((window for window in reversed(windows) if window.whole), None)


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= WINDOWS_MAX:
        raise InvalidRequest(f"{text[:20]!r} is no number of windows", where="limit", hint=f"Use 1 to {WINDOWS_MAX}")
    return int(text)
