"""One run: real processes under load, kills, and the checker's verdict."""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tests.faults.brokers import Brokers, one_broker, scratch
from tests.faults.checker import Report, gather, judge
from tests.faults.evidence import Evidence
from tests.faults.installation import Installation, installation, until
from tests.faults.killer import WEIGHTS, Killer
from tests.faults.load import Load, load
from tests.faults.timeline import save
from tests.faults.workload import Mix, jobs

SETTLE_S_MAX = 60.0
SHORT_SESSIONS = {"APEX_SESSION_TIMEOUT_S": "2.5"}  # a dead runner is noticed after this instead of 10 s
LONG_RUN_SESSION_S = 5.0
_FINAL = {"completed", "failed", "cancelled"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does. ``drain_s`` is what is left of ``seconds`` for the last streams to end, once the killing is over."""

    seed: int
    kills: int
    seconds: float
    width: int = 24
    drain_s: float = 90.0
    mix: Mix = field(default_factory=Mix)
    weights: Mapping[str, int] = field(default_factory=lambda: dict(WEIGHTS))
    environ: Mapping[str, str] = field(default_factory=dict)
    prefix: str = "apex."


@dataclass(slots=True)
class Run:
    """An installation under load, and what it leaves."""

    installation: Installation
    load: Load
    evidence: Evidence
    rng: random.Random

    async def verdict(self, planted: Collection[tuple[int, int]] = ()) -> Report:
        """Wait until nothing moves any more, and judge. ``planted`` are records of the chunks, by partition and offset, that
        no writer wrote: the content must be what it is without them."""
        await self._settle()
        topics = await gather(self.installation.brokers.bootstrap_servers, self.installation.prefix)
        self.evidence.save(self.installation.directory / "evidence.json")
        save(topics, self.installation.directory)
        topics.chunks = [record for record in topics.chunks if (record.partition, record.offset) not in planted]
        report = judge(topics, self.evidence, prefix=self.installation.prefix)
        report.violations += [f"{task_id}: not ended in time" for task_id in self.load.unfinished]
        return report

    async def _settle(self) -> None:
        """The last events and commits come after the last frame."""
        async with httpx.AsyncClient(base_url=self.installation.url, trust_env=False, timeout=10) as http:

            async def all_final() -> bool:
                for task_id in list(waiting):
                    if (await http.get(f"/tasks/{task_id}")).json().get("status") in _FINAL:
                        waiting.discard(task_id)
                return not waiting

            waiting = {job.task_id for job in self.evidence.jobs}
            try:
                await until(all_final, "every task has ended", SETTLE_S_MAX)
            except TimeoutError:
                return  # the checker says which, and how they stand
        await asyncio.sleep(2.0)  # the last commits, and what the archiver seals after them


@asynccontextmanager
async def started(
    brokers: Brokers,
    directory: Path,
    seed: int,
    *,
    prefix: str = "apex.",
    timeout_s: float = 300.0,
    **more: Any,
) -> AsyncIterator[Run]:
    """Processes and clients, ready; whatever falls by itself is started again. ``more`` goes to :func:`installation`."""
    rng, evidence = random.Random(seed), Evidence()
    async with (
        installation(brokers, directory, prefix, **more) as made,
        load(made.url, rng, evidence, timeout_s=timeout_s) as clients,
    ):
        keeping = asyncio.create_task(made.keep_up(), name="keep up")
        try:
            yield Run(made, clients, evidence, rng)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)


async def run(
    plan: Plan,
    brokers: AbstractAsyncContextManager[Brokers] | None = None,
    *,
    keep: Path | None = None,
    say: bool = True,
) -> tuple[Report, Installation]:
    """Do what the plan says and return the verdict. ``keep``: a folder for logs and evidence, else they are dropped."""
    with scratch() as folder:
        directory = keep or folder
        directory.mkdir(parents=True, exist_ok=True)
        async with asyncio.timeout(plan.seconds + 300.0), brokers or one_broker() as kafka:
            environ = dict(plan.environ)
            async with started(
                kafka, directory, plan.seed, prefix=plan.prefix, timeout_s=plan.seconds, **environ
            ) as one:
                session_s = float(environ.get("APEX_SESSION_TIMEOUT_S", "10"))
                killer = Killer(one.installation, one.rng, one.evidence.kills, dict(plan.weights), session_s)
                telling = asyncio.create_task(_tell(one, plan), name="tell") if say else None
                try:
                    await _work(one, killer, plan)
                finally:
                    if telling is not None:
                        telling.cancel()
                report = await one.verdict()
                report.violations += killer.orphans
                return report, one.installation


async def _work(one: Run, killer: Killer, plan: Plan) -> None:
    source = jobs(random.Random(plan.seed), plan.mix, f"s{plan.seed}")
    killing_s = plan.seconds - plan.drain_s
    async with asyncio.TaskGroup() as both:
        keeping = both.create_task(one.load.keep(plan.width, source, killing_s), name="load")
        await killer.run(plan.kills, killing_s - 5.0)
        await keeping


async def _tell(one: Run, plan: Plan) -> None:
    """A line every ten seconds."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(10.0)
        evidence = one.evidence
        print(
            f"{time.monotonic() - began:6.0f} s  {len(evidence.kills):4d} of {plan.kills} kills  "
            f"{len(evidence.jobs) - one.load.running:5d} streams ended  {one.load.running:3d} running  "
            f"{len(one.installation.fallen)} fell by themselves",
            file=sys.stderr,
            flush=True,
        )
