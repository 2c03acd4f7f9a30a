"""Judges a run from the raw topics, independently of the product: what each stream holds, and whether it must be so.

:func:`gather` reads Kafka, :func:`judge` is pure. The rules of the stream record are in :mod:`rules`; what the workload
must yield in ``plugins/fault_payload.py``; what archived streams must look like in :mod:`sealed`.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from tests.faults.avro import Reader, Unreadable
from tests.faults.commits import Work, left_behind, passed_unfinished, went_back
from tests.faults.evidence import Evidence, Job, Seen
from tests.faults.plugins.fault_payload import digests
from tests.faults.rawlog import Commit, read_commits, read_topic
from tests.faults.rules import Item, Run, Stream
from tests.faults.sealed import check_sealed

VIOLATIONS_SHOWN_MAX = 40
_ENDING = {"complete": "completed", "error": "failed", "cancelled": "cancelled"}


class Raw(NamedTuple):
    """One Kafka record; what the checker needs of it."""

    partition: int
    offset: int
    timestamp: int  # milliseconds, the broker's
    key: bytes | None
    value: bytes | None


@dataclass(slots=True)
class Topics:
    """The raw content of all topics that matter, each in partition and offset order."""

    chunks: Sequence[Raw] = ()
    events: Sequence[Raw] = ()
    assignments: Sequence[Raw] = ()
    tasks: Sequence[Raw] = ()
    segments: Sequence[Raw] = ()
    states: Sequence[Raw] = ()
    commits: Sequence[Commit] = ()


@dataclass(slots=True)
class Report:
    """Counts, and every violation in words. ``dead`` records, ``rewinds``, ``repeated_ends`` and
    ``ignored_ends`` (of attempts that had lost their stream) are no violations."""

    streams: int = 0
    chunks: int = 0
    records: int = 0
    frames: int = 0
    attempts: int = 0
    rewinds: int = 0
    dead: int = 0
    repeated_ends: int = 0
    ignored_ends: int = 0
    sealed_streams: int = 0
    sealed_chunks: int = 0
    commits: int = 0
    kills: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything was as it must be."""
        return not (self.violations or self.lost or self.duplicated or self.out_of_order)

    def __str__(self) -> str:
        counts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "violations"}
        lines = [
            *(f"{name:>14} {count:>9}" for name, count in counts.items()),
            f"{'violations':>14} {len(self.violations):>9}",
        ]
        lines += [f"  - {violation}" for violation in self.violations[:VIOLATIONS_SHOWN_MAX]]
        if len(self.violations) > VIOLATIONS_SHOWN_MAX:
            lines.append(f"  … and {len(self.violations) - VIOLATIONS_SHOWN_MAX} more")
        return "\n".join(lines)


async def gather(bootstrap: str, prefix: str) -> Topics:
    """Read all that the topics hold now."""

    async def raw(*names: str) -> list[Raw]:
        return [
            Raw(record.partition, record.offset, record.timestamp, record.key, record.value)
            for name in names
            for record in await read_topic(bootstrap, prefix + name)
        ]

    return Topics(
        chunks=await raw("chunks"),
        events=await raw("task-events"),
        assignments=await raw("assignments"),
        tasks=await raw("tasks.high", "tasks.normal", "tasks.low"),
        segments=await raw("segments"),
        states=await raw("streams"),
        commits=await read_commits(bootstrap, prefix),
    )


def judge(topics: Topics, evidence: Evidence, *, prefix: str = "apex.") -> Report:
    """Compare what the topics hold with what the rules and the workload demand."""
    report = Report(kills=len(evidence.kills), records=len(topics.chunks))
    reader = Reader()
    streams = fold_all(topics.chunks, reader, report)
    events = _events(topics.events, reader)
    submitted = {(record.key or b"").decode() for record in topics.tasks}
    for task_id in evidence.accepted:
        if task_id not in submitted:
            report.lost += 1
            report.violations.append(f"{task_id}: its submission was acknowledged and is not in the log")
    for job in evidence.jobs:
        if job.task_id in submitted:
            stream = streams.get(job.task_id, Stream())
            _check_stream(job, stream, report)
            _check_ends(job, stream, events.get(job.task_id, ()), report)
            for seen in evidence.views_of(job.task_id):
                _check_view(seen, stream, report)
    _check_commits(topics, reader, streams, events, prefix, report)
    on_chunks = [commit for commit in topics.commits if commit.topic == f"{prefix}chunks"]
    sealed = check_sealed(topics.segments, topics.states, streams, on_chunks, reader)
    report.sealed_streams, report.sealed_chunks = len(sealed.states), sealed.chunks
    report.violations += sealed.wrong
    return report


