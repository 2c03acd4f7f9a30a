"""Ends processes: ``kill -9`` at random times and at chosen points of their work, and SIGSTOP until the others have taken
over, then SIGCONT."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from tests.faults.evidence import Kill
from tests.faults.installation import Installation
from tests.faults.points import AT, Point
from tests.faults.processes import Service

WEIGHTS = {
    "runner": 8,
    "plugin": 4,
    "archiver": 3,
    "dispatcher": 3,
    "gateway": 3,
    "broker": 1,
    "zombie": 1,
    "point": 3,
}
POINT_ROLES = {"runner": 6, "archiver": 2, "dispatcher": 2, "gateway": 1}
BROKER_BEFORE_END_S = 60.0
POINT_S_MAX = 15.0  # how long a process may take to come to its point before it is killed where it is
ORPHAN_S_MAX = 5.0  # after the death of its runner a plugin process must be gone within this time


@dataclass(slots=True)
class Killer:
    """Does ``count`` kills, spread over ``seconds``; overlapping, but for brokers. ``session_s`` is after how much silence
    the group gives a runner's partitions away."""

    installation: Installation
    rng: random.Random
    kills: list[Kill]
    weights: dict[str, int] = field(default_factory=lambda: dict(WEIGHTS))
    session_s: float = 10.0
    orphans: list[str] = field(default_factory=list)
    started_at: float = field(default_factory=time.monotonic)
    _busy: set[str] = field(default_factory=set)
    _repairs: set[asyncio.Task[None]] = field(default_factory=set)
    _tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)

    async def run(self, count: int, seconds: float) -> None:
        """Kill ``count`` times in about ``seconds``, and return once all is up again."""
        deadline = time.monotonic() + seconds
        last_broker_at = deadline - BROKER_BEFORE_END_S
        async with self._tasks:
            while (left := count - len(self.kills)) > 0 and time.monotonic() < deadline:
                pause = (deadline - time.monotonic()) / left
                await asyncio.sleep(min(self.rng.expovariate(1 / pause), 2 * pause))
                await self._one(late=time.monotonic() > last_broker_at)

    async def _one(self, *, late: bool) -> None:
        """One kill, unless what was drawn could not be killed now. ``late``: no broker, whose return takes a while."""
        what = _drawn(self.rng, self.weights)
        if what == "broker" and late:
            what = "runner"
        if what == "broker":
            await self._repaired()
            await self._broker()
        elif what == "plugin":
            self._plugin_process()
        else:
            role = {"zombie": "runner", "point": _drawn(self.rng, POINT_ROLES)}.get(what, what)
            service = self._up(role)
            if service is not None:
                how = {"zombie": self._zombie, "point": self._at_point}.get(what, self._revive)
                self._repair(service, how)

    def _kill(self, service: Service) -> None:
        self.installation.kill(service)
        self._note("kill -9", service.name)

    def _plugin_process(self) -> None:
        runners = [runner for runner in self.installation.of("runner") if runner.children()]
        if not runners:
            return
        runner = self.rng.choice(runners)
        with suppress(ProcessLookupError):
            os.kill(self.rng.choice(runner.children()), signal.SIGKILL)
        self._note("kill -9 plugin", runner.name)

    async def _broker(self) -> None:
        topic = self.installation.prefix + "chunks"
        name = await self.installation.brokers.crash(topic, self.rng.randrange(12))
        self._note("kill -9", name)
        await asyncio.sleep(self.rng.uniform(0.0, 4.0))
        await self.installation.brokers.recover()
        await asyncio.sleep(5.0)  # clients need a while; kills in that time would test the same thing again

    async def _revive(self, service: Service) -> None:
        children = service.children()
        self._kill(service)
        # Past a session the group has given its partitions away; before, the new process waits for them.
        delay_s = self.rng.choice([0.0, self.rng.uniform(0.1, 3.0), self.rng.uniform(0.1, 3.0), self.session_s + 3.0])
        await asyncio.sleep(min(delay_s, 3.0) if service.role != "runner" else delay_s)
        # In every other life it knows that it is the only one of its name, and takes the dead one out of the group.
        self.installation.revive(service, APEX_SOLE_INSTANCE=self.rng.choice(("true", "false")))
        await service.ready(may_fall=True)
        await asyncio.sleep(max(0.0, ORPHAN_S_MAX - delay_s))
        self.orphans += [f"process {child} outlived {service.name}" for child in children if _alive(child)]

    async def _at_point(self, service: Service) -> None:
        """Two kills: one so that it comes back with a point where it dies, and that."""
        self._kill(service)
        what, count = self.rng.choice(AT[service.role]), self.rng.choice((1, 2, 3, 5, 20))
        point = f"{self.rng.choice(('before', 'during', 'after'))}-{what}:{count}"
        Point.parse(point)
        self.installation.revive(service, FAULT_POINT=point)
        self.installation.expect_end(service)
        try:
            if await service.ended(POINT_S_MAX) == -signal.SIGKILL:
                self._note(f"kill -9 {point}", service.name)
        except RuntimeError:  # it does not come to the point: this life ends as all others do
            self._kill(service)
        self.installation.revive(service, FAULT_POINT="")
        await service.ready(may_fall=True)

    async def _zombie(self, service: Service) -> None:
        self._note("freeze", service.name)
        service.freeze()
        try:
            await self.installation.moved_away_from(service)
            await asyncio.sleep(self.rng.uniform(0.0, 2.0))
        finally:
            service.thaw()

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


def _drawn(rng: random.Random, weights: Mapping[str, int]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
