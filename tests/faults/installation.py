"""A whole ApexStream of real processes, and the ways to look at it from outside: HTTP, topics and groups."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import httpx
from aiokafka.errors import KafkaError
from tests.faults.brokers import Brokers
from tests.faults.processes import Service, service_environ, spare_ports
from tests.support.groups import members

from apexstream.contracts.catalogue import load_catalogue
from apexstream.log import admin

SETTLE_TIMEOUT_S = 90.0
RESTART_DELAY_S = 0.5
_LOUD = re.compile(r'"level":"(error|critical)"')


@dataclass(slots=True)
class Installation:
    """The processes of one installation. ``fallen`` says of every process that ended unasked how it ended."""

    brokers: Brokers
    prefix: str
    directory: Path
    url: str
    environ: Mapping[str, str]
    services: dict[str, Service] = field(default_factory=dict)
    fallen: list[str] = field(default_factory=list)
    _down_on_purpose: set[str] = field(default_factory=set)

    def add(self, name: str, role: str, **environ: str) -> Service:
        """Define a service; ``environ`` holds for all its lives."""
        own = {**self.environ, "APEX_INSTANCE": name, **environ}
        service = self.services[name] = Service(name, role, own, self.directory)
        return service

    def of(self, role: str) -> list[Service]:
        """The services of one role."""
        return [service for service in self.services.values() if service.role == role]

    def kill(self, service: Service) -> None:
        """``kill -9``; it stays down until :meth:`revive`."""
        self._down_on_purpose.add(service.name)
        service.kill()

    def revive(self, service: Service, **environ: str) -> None:
        """Start what was taken down; ``environ`` holds for this life."""
        service.start(**environ)
        self._down_on_purpose.discard(service.name)

    def expect_end(self, service: Service) -> None:
        """The service is about to end: that is no news, and it stays down until :meth:`revive`."""
        self._down_on_purpose.add(service.name)

    async def keep_up(self) -> None:
        """Start whatever falls by itself, as any supervisor does, and remember that it fell. Until cancelled."""
        while True:
            for service in list(self.services.values()):
                status = service.exit_status
                if status is not None and service.name not in self._down_on_purpose:
                    self.fallen.append(f"{service.name} ended by itself with status {status}: {service.last_error()}")
                    await asyncio.sleep(RESTART_DELAY_S)
                    service.start()
            await asyncio.sleep(0.2)

    async def all_ready(self) -> None:
        """Return once every service serves and the gateway offers the workload's actions."""
        await asyncio.gather(*(service.ready() for service in self.services.values()))
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as http:

            async def offers() -> bool:
                answer = (await http.get("/actions", timeout=5)).json()
                return any(action["plugin"] == "fault" for action in answer["actions"])

            await until(offers, "the gateway offers the workload's actions")

    async def members(self, group: str = "runners") -> dict[str, frozenset[int]]:
        """Who is in the group, by client id, with the partitions of each; empty while it rebalances."""
        return await members(self.brokers.bootstrap_servers, self.prefix + group)

    async def moved_away_from(self, service: Service) -> None:
        """Return once the runners' group goes on without the service."""

        async def gone() -> bool:
            members = await self.members()
            return bool(members) and service.name not in members

        await until(gone, f"the partitions of {service.name} move")

    async def shared_by(self, *services: Service) -> None:
        """Return once exactly these runners share the partitions."""

        async def stable() -> bool:
            members = await self.members()
            return members.keys() == {service.name for service in services} and all(members.values())

        await until(stable, f"{', '.join(service.name for service in services)} share the partitions")

    def errors_logged(self) -> list[str]:
        """The lines of level error in all logs."""
        found = []
        for service in self.services.values():
            if service.log.exists():
                lines = service.log.read_text(errors="replace").splitlines()
                found += [f"{service.name}: {line}" for line in lines if _LOUD.search(line)]
        return found


async def until(check: Callable[[], Awaitable[bool]], what: str, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
    """Return once ``check`` gives true; what it cannot find out yet counts as false."""
    deadline = time.monotonic() + timeout_s
    problem: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if await check():
                return
        except (KafkaError, httpx.HTTPError, OSError, ValueError) as failure:
            problem = failure
        await asyncio.sleep(0.25)
    raise TimeoutError(f"not within {timeout_s:g} s: {what} ({problem!r})")


@asynccontextmanager
async def installation(
    brokers: Brokers,
    directory: Path,
    prefix: str,
    *,
    runners: Sequence[str] = ("runner-a", "runner-b"),
    hurt: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    **environ: str,
) -> AsyncIterator[Installation]:
    """Create the topics, start gateway, dispatcher, archiver and runners; end them all at the end.

    ``environ`` goes to all of them, ``hurt`` to the ones that it names.
    """
    port = spare_ports(1)[0]
    await admin.apply([topic.renamed(prefix) for topic in load_catalogue()], brokers.bootstrap_servers)
    own = service_environ(brokers.bootstrap_servers, prefix, port, **environ)
    made = Installation(brokers, prefix, directory, f"http://127.0.0.1:{port}", own)
    alone = ("gateway", "dispatcher", "archiver")
    roles = {**dict(zip(alone, alone, strict=True)), **dict.fromkeys(runners, "runner")}
    for name, role in roles.items():
        made.add(name, role, **hurt.get(name, {}))
    try:
        for service in made.services.values():
            service.start()
        await made.all_ready()
        yield made
    finally:
        await asyncio.gather(*(service.stop() for service in made.services.values()))
