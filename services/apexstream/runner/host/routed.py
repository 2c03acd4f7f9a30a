"""Sends each call to where its plugin runs: plugins that the operator trusts in this process, all others in their own."""

from collections.abc import Mapping, Set
from importlib.metadata import EntryPoint
from types import TracebackType
from typing import Self

from apexstream.plugin import PluginManager
from apexstream.plugin.manager import ENTRY_POINT_GROUP
from apexstream.runner.host.catalogue import Catalogue
from apexstream.runner.host.confinement import Confinement
from apexstream.runner.host.local import LocalHost
from apexstream.runner.host.port import Call, RunningCall, Sink
from apexstream.runner.host.process import ProcessHost
from apexstream.runtime.clock import Clock

EVERY_PLUGIN = "*"


class RoutedHost:
    """An :class:`~apexstream.runner.host.port.ActionHost`; an async context. ``plugins`` maps names to entry points."""

    def __init__(
        self,
        plugins: Mapping[str, str],
        *,
        trusted: Set[str],
        clock: Clock,
        processes: int = 1,
        confinement: Confinement | None = None,
    ) -> None:
        here = {name: entry for name, entry in plugins.items() if trusted & {name, EVERY_PLUGIN}}
        elsewhere = {name: entry for name, entry in plugins.items() if name not in here}
        self._trusted = frozenset(here)
        entries = [EntryPoint(name, entry, ENTRY_POINT_GROUP) for name, entry in here.items()]
        self._local = LocalHost(PluginManager(entries), clock)
        self._process = ProcessHost(elsewhere, processes=processes, confinement=confinement)

    async def __aenter__(self) -> Self:
        """Load trusted plugins and start the processes of all others."""
        await self._process.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what still runs."""
        await self._local.close()
        await self._process.__aexit__(kind, problem, trace)

    def describe(self) -> Catalogue:
        """What can be run now."""
        local, process = self._local.describe(), self._process.describe()
        return Catalogue((*local.offers, *process.offers), {**local.broken, **process.broken})

    def start(self, call: Call, sink: Sink) -> RunningCall:
        """Begin a call where its plugin runs."""
        host = self._local if call.plugin in self._trusted else self._process
        return host.start(call, sink)

    def hold(self, full: bool) -> None:
        """Let no action yield more than is on its way already while ``full``."""
        self._local.hold(full)
        self._process.hold(full)
