"""Which jobs this process has: those of the pipelines that exist, in the partitions that it owns."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.chunk import ChunkRun
from apexstream.core.errors import ApexError, ChunkDecodeError
from apexstream.core.events import Pipeline
from apexstream.core.pipelines import Definition, jobs_of, read_definition
from apexstream.log.fetcher import Partition, Record
from apexstream.processors.job import Job
from apexstream.runtime import meters

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A pipeline that was read from its topic."""

    pipeline: Pipeline
    definition: Definition
    fingerprint: str


MakeJob = Callable[[str, int, Known], Job]
"""Makes the job of this id, for a part of a pipeline."""


class Processors:
    """The jobs of this process. ``make_job`` is asked for those that it should have, ``partition_of`` where a job belongs."""

    def __init__(
        self, codec: Codec, partition_of: Callable[[str], int], make_job: MakeJob, now_us: Callable[[], int]
    ) -> None:
        self._now_us = now_us
        self._codec = codec
        self._partition_of = partition_of
        self._make_job = make_job
        self._pipelines: dict[str, Known] = {}
        self._owned: frozenset[int] = frozenset()
        self._jobs: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._changed = asyncio.Event()
        self.wanted = asyncio.Event()
        self._records = meters.PIPELINE_RECORDS.of()
        for way in ("in", "out", "late", "failed"):
            meters.PIPELINE_CHUNKS.of(way)
        meters.PIPELINE_JOBS.read(lambda: sum(not task.done() for _, task in tuple(self._jobs.values())))
        meters.PIPELINE_WAITING.read(lambda: sum(job.waiting_chunks for job, _ in tuple(self._jobs.values())))
        meters.PIPELINE_LAG.read(self._lag_s)

    def on_pipelines(self, _: Partition, records: Iterable[Record]) -> None:
        """Pipelines that were submitted, cancelled or forgotten."""
        for record in records:
            pipeline_id = (record.key or b"").decode("utf-8", "replace")
            self._pipelines.pop(pipeline_id, None)
            if record.value is None:
                continue
            try:
                pipeline = self._codec.decode(record.value, Pipeline)
                definition = read_definition(pipeline.definition)
            except (ChunkDecodeError, ApexError) as problem:
                _log.error("skipped a pipeline that cannot be read", pipeline=pipeline_id, error=str(problem))
                continue
            fingerprint = sha256(pipeline.definition).hexdigest()[:16] + f"-{pipeline.submitted_us}"
            self._pipelines[pipeline_id] = Known(pipeline=pipeline, definition=definition, fingerprint=fingerprint)
        if self._pipelines:
            self.wanted.set()
        self._changed.set()

    def take(self, _: int, run: ChunkRun) -> None:
        """A record of work."""
        self._records.value += 1
        held = self._jobs.get(run.stream_id.rpartition("/")[0])
        if held is not None:
            held[0].offer(run)

    async def settle(self, partitions: frozenset[int]) -> None:
        """Own exactly these partitions from now on. Jobs stop at once, and begin where their rows are recovered."""
        self._owned = frozenset()
        await self._stop(list(self._jobs))
        self._owned = partitions
        self._changed.set()

    async def run(self) -> None:
        """Start and stop jobs until cancelled."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await self._adapt()
        finally:
            await self._stop(list(self._jobs))

    def behind(self) -> dict[str, float]:
        """Of each adaptive stream that jobs read: how far the job is behind that is furthest behind, 0 to 1."""
        furthest: dict[str, float] = {}
        for job, _ in self._jobs.values():
            for stream_id, pressure in job.behind():
                furthest[stream_id] = max(pressure, furthest.get(stream_id, 0.0))
        return furthest

    def _lag_s(self) -> float:
        times = [job.waiting_since_us for job, _ in tuple(self._jobs.values())]
        return max((self._now_us() - time for time in times if time is not None), default=0) / 1e6

    async def _adapt(self) -> None:
        wanted = {
            job_id: (part, known)
            for known in self._pipelines.values()
            for part, job_id in enumerate(jobs_of(known.pipeline.pipeline_id, known.definition))
            if self._partition_of(job_id) in self._owned
        }
        gone = [
            job_id
            for job_id, (job, _) in self._jobs.items()
            if job_id not in wanted or wanted[job_id][1].fingerprint != job.fingerprint
        ]
        await self._stop(gone)
        for job_id, (part, known) in wanted.items():
            if job_id not in self._jobs:
                job = self._make_job(job_id, part, known)
                self._jobs[job_id] = job, asyncio.create_task(self._run(job), name=f"job {job_id}")
            if known.pipeline.cancelled_us:
                self._jobs[job_id][0].cancel(known.pipeline.reason, known.pipeline.cancelled_us)

    async def _run(self, job: Job) -> None:
        try:
            await job.run()
        except Exception:
            _log.exception("a job ended by a defect; all others go on", job=job.job_id)

    async def _stop(self, job_ids: Iterable[str]) -> None:
        tasks = [self._jobs.pop(job_id)[1] for job_id in job_ids]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
