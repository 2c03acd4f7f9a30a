"""Builds a runner from settings; the only place of this service that constructs adapters."""

import asyncio
import os
import site
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec

from apexstream.contracts.codec import Codec
from apexstream.core.errors import ApexError
from apexstream.core.events import ActionInfo, Assignment, DeadLetter, TaskChange, TaskEvent, TaskSubmitted
from apexstream.core.ids import new_id
from apexstream.core.options import TaskOptions
from apexstream.core.scheduling import scheduling_or_nothing
from apexstream.log.chunks import ChunkLog
from apexstream.log.cipher import KeyProvider, key_provider
from apexstream.log.connection import connection
from apexstream.log.fetcher import LogReader, Tail
from apexstream.log.former import remove_members
from apexstream.log.group import GroupReader
from apexstream.log.index import StreamIndex
from apexstream.log.keyed import KeyedLog
from apexstream.log.outside import OutsideChunks
from apexstream.log.registry import codec_of
from apexstream.log.segments import SegmentReader
from apexstream.log.tails import Tails
from apexstream.log.writer import Writer
from apexstream.runner.attempt import Attempt, Failed, FillInputs
from apexstream.runner.buffer import Buffer
from apexstream.runner.coordination import Coordinator
from apexstream.runner.host.catalogue import Catalogue
from apexstream.runner.host.confinement import Confinement
from apexstream.runner.host.port import ActionHost
from apexstream.runner.host.process import installed_plugins
from apexstream.runner.host.routed import RoutedHost
from apexstream.runner.inputs import Inputs
from apexstream.runner.measures import ActionMeasures
from apexstream.runner.resources import announced, measured
from apexstream.runner.retries import RetryBudget
from apexstream.runner.service import Runner
from apexstream.runner.work import Work
from apexstream.runtime import meters, tracing
from apexstream.runtime.clock import Clock, SystemClock
from apexstream.runtime.settings import Settings
from apexstream.runtime.supervise import run_until


async def serve(settings: Settings, *, ready: Callable[[str], None], stop: asyncio.Event) -> None:
    """Run until ``stop``; ``ready`` is called once assignments are taken."""
    clock, codec, kafka = SystemClock(), await codec_of(settings), connection(settings)
    runner_id = settings.instance_name("runner")
    group_id = settings.topic_prefix + "runners"
    if settings.sole_instance:
        await remove_members(kafka, group=group_id, client_id=runner_id)
    # One process, one life: a runner that restarts under the same name is another writer.
    writer_id = f"{runner_id}.{new_id(clock.now_us() // 1000, os.urandom(10))[-10:]}"
    host = RoutedHost(
        installed_plugins(),
        trusted={name.strip() for name in settings.trusted_plugins.split(",") if name.strip()},
        clock=clock,
        processes=settings.plugin_processes,
        confinement=Confinement(memory_bytes=settings.plugin_memory_mb << 20, import_paths=_own_paths()),
    )
    chunks, events, states, letters = (
        settings.topic(name) for name in ("chunks", "task-events", "runners", "dead-letters")
    )
    assignments, control = settings.topic("assignments"), settings.topic("control")
    coordination, segment_topic = settings.topic("coordination"), settings.topic("segments")
    keys = key_provider(settings)
    resources = announced(measured(), settings.runner_resources, settings.runner_labels)
    async with (
        Writer(
            kafka, client_id=runner_id, timeout_s=settings.append_timeout_s, compression=settings.compression
        ) as writer,
        LogReader(kafka, client_id=f"{runner_id}-scan") as scans,
        LogReader(kafka, client_id=f"{runner_id}-control") as controls,
        LogReader(kafka, client_id=f"{runner_id}-meet") as meetings,
        LogReader(kafka, client_id=f"{runner_id}-streams") as streams,
        Inputs(
            lambda: StreamIndex(streams, settings.topic("streams"), codec),
            lambda index: OutsideChunks(
                chunks,
                codec,
                reader=scans,
                writer=writer,
                index=index,
                segments=segments,
                writer_id=writer_id,
                now_us=clock.now_us,
            ),
            segments := SegmentReader(scans, segment_topic, codec),
            keys,
        ) as inputs,
        host,
    ):
        await writer.prepare(chunks, events, states, letters, coordination)
        await scans.partitions(chunks)
        await scans.partitions(assignments)
        await scans.partitions(events)
        await scans.partitions(segment_topic)
        await scans.partitions(coordination)
        await meetings.partitions(coordination)
        buffer = Buffer(settings.runner_buffer_mb << 20, host.hold)
        meters.RUNNER_BUFFERED.read(lambda: buffer.held_bytes)
        coordinator = Coordinator(
            lambda on_records: Tails(meetings, on_records),
            scans,
            codec,
            append=lambda key, value: writer.append(coordination, key.encode(), value),
            partition_of=lambda key: (coordination, writer.partition_of(coordination, key.encode())),
            clock=clock,
            keeps_values=settings.encryption == "off",
        )
        works = _Works(
            host=host,
            catalogue=host.describe,
            log=ChunkLog(chunks, codec, scans, writer, writer_id),
            events=KeyedLog(events, scans, writer.partition_of),
            writer_id=writer_id,
            runner_id=runner_id,
            clock=clock,
            codec=codec,
            keys=keys,
            buffer=buffer,
            inputs=inputs.fill,
            coordinator=coordinator,
            publish_event=lambda key, value: writer.append(events, key.encode(), value),
            publish_letter=lambda key, value: writer.append(letters, key.encode(), value),
        )
        runner = Runner(
            runner_id,
            capacity=settings.runner_capacity,
            resources=resources,
            offers=lambda: (tuple(_infos(host.describe())), host.describe().broken),
            codec=codec,
            clock=clock,
            make_work=works.make,
            publish_state=lambda key, value: writer.append(states, key.encode(), value),
            log_reader=scans,
            drain_timeout_s=settings.drain_timeout_s / 2,
        )
        control_tail = Tail(controls, await controls.ends(await controls.partitions(control)), runner.on_control)
        group = GroupReader(
            kafka,
            [assignments],
            group=group_id,
            client_id=runner_id,
            session_timeout_s=settings.session_timeout_s,
            on_assigned=runner.on_assigned,
            on_revoked=runner.on_revoked,
            on_missed=runner.on_missed,
            busy=runner.busy,
        )
        async with group:
            ready(f"{runner_id}: {len(host.describe().offers)} actions")
            await run_until(stop, control_tail.run(), coordinator.run(), runner.run(group))


