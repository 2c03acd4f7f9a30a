"""Runs actions in child processes, one or more a plugin, kept warm: the default host.

A process has an empty environment, limits, no Kafka credentials, and dies with the runner, however that dies. A plugin that
crashes, leaks, blocks or lies costs its own calls, which end as lost or failed, and nobody else's. What this does **not**
cover: a program that a plugin starts and that makes a session of its own (``setsid``) outlives the process, because only
its group is killed, and the kernel kills only the process itself when the runner dies; a control group or a PID namespace
around the runner is needed for that. See :mod:`confine` for what a process can still do.
"""

import asyncio
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import distributions
from types import TracebackType
from typing import Self

from apexstream.core.errors import UnknownAction
from apexstream.core.options import ErrorClass
from apexstream.plugin.manager import ENTRY_POINT_GROUP
from apexstream.runner.host.catalogue import Catalogue
from apexstream.runner.host.confinement import Confinement, Patience
from apexstream.runner.host.life import Identity
from apexstream.runner.host.pool import Pool
from apexstream.runner.host.port import Call, Sink
from apexstream.runner.host.remote import RemoteCall


def installed_plugins(import_paths: Iterable[str] = ()) -> dict[str, str]:
    """Entry points by plugin name, ``module:object``, of what is installed here or in ``import_paths``; loads nothing."""
    found: dict[str, str] = {}
    for distribution in distributions(path=[*import_paths, *sys.path]):
        for entry in distribution.entry_points.select(group=ENTRY_POINT_GROUP):
            found.setdefault(entry.name, entry.value)
    return dict(sorted(found.items()))


class ProcessHost:
    """An :class:`~apexstream.runner.host.port.ActionHost` over plugins in processes of their own; an async context.

    ``plugins`` maps names to entry points, see :func:`installed_plugins`. ``processes`` is how many each plugin gets.
    """

    def __init__(
        self,
        plugins: Mapping[str, str],
        *,
        processes: int = 1,
        confinement: Confinement | None = None,
        patience: Patience | None = None,
    ) -> None:
        confinement, patience = confinement or Confinement(), patience or Patience()
        self._pools = {
            name: Pool(Identity(name, entry), processes, confinement, patience) for name, entry in plugins.items()
        }

    async def __aenter__(self) -> Self:
        """Start the processes, and return once each plugin is loaded or known to be broken."""
        for pool in self._pools.values():
            pool.open()
        try:
            await asyncio.gather(*(pool.known() for pool in self._pools.values()))
        except asyncio.CancelledError:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See :meth:`close`."""
        await self.close()

    async def close(self) -> None:
        """End all processes; calls that still run are lost."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))

    def describe(self) -> Catalogue:
        """What can be run now, as the processes said; it changes when a plugin breaks or recovers."""
        offers = tuple(offer for pool in self._pools.values() for offer in pool.offers)
        return Catalogue(offers, {name: pool.broken for name, pool in self._pools.items() if pool.broken})

    def start(self, call: Call, sink: Sink) -> RemoteCall:
        """Begin a call; without a process at hand it waits for one."""
        remote = RemoteCall(call, sink)
        pool = self._pools.get(call.plugin)
        if pool is not None:
            pool.begin(remote)
        else:
            problem = UnknownAction(f"no plugin named {call.plugin!r} on this runner", where="plugin")
            asyncio.get_running_loop().call_soon(remote.failed, problem, ErrorClass.PERMANENT)
        return remote

    def hold(self, full: bool) -> None:
        """Stop reading from all processes while ``full``: for a runner whose own buffers have no more room."""
        for pool in self._pools.values():
            pool.hold(full)

    def pids(self) -> dict[str, list[int]]:
        """The processes by plugin."""
        return {name: pool.pids for name, pool in self._pools.items()}
