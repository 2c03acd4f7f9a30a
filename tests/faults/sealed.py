"""What the archiver has written must be the folded content: segments, their positions, and the state of each stream.

Written from the docs in ``schemas/events`` and ``schemas/topics/apex.streams.yaml``. With no archiver there is nothing to
check.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Protocol

import cramjam
from tests.faults.avro import Reader, Unreadable
from tests.faults.rawlog import Commit
from tests.faults.rules import Item, Stream

PAGES_DEEP_MAX = 4  # index pages of index pages
_KINDS = ("data", "progress", "complete", "error", "cancelled")
_SIZE_BYTES = 4


class _Raw(Protocol):
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


@dataclass(slots=True)
class Sealed:
    """What the topics of the archiver say. ``states``: by stream, the newest that counts, and its partition."""

    states: dict[str, tuple[int, Mapping[str, Any]]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    chunks: int = 0


def check_sealed(
    segments: Sequence[_Raw],
    states: Sequence[_Raw],
    streams: Mapping[str, Stream],
    commits: Iterable[Commit],
    reader: Reader,
) -> Sealed:
    """Check the newest state of every stream and the segments that it names; ``commits`` are those on ``apex.chunks``."""
    sealed = Sealed()
    _read_states(states, reader, sealed)
    at = {(record.partition, record.offset): record for record in segments}
    for stream_id, (partition, state) in sealed.states.items():
        stream = streams.get(stream_id, Stream())
        places = _Places(stream_id, partition, at, reader, sealed.wrong)
        _check_state(stream_id, partition, state, stream, sealed.wrong)
        _check_content(stream_id, state, places.items(state["segments"]), stream, sealed)
    _check_commits(commits, streams, sealed)
    return sealed


def _read_states(records: Sequence[_Raw], reader: Reader, sealed: Sealed) -> None:
    """In log order: a claim with a higher epoch kills what older epochs write after it."""
    epochs: dict[int, int] = defaultdict(int)
    for record in records:
        stream_id = (record.key or b"").decode()
        if record.value is None:
            if not stream_id.startswith("!") and sealed.states.pop(stream_id, None):
                sealed.wrong.append(f"{stream_id}: its state was erased, which nobody asked for")
            continue
        try:
            read = reader.read(record.value, "stream-state", "archive-progress")
        except Unreadable as problem:
            sealed.wrong.append(f"{stream_id}: its state cannot be read: {problem}")
            continue
        if read.subject == "archive-progress":
            epochs[record.partition] = max(epochs[record.partition], read.fields["epoch"])
        elif read.fields["epoch"] >= epochs[record.partition]:
            sealed.states[stream_id] = record.partition, read.fields


def _check_state(stream_id: str, partition: int, state: Mapping[str, Any], stream: Stream, wrong: list[str]) -> None:
    """A state says what the fold says at its offset."""
    if stream.partition not in {-1, partition}:
        wrong.append(f"{stream_id}: its state is in partition {partition}, its chunks in {stream.partition}")
    place = stream.at(state["offset"])
    expected = {
        "status": place.status,
        "next_seq": place.next_seq,
        "hash": place.hash,
        "attempt": place.attempt,
        "data_count": place.data_count,
    }
    told = {name: state[name] for name, value in expected.items() if state[name] != value}
    if told:
        right = {name: expected[name] for name in told}
        wrong.append(f"{stream_id}: its state at {state['offset']} says {told}, the log says {right}")


@dataclass(frozen=True, slots=True)
class _Places:
    """Follows the positions of one stream's segments."""

    stream_id: str
    partition: int
    at: Mapping[tuple[int, int], _Raw]
    reader: Reader
    wrong: list[str]

    def items(self, refs: Iterable[Mapping[str, Any]], deep: int = 0) -> list[tuple[int, Item]]:
        """The chunks that the positions name, each with its seq."""
        found: list[tuple[int, Item]] = []
        for ref in refs:
            data = self._data(ref)
            if data is None:
                continue
            if ref["index"] and deep < PAGES_DEEP_MAX:
                page = self.reader.read(data, "segment-page").fields
                found += self.items(page["segments"], deep + 1)
            else:
                chunks = _columns(self.reader.read(data, "segment-chunks").fields)
                found += enumerate(chunks[: ref["count"]], ref["first_seq"])
        return found

    def _data(self, ref: Mapping[str, Any]) -> bytes | None:
        """What a segment holds, decompressed; None, and a complaint, if it is not what its position says."""
        where = f"{self.stream_id}: segment {ref['number']} at {self.partition}/{ref['offset']}"
        record = self.at.get((self.partition, ref["offset"]))
        if record is None or record.value is None:
            self.wrong.append(f"{where} is not there")
            return None
        segment = self.reader.read(record.value, "segment").fields
        same = all(segment[name] == ref[name] for name in ("number", "first_seq", "index"))
        if segment["stream_id"] != self.stream_id or not same or segment["count"] < ref["count"]:
            self.wrong.append(f"{where} is another one than its position says")
            return None
        if sha256(segment["data"]).digest() != segment["digest"]:
            self.wrong.append(f"{where} does not have its digest")
            return None
        data = bytes(cramjam.zstd.decompress(segment["data"]))
        if len(data) != segment["raw_bytes"]:
            self.wrong.append(f"{where} has {len(data)} bytes instead of {segment['raw_bytes']}")
        return data


def _columns(fields: Mapping[str, Any]) -> list[Item]:
    items, at = [], 0
    sizes, payloads = fields["sizes"], fields["payloads"]
    for number, kind in enumerate(fields["kinds"]):
        size = int.from_bytes(sizes[number * _SIZE_BYTES : (number + 1) * _SIZE_BYTES], "little")
        content_type = fields["content_types"][fields["content_type_of"][number]]
        items.append(Item(_KINDS[kind], payloads[at : at + size], content_type))
        at += size
    return items


def _check_content(
    stream_id: str, state: Mapping[str, Any], found: Sequence[tuple[int, Item]], stream: Stream, sealed: Sealed
) -> None:
    """Segments are the content from 0 to the state's next seq, without hole or overlap, unless a later rewind took it."""
    sealed.chunks += len(found)
    if len(found) != state["next_seq"]:
        sealed.wrong.append(f"{stream_id}: {len(found)} chunks are sealed, its state says {state['next_seq']}")
    upto = min(len(found), stream.untouched_since(state["offset"]))
    wrong = [
        place
        for place, (seq, item) in enumerate(found[:upto])
        if seq != place or stream.content[place : place + 1] != [item]
    ]
    if wrong:
        sealed.wrong.append(
            f"{stream_id}: {len(wrong)} of {len(found)} sealed chunks are not the stream's, the first at seq {wrong[0]}"
        )


def _check_commits(commits: Iterable[Commit], streams: Mapping[str, Stream], sealed: Sealed) -> None:
    """What the archiver's commits pass is in the states: Kafka may delete it."""
    committed = {commit.partition: commit.offset for commit in commits}
    for stream_id, stream in streams.items():
        passed = [offset for offset in set(stream.offsets) if offset < committed.get(stream.partition, 0)]
        _, state = sealed.states.get(stream_id, (0, {"offset": 0}))
        if passed and max(passed) >= state["offset"]:
            sealed.wrong.append(
                f"{stream_id}: the archiver's commit {committed[stream.partition]} passed its record {max(passed)}, "
                f"its state ends at {state['offset']}"
            )