class _Works:
    """Makes a :class:`Work` of each assignment, with what all of them share."""

    def __init__(
        self,
        *,
        host: ActionHost,
        catalogue: Callable[[], Catalogue],
        log: ChunkLog,
        events: KeyedLog,
        writer_id: str,
        runner_id: str,
        clock: Clock,
        codec: Codec,
        keys: KeyProvider | None,
        buffer: Buffer,
        inputs: FillInputs,
        coordinator: Coordinator,
        publish_event: Callable[[str, bytes], Awaitable[object]],
        publish_letter: Callable[[str, bytes], Awaitable[object]],
    ) -> None:
        self._host = host
        self._catalogue = catalogue
        self._log = log
        self._events = events
        self._writer_id = writer_id
        self._runner_id = runner_id
        self._clock = clock
        self._codec = codec
        self._keys = keys
        self._buffer = buffer
        self._inputs = inputs
        self._coordinator = coordinator
        self._publish_event = publish_event
        self._publish_letter = publish_letter
        self._budgets: dict[tuple[str, str], RetryBudget] = {}
        self._measures: dict[tuple[str, str], ActionMeasures] = {}

    def make(self, assignment: Assignment) -> Work:
        """The work of one assignment."""
        task = assignment.task
        try:
            spec = self._catalogue().find(task.plugin, task.action).spec
            mode, defaults = spec.resume, spec.options
        except ApexError:  # the host reports it as the action's failure
            mode, defaults = "restart", TaskOptions()
        measures = self._measured(task.plugin, task.action)

        def make_attempt(task: TaskSubmitted, options: TaskOptions) -> Attempt:
            return Attempt(
                task,
                host=self._host,
                log=self._log,
                writer=self._writer_id,
                clock=self._clock,
                options=options,
                resume_mode=mode,
                measures=measures.attempt(tracing.trace_id_of(task.traceparent)),
                keys=self._keys,
                buffer=self._buffer,
                inputs=self._inputs,
                party=self._coordinator.party(task),
            )

        return Work(
            task,
            make_attempt=make_attempt,
            options=msgspec.json.decode(task.options or b"{}", type=TaskOptions).over(defaults),
            tell=lambda change, attempt, reason="", detail=b"": self._tell(task, change, attempt, reason, detail),
            last_attempt=self._last_attempt,
            handed_back=lambda: self._handed_back(assignment),
            budget=self._budgets.setdefault((task.plugin, task.action), RetryBudget()),
            measures=measures,
            dead_letter=lambda failed, reason: self._bury(task, failed, reason),
        )

    def _measured(self, plugin: str, action: str) -> ActionMeasures:
        key = plugin, action
        if key not in self._measures:
            self._measures[key] = ActionMeasures(plugin, action, self._clock)
        return self._measures[key]

    async def _last_attempt(self, task: TaskSubmitted) -> int:
        return (await self._log.fold(task.task_id, since_us=task.submitted_us)).attempt

    async def _handed_back(self, assignment: Assignment) -> bool:
        task = assignment.task
        if not scheduling_or_nothing(task.scheduling).preemptible:
            return False
        async for record in self._events.of_key(task.task_id, since_us=assignment.assigned_us):
            event = self._codec.decode(record.value or b"", TaskEvent)
            if event.change is TaskChange.PARKED and event.detail and event.attempt >= assignment.attempt:
                return True
        return False

    async def _tell(self, task: TaskSubmitted, change: TaskChange, attempt: int, reason: str, detail: bytes) -> None:
        event = TaskEvent(
            task_id=task.task_id,
            change=change,
            at_us=self._clock.now_us(),
            attempt=attempt,
            by=self._runner_id,
            reason=reason,
            detail=detail,
            action=f"{task.plugin}.{task.action}",
            tenant=task.tenant,
        )
        await self._publish_event(task.task_id, self._codec.encode(event))

    async def _bury(self, task: TaskSubmitted, failed: Failed, reason: str) -> None:
        letter = DeadLetter(
            task_id=task.task_id,
            plugin=task.plugin,
            action=task.action,
            params=task.params,
            tier=task.tier,
            options=task.options,
            attempts=failed.attempt,
            error_class=failed.error_class,
            error=msgspec.json.encode(failed.error),
            reason=reason,
            at_us=self._clock.now_us(),
            tenant=task.tenant,
            scheduling=task.scheduling,
        )
        await self._publish_letter(task.task_id, self._codec.encode(letter))


def _infos(catalogue: Catalogue) -> Iterable[ActionInfo]:
    for offer in catalogue.offers:
        yield ActionInfo(
            plugin=offer.plugin,
            action=offer.spec.name,
            summary=offer.spec.summary,
            streams=offer.streams,
            params_schema=msgspec.json.encode(offer.spec.params_schema),
            resume=offer.spec.resume,
            options=msgspec.json.encode(offer.spec.options),
        )


def _own_paths() -> tuple[str, ...]:
    """Folders that this process imports from and that are neither Python's nor installed packages: a plugin may lie there."""
    known = {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(
        path
        for path in sys.path
        if path and Path(path).is_dir() and path not in known and not path.startswith(sys.base_prefix)
    )
