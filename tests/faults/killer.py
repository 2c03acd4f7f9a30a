"""Ends processes at random times: ``kill -9``, and SIGSTOP until the others have taken over, then SIGCONT."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults.evidence import Kill
from tests.faults.installation import Installation
from tests.faults.processes import Service

WEIGHTS = {"runner": 10, "plugin": 4, "archiver": 4, "dispatcher": 3, "gateway": 4, "broker": 1, "zombie": 1}
ORPHAN_S_MAX = 5.0  # after the death of its runner a plugin process must be gone within this time


@dataclass(slots=True)
class Killer:
    """Does ``count`` kills, spread over ``seconds``. One at a time for brokers and zombies, else overlapping."""

    installation: Installation
    rng: random.Random
    kills: list[Kill]
    weights: dict[str, int] = field(default_factory=lambda: dict(WEIGHTS))
    orphans: list[str] = field(default_factory=list)
    started_at: float = field(default_factory=time.monotonic)
    _busy: set[str] = field(default_factory=set)
    _repairs: set[asyncio.Task[None]] = field(default_factory=set)
    _tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)

    async def run(self, count: int, seconds: float) -> None:
        """Kill ``count`` times in about ``seconds``, and return once all is up again."""
        deadline = time.monotonic() + seconds
        done = 0
        async with self._tasks:
            while done < count and time.monotonic() < deadline:
                pause = (deadline - time.monotonic()) / (count - done)
                await asyncio.sleep(min(self.rng.expovariate(1 / pause), 2 * pause))
                done += await self._one()

    async def _one(self) -> bool:
        """One kill; False if what was drawn could not be killed now."""
        what = self.rng.choices(list(self.weights), list(self.weights.values()))[0]
        if what == "broker":
            return await self._alone(self._broker)
        if what == "plugin":
            return self._plugin_process()
        service = self._up("runner" if what == "zombie" else what)
        if service is None:
            return False
        if what == "zombie":
            self._note("freeze", service.name)
            self._repair(service, self._zombie)
        else:
            self._kill(service)
        return True

    def _kill(self, service: Service) -> None:
        children = service.children()
        self.installation.kill(service)
        self._note("kill -9", service.name)
        self._repair(service, lambda service: self._revive(service, children))

    def _plugin_process(self) -> bool:
        runners = [runner for runner in self.installation.of("runner") if runner.children()]
        if not runners:
            return False
        runner = self.rng.choice(runners)
        with suppress(ProcessLookupError):
            os.kill(self.rng.choice(runner.children()), signal.SIGKILL)
        self._note("kill -9 plugin", runner.name)
        return True

    async def _broker(self) -> None:
        topic = self.installation.prefix + "chunks"
        name = await self.installation.brokers.crash(topic, self.rng.randrange(12))
        self._note("kill -9", name)
        await asyncio.sleep(self.rng.uniform(0.0, 4.0))
        await self.installation.brokers.recover()
        await asyncio.sleep(10.0)  # clients need a while; kills in that time would test the same thing again

    async def _revive(self, service: Service, children: list[int]) -> None:
        # Past 10 s the group has given its partitions away; before, the new process waits for them.
        delay = self.rng.choice([0.0, self.rng.uniform(0.1, 3.0), self.rng.uniform(0.1, 3.0), 13.0])
        await asyncio.sleep(min(delay, 3.0) if service.role != "runner" else delay)
        self.installation.revive(service)
        await service.ready(may_fall=True)
        await asyncio.sleep(max(0.0, ORPHAN_S_MAX - delay))
        self.orphans += [f"process {child} outlived {service.name}" for child in children if _alive(child)]

    async def _zombie(self, service: Service) -> None:
        service.freeze()
        try:
            await self.installation.moved_away_from(service)
            await asyncio.sleep(self.rng.uniform(0.0, 2.0))
        finally:
            service.thaw()

    async def _alone(self, action: Callable[[], Awaitable[None]]) -> bool:
        await self._repaired()
        await action()
        return True

    async def _repaired(self) -> None:
        if self._repairs:
            await asyncio.wait(self._repairs)

    def _repair(self, service: Service, how: Callable[[Service], Awaitable[None]]) -> None:
        async def repair() -> None:
            try:
                await how(service)
            finally:
                self._busy.discard(service.name)

        self._busy.add(service.name)
        task = self._tasks.create_task(repair(), name=f"repair {service.name}")
        self._repairs.add(task)
        task.add_done_callback(self._repairs.discard)

    def _up(self, role: str) -> Service | None:
        found = [s for s in self.installation.of(role) if s.name not in self._busy and s.pid is not None]
        return self.rng.choice(found) if found else None

    def _note(self, what: str, target: str) -> None:
        at_s = round(time.monotonic() - self.started_at, 1)
        self.kills.append(Kill(at_s=at_s, what=what, target=target))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