def fold_all(records: Iterable[Raw], reader: Reader, report: Report) -> dict[str, Stream]:
    """Apply the rules to every stream in the log. What cannot be read counts for nothing, and is no writer's of ours."""
    streams: dict[str, Stream] = defaultdict(Stream)
    for record in records:
        try:
            read = reader.read(record.value, "chunk-run")
        except Unreadable:
            continue
        run = as_run(record, read.fields, read.body)
        stream_id = read.fields["stream_id"]
        if stream_id.encode() != record.key:
            report.violations.append(f"{stream_id}: offset {record.offset} has the key {record.key!r}")
        stream = streams[stream_id]
        if stream.partition not in {-1, record.partition}:
            report.violations.append(f"{stream_id}: in partitions {stream.partition} and {record.partition}")
        stream.partition = record.partition
        stream.take(run)
    for stream_id, stream in streams.items():
        report.violations += [f"{stream_id}: {wrong}" for wrong in stream.wrong]
        report.attempts += len(stream.claimed_by)
        report.rewinds += stream.rewinds
        report.dead += stream.dead
    return dict(streams)


def as_run(record: Raw, fields: Mapping[str, Any], body: bytes) -> Run:
    """The run in a record of ``apex.chunks``."""
    return Run(
        offset=record.offset,
        at_ms=record.timestamp,
        attempt=fields["attempt"],
        writer=fields["writer"],
        first_seq=fields["first_seq"],
        items=tuple(Item(c["kind"], c["payload"], c["content_type"]) for c in fields["chunks"]),
        checkpoint=fields["checkpoint"],
        hash=fields["hash"],
        body=body,
    )


def _check_stream(job: Job, stream: Stream, report: Report) -> None:
    """Closed once, and every data chunk there, once, in order, with the content that the workload must yield."""
    report.streams += 1
    report.chunks += len(stream.content)
    if stream.closed is None:
        report.violations.append(
            f"{job.task_id}: not closed; {len(stream.claimed_by)} attempts, {len(stream.content)} chunks"
        )
    values = [json.loads(item.payload) for item in stream.content if item.kind == "data"]
    ending = _ENDING[stream.content[-1].kind] if stream.closed else ""
    if ending and ending not in job.endings:
        report.violations.append(f"{job.task_id}: ended as {ending} instead of {'/'.join(sorted(job.endings))}")
    expected = len(values) if ending in {"", "cancelled"} else job.data_count
    _check_indices([value["i"] for value in values], expected, job, report)
    _check_digests(values, job, report)
    _check_nonces(job, stream, report)
    if stream.closed:
        _check_end(job, stream, report)


def _check_indices(indices: list[int], expected: int, job: Job, report: Report) -> None:
    missing = set(range(expected)) - set(indices)
    extra = set(indices) - set(range(expected))
    repeated = len(indices) - len(set(indices))
    disordered = sum(after < before for before, after in pairwise(indices))
    report.lost += len(missing)
    report.duplicated += repeated
    report.out_of_order += disordered
    if missing or extra or repeated or disordered:
        report.violations.append(
            f"{job.task_id} ({job.action}): of {expected} data chunks {len(missing)} are missing {_some(missing)}, "
            f"{len(extra)} are too many {_some(extra)}, {repeated} are repeated, {disordered} are out of order"
        )


