"""Keeps a steady number of streams running, each watched by viewers, and records what was asked for and accepted."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx
from tests.faults.evidence import Evidence, Job, Seen
from tests.faults.spectator import Spectator

REQUEST_TIMEOUT_S = 15.0
AGAIN_S = 0.3
REFUSED_FOR_S_MAX = 90.0
LATE_SHARE = 0.25
_TRY_AGAIN = {404, 500, 502, 503}  # a gateway that has just started may not know any runner yet


@dataclass(slots=True)
class Load:
    """The clients of one installation. What has not ended ``timeout_s`` after the beginning is ``unfinished``."""

    url: str
    rng: random.Random
    evidence: Evidence
    timeout_s: float = 300.0
    running: int = 0
    unfinished: list[str] = field(default_factory=list)
    _steady: list[Spectator] = field(default_factory=list)
    _hopping: list[Spectator] = field(default_factory=list)
    _http: httpx.AsyncClient = field(init=False)
    _began: float = field(default_factory=time.monotonic)

    async def keep(self, width: int, source: Iterator[Job], until_s: float) -> None:
        """Keep ``width`` streams running for ``until_s`` seconds, then let the last ones end."""
        deadline = time.monotonic() + until_s

        async def one_after_the_other() -> None:
            while time.monotonic() < deadline:
                await self.follow(next(source))

        await asyncio.gather(*(one_after_the_other() for _ in range(width)))

    async def follow(self, job: Job) -> None:
        """Submit a job and return once its viewers have seen its end, or its time is over."""
        self.evidence.jobs.append(job)
        self.running += 1
        try:
            async with asyncio.timeout(self._began + self.timeout_s - time.monotonic()):
                await self._follow(job)
        except TimeoutError:
            self.unfinished.append(job.task_id)
        finally:
            self.running -= 1

    async def _follow(self, job: Job) -> None:
        early = self.rng.random() < 0.5
        viewers = [self.rng.choice(self._steady)]
        if self.rng.random() < 0.6:
            viewers.append(self.rng.choice(self._hopping))
        if early:
            await self._watch(viewers, job)
        await self._submit(job)
        if job.cancel_after_s is not None:
            await asyncio.sleep(job.cancel_after_s)
            await self._cancel(job)
        if not early:
            await asyncio.sleep(self.rng.uniform(0, 2))
            await self._watch(viewers, job)
        await asyncio.gather(*(viewer.end_of(job.task_id) for viewer in viewers))
        if self.rng.random() < LATE_SHARE:
            await self.replay(job.task_id)

    async def replay(self, stream_id: str) -> Seen:
        """Read a stream from the beginning once more, over a socket of its own."""
        late = Spectator(f"late-{len(self.evidence.seen)}", self.url, self.rng)
        running = asyncio.create_task(late.run(), name=late.name)
        try:
            seen = await late.watch(stream_id)
            self.evidence.seen.append(seen)
            await late.end_of(stream_id)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return seen

    async def _watch(self, viewers: list[Spectator], job: Job) -> None:
        for viewer in viewers:
            self.evidence.seen.append(await viewer.watch(job.task_id))

    async def _submit(self, job: Job) -> None:
        body = {"plugin": "fault", "action": job.action, "params": {"plan": job.plan, **job.more}, "tier": job.tier}
        if job.options:
            body["options"] = job.options
        answer = await self._ask("POST", "/tasks", {**body, "task_id": job.task_id})
        if answer.status_code not in {200, 202}:
            raise AssertionError(f"{job.task_id}: refused with {answer.status_code}: {answer.text}")
        self.evidence.accepted.append(job.task_id)

    async def _cancel(self, job: Job) -> None:
        answer = await self._ask("DELETE", f"/tasks/{job.task_id}?reason=enough", None)
        if answer.status_code not in {200, 202}:
            raise AssertionError(f"{job.task_id}: cancelling: {answer.status_code}: {answer.text}")

    async def _ask(self, method: str, path: str, body: dict[str, object] | None) -> httpx.Response:
        """Ask until the gateway gives a definite answer."""
        deadline = time.monotonic() + REFUSED_FOR_S_MAX
        while True:
            answer: httpx.Response | None = None
            with suppress(httpx.TransportError):  # killed, or not there yet: the same request again is safe
                answer = await self._http.request(method, path, json=body)
            if answer is not None and (answer.status_code not in _TRY_AGAIN or time.monotonic() > deadline):
                return answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer to {method} {path}")
            await asyncio.sleep(AGAIN_S)


@asynccontextmanager
async def load(
    url: str, rng: random.Random, evidence: Evidence, *, steady: int = 2, hopping: int = 2, **more: float
) -> AsyncIterator[Load]:
    """Clients with their viewers connected: ``steady`` ones leave a socket only if they lose it, ``hopping`` ones often."""
    made = Load(url, rng, evidence, **more)
    made._steady = [Spectator(f"steady-{number}", url, rng) for number in range(steady)]
    made._hopping = [Spectator(f"hopping-{number}", url, rng, hop_s=3.0) for number in range(hopping)]
    watching = [asyncio.create_task(viewer.run(), name=viewer.name) for viewer in (*made._steady, *made._hopping)]
    try:
        async with httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S, trust_env=False) as made._http:
            yield made
    finally:
        for task in watching:
            task.cancel()
        for outcome in await asyncio.gather(*watching, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome
