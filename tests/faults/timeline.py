"""Everything that the topics say of one task, in the order of the broker's clock: where to look when a run has failed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from tests.faults.avro import Reader, Unreadable
from tests.faults.checker import Raw, Topics

FILE = "topics.msgpack"


def save(topics: Topics, folder: Path) -> None:
    """Keep the raw topics beside the logs and the evidence of their run."""
    (folder / FILE).write_bytes(msgspec.msgpack.encode(topics))


def load(folder: Path) -> Topics:
    """What :func:`save` kept."""
    return msgspec.msgpack.decode((folder / FILE).read_bytes(), type=Topics)


def timeline(topics: Topics, task_id: str) -> list[str]:
    """A line for each record about the task, and for each commit on the partitions of its assignments."""
    reader = Reader()
    assigned = [(at, line) for at, line in _assignments(topics, task_id, reader)]
    partitions = {int(line.split("/")[1].split()[0]) for _, line in assigned}
    found = [*_chunks(topics, task_id, reader), *_events(topics, task_id, reader), *assigned]
    found += [
        (commit.at_ms, f"commit     {commit.topic}/{commit.partition} {commit.offset} {commit.metadata}")
        for commit in topics.commits
        if commit.topic.endswith("assignments") and commit.partition in partitions
    ]
    return [f"{at} {line}" for at, line in sorted(found)]


def _chunks(topics: Topics, task_id: str, reader: Reader) -> Iterator[tuple[int, str]]:
    for record, fields in _of(topics.chunks, "chunk-run", reader):
        if fields["stream_id"] == task_id:
            kinds = [chunk["kind"] for chunk in fields["chunks"]]
            what = kinds[0] if len(set(kinds)) == 1 else "+".join(kinds)
            state = " with checkpoint" if fields["checkpoint"] is not None else ""
            who = f"attempt {fields['attempt']} of {fields['writer']}"
            yield (
                record.timestamp,
                f"chunks     {record.partition}/{record.offset} {who}: {fields['first_seq']} {what}{state}",
            )


def _events(topics: Topics, task_id: str, reader: Reader) -> Iterator[tuple[int, str]]:
    for record, fields in _of(topics.events, "task-event", reader):
        if fields["task_id"] == task_id:
            why = f" ({fields['reason']})" if fields["reason"] else ""
            yield record.timestamp, f"event      {fields['change']} attempt {fields['attempt']} by {fields['by']}{why}"


def _assignments(topics: Topics, task_id: str, reader: Reader) -> Iterator[tuple[int, str]]:
    for record, fields in _of(topics.assignments, "assignment", reader):
        if fields["task"]["task_id"] == task_id:
            yield record.timestamp, f"assignment assignments/{record.partition} {record.offset}"


def _of(records: Any, subject: str, reader: Reader) -> Iterator[tuple[Raw, Any]]:
    for record in records:
        try:
            yield record, reader.read(record.value, subject).fields
        except Unreadable:
            continue