def _check_digests(values: list[dict[str, Any]], job: Job, report: Report) -> None:
    right = digests(job.plan["key"], max((value["i"] for value in values), default=-1) + 1)
    wrong = [v["i"] for v in values if v["k"] != job.plan["key"] or v["d"] != right[v["i"]]]
    if wrong:
        report.violations.append(f"{job.task_id}: the content of data chunks {_some(wrong)} is not what was yielded")


def _check_nonces(job: Job, stream: Stream, report: Report) -> None:
    """All data that one attempt wrote came from one execution; a stream in restart mode holds one execution in all."""
    nonces: dict[int, set[str]] = defaultdict(set)
    start = 0
    for attempt, end in stream.runs_by:
        nonces[attempt] |= {json.loads(item.payload)["r"] for item in stream.content[start:end] if item.kind == "data"}
        start = end
    mixed = [attempt for attempt, found in nonces.items() if len(found) > 1]
    if mixed:
        report.violations.append(f"{job.task_id}: attempts {mixed} hold more than one execution each")
    executions = {nonce for found in nonces.values() for nonce in found}
    if job.action in {"restart", "threaded"} and len(executions) > 1:
        report.violations.append(f"{job.task_id}: {len(executions)} executions of an action that begins anew are mixed")


def _check_end(job: Job, stream: Stream, report: Report) -> None:
    end, seq = stream.content[-1], len(stream.content) - 1
    detail = json.loads(end.payload or b"{}")
    if end.kind == "cancelled" and detail.get("stopped_at_seq") != seq:
        report.violations.append(f"{job.task_id}: the receipt says {detail}, the end is at seq {seq}")
    if end.kind == "error" and not job.fails and "as planned at" not in detail.get("message", ""):
        report.violations.append(f"{job.task_id}: failed with {detail} instead of the planned failure")


class Event(NamedTuple):
    """One event of a task, and when the broker took it."""

    at_ms: int
    change: str
    attempt: int
    detail: bytes
    by: str


def _events(records: Iterable[Raw], reader: Reader) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = defaultdict(list)
    for record in records:
        try:
            fields = reader.read(record.value, "task-event").fields
        except Unreadable:
            continue
        found[fields["task_id"]].append(_event(record.timestamp, fields))
    return found


def _event(at_ms: int, fields: Mapping[str, Any]) -> Event:
    return Event(at_ms, fields["change"], fields["attempt"], fields["detail"], fields["by"])


def effective_ends(events: Iterable[Event]) -> list[Event]:
    """The events that end a task for whoever folds them: those of an attempt that a newer one has followed do not."""
    newest, ends = 0, []
    for event in events:
        if event.attempt >= newest:
            newest = event.attempt
            ends += [event] if event.change in _ENDING.values() else []
    return ends


def _check_ends(job: Job, stream: Stream, events: Sequence[Event], report: Report) -> None:
    """The task ended as its stream did and not before it. The same end said again, by whoever took over, is no error."""
    ends = effective_ends(events)
    report.repeated_ends += max(0, len(ends) - 1)
    report.ignored_ends += sum(event.change in _ENDING.values() for event in events) - len(ends)
    if not ends:
        report.violations.append(f"{job.task_id}: no event says that it ended")
        return
    if len({event.change for event in ends}) > 1 or len({event.detail for event in ends if event.detail}) > 1:
        told = ", ".join(f"{event.change} by {event.by} at {event.at_ms}" for event in ends)
        report.violations.append(f"{job.task_id}: its events disagree: {told}")
    if stream.closed is None:
        report.violations.append(f"{job.task_id}: {ends[0].change} by {ends[0].by}, and its stream is not closed")
        return
    if ends[0].change != _ENDING[stream.content[-1].kind]:
        report.violations.append(
            f"{job.task_id}: {ends[0].change} by {ends[0].by}, and its stream ends with {stream.content[-1].kind}"
        )
    if ends[0].at_ms < stream.closed.at_ms:
        early = stream.closed.at_ms - ends[0].at_ms
        report.violations.append(
            f"{job.task_id}: {ends[0].change} by {ends[0].by} {early} ms before {stream.closed.writer} closed its stream"
        )


def _check_view(seen: Seen, stream: Stream, report: Report) -> None:
    """A viewer holds the stream's content, and all that it ever saw was content once."""
    report.frames += len(seen.frames)
    where = f"{seen.stream_id} as seen by {seen.viewer}"
    report.violations += [f"{where}: {broken}" for broken in seen.broken]
    if not seen.ended:
        report.violations.append(f"{where}: no end after {len(seen.frames)} frames")
    right = [_frame(seq, item) for seq, item in enumerate(stream.content)]
    shown = [_without_id(frame) for frame in seen.frames]
    expected = right[seen.from_seq :] if seen.ended else right[seen.from_seq : seen.next_seq]
    if shown != expected:
        at = next(
            (i for i, (a, b) in enumerate(zip(shown, expected, strict=False)) if a != b), min(len(shown), len(expected))
        )
        report.violations.append(
            f"{where}: {len(shown)} frames instead of {len(expected)}, other than the stream from seq {seen.from_seq + at}: "
            f"{_short(shown, at)} instead of {_short(expected, at)}"
        )
    _check_witness(seen, stream, right, report)


def _check_witness(seen: Seen, stream: Stream, right: list[dict[str, Any]], report: Report) -> None:
    ever = {json.dumps(frame, sort_keys=True) for frame in right}
    ever |= {json.dumps(_frame(seq, item), sort_keys=True) for seq, item in stream.forgotten}
    told = [*seen.frames, *(frame for _, frame in seen.forgotten)]
    gone = [frame for frame in told if json.dumps(_without_id(frame), sort_keys=True) not in ever]
    report.lost += len(gone)
    if gone:
        report.violations.append(f"{seen.stream_id}: {seen.viewer} was shown what is not in the log: {gone[0][:200]}")


def _frame(seq: int, item: Item) -> dict[str, Any]:
    """The message that must show ``item``, from the table of the protocol."""
    payload = json.loads(item.payload or b"null")
    match item.kind:
        case "data":
            return {"type": "stream_update", "seq": seq, "data": payload}
        case "progress":
            return {"type": "stream_progress", "seq": seq, "progress": payload}
        case "complete":
            return {"type": "stream_complete", "seq": seq}
        case "error":
            return {"type": "stream_error", "seq": seq, "error": payload}
        case _:
            return {"type": "stream_cancelled", "seq": seq, "data": payload}


def _without_id(frame: str) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(frame)
    message.pop("stream_id", None)
    return message


def _check_commits(
    topics: Topics,
    reader: Reader,
    streams: Mapping[str, Stream],
    events: Mapping[str, Sequence[Event]],
    prefix: str,
    report: Report,
) -> None:
    mine = [commit for commit in topics.commits if commit.topic == f"{prefix}assignments"]
    report.commits += len(mine)
    work = [_work(record, reader, streams, events) for record in topics.assignments]
    report.violations += passed_unfinished(mine, work)
    report.violations += left_behind(mine, work)
    report.violations += went_back(mine)


def _work(record: Raw, reader: Reader, streams: Mapping[str, Stream], events: Mapping[str, Sequence[Event]]) -> Work:
    """An assignment is finished when its stream is closed and an event says so; one that cannot be read always is."""
    try:
        task_id = reader.read(record.value, "assignment").fields["task"]["task_id"]
    except Unreadable:
        return Work(record.partition, record.offset, "", record.timestamp)
    stream = streams.get(task_id)
    ends = [event.at_ms for event in effective_ends(events.get(task_id, ()))]
    if stream is None or stream.closed is None or not ends:
        return Work(record.partition, record.offset, task_id, None)
    return Work(record.partition, record.offset, task_id, max(stream.closed.at_ms, min(ends)))


def _some(numbers: Iterable[int]) -> str:
    shown = sorted(numbers)
    return f"{shown[:5]}{'…' if len(shown) > 5 else ''}"


def _short(frames: list[dict[str, Any]], at: int) -> str:
    return json.dumps(frames[at])[:160] if at < len(frames) else "nothing"
