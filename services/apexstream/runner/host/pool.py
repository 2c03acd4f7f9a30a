"""The processes of one plugin: kept running, and calls given to the one that has the fewest."""

import asyncio
import time

import structlog

from apexstream.core.errors import ApexError, PluginFailed, Unavailable
from apexstream.core.options import ErrorClass
from apexstream.runner.host.catalogue import Offer
from apexstream.runner.host.confinement import Confinement, Patience
from apexstream.runner.host.life import Identity, Life
from apexstream.runner.host.remote import RemoteCall

_log = structlog.get_logger(__name__)


class Pool:
    """``size`` processes of one plugin. A plugin that cannot be loaded is tried again, ever more rarely."""

    def __init__(self, identity: Identity, size: int, confinement: Confinement, patience: Patience) -> None:
        self.broken = ""
        self.offers: tuple[Offer, ...] = ()
        self._heard = [asyncio.Event() for _ in range(size)]  # of each process what the plugin is, or that it failed
        self._identity = identity
        self._confinement = confinement
        self._patience = patience
        self._ready: list[Life] = []
        self._waiting: dict[RemoteCall, asyncio.TimerHandle] = {}
        self._full = False
        self._keepers: list[asyncio.Task[None]] = []

    def open(self) -> None:
        """Start the processes and keep them running."""
        name = self._identity.plugin
        self._keepers = [asyncio.create_task(self._keep(heard), name=f"plugin {name}") for heard in self._heard]

    async def known(self) -> None:
        """Return once each process is ready, or has failed once."""
        for heard in self._heard:
            await heard.wait()

    async def close(self) -> None:
        """End the processes; their calls are lost."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._refuse_waiting(Unavailable("the runner stops", where=self._identity.plugin), ErrorClass.RESOURCE)

    def begin(self, call: RemoteCall) -> None:
        """Run a call in the process with the fewest, or in the first that is ready."""
        usable = [life for life in self._ready if not life.ending]
        if usable:
            min(usable, key=lambda life: life.load).begin(call)
        elif self.broken:
            asyncio.get_running_loop().call_soon(call.failed, self._why_broken(), ErrorClass.PLUGIN_BUG)
        else:
            timeout_s = self._patience.start_timeout_s
            self._waiting[call] = asyncio.get_running_loop().call_later(timeout_s, self._give_up, call)

    def hold(self, full: bool) -> None:
        """Read nothing from the processes while ``full``."""
        self._full = full
        for life in self._ready:
            life.hold(full)

    @property
    def pids(self) -> list[int]:
        """Of the processes that are ready."""
        return [life.pid for life in self._ready]

    async def _keep(self, heard: asyncio.Event) -> None:
        failures = 0
        while True:
            loaded, born_s = False, time.monotonic()
            try:
                loaded = await self._live(heard)
            except Exception:  # a defect of ours; the plugin must have a process all the same
                _log.exception("a plugin process could not be kept", plugin=self._identity.plugin)
            heard.set()
            stable = loaded and time.monotonic() - born_s >= self._patience.stable_s
            failures = 1 if stable else failures + 1
            await asyncio.sleep(self._patience.restart_after_s(failures, loaded=loaded))

    async def _live(self, heard: asyncio.Event) -> bool:
        """One life of one process: whether the plugin could be loaded. ``heard`` is set as soon as that is known."""
        life = Life(self._identity, self._confinement, self._patience)
        try:
            described = await life.start()
        except PluginFailed as problem:
            self._mark_broken(problem.what)
            return False
        except (
            Unavailable,
            OSError,
        ) as problem:  # killed, or too many processes: not the plugin's doing; its calls wait
            _log.error("could not start a plugin process", plugin=self._identity.plugin, error=str(problem))
            return False
        try:
            if described.broken:
                self._mark_broken(described.broken)
            else:
                self._welcome(life)
            heard.set()
            await life.run()
        finally:
            if life in self._ready:
                self._ready.remove(life)
            await life.close()
        return not described.broken

    def _welcome(self, life: Life) -> None:
        plugin = self._identity.plugin
        self.broken = ""
        self.offers = tuple(
            Offer(plugin=plugin, spec=action.spec, streams=action.streams) for action in life.described.actions
        )
        self._ready.append(life)
        life.hold(self._full)
        waiting, self._waiting = self._waiting, {}
        for call, timer in waiting.items():
            timer.cancel()
            if not call.over:
                self.begin(call)

    def _mark_broken(self, reason: str) -> None:
        if reason != self.broken:
            _log.error("a plugin is broken", plugin=self._identity.plugin, reason=reason)
        if not self._ready:
            self.broken = reason
            self._refuse_waiting(self._why_broken(), ErrorClass.PLUGIN_BUG)

    def _refuse_waiting(self, problem: ApexError, error_class: ErrorClass) -> None:
        waiting, self._waiting = self._waiting, {}
        for call, timer in waiting.items():
            timer.cancel()
            call.failed(problem, error_class)

    def _give_up(self, call: RemoteCall) -> None:
        del self._waiting[call]
        problem = Unavailable(f"got no process within {self._patience.start_timeout_s:g} s", where=call.where)
        call.lost(problem, ErrorClass.RESOURCE)

    def _why_broken(self) -> PluginFailed:
        name = self._identity.plugin
        return PluginFailed(
            f"plugin {name} could not be loaded: {self.broken}", where=name, hint="Mend or reinstall it"
        )
