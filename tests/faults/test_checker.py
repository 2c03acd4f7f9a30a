"""The checker on logs written by hand: it passes what is right, and names each thing that is wrong."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from typing import Any

import cramjam
import fastavro
import pytest
from fastavro.schema import fingerprint, to_parsing_canonical_form
from tests.faults.avro import MAGIC, SCHEMAS, Reader, Unreadable
from tests.faults.checker import Raw, Report, Topics, judge
from tests.faults.evidence import Evidence, Job, Seen
from tests.faults.plugins.fault_payload import digests
from tests.faults.rawlog import Commit

STREAM = "s-1"
DIGESTS = digests(STREAM, 20)


def _encode(schema_file: str, value: dict[str, Any]) -> bytes:
    schema = json.loads((SCHEMAS / f"{schema_file}.avsc").read_bytes())
    sink = BytesIO()
    fastavro.schemaless_writer(sink, fastavro.parse_schema(schema), value)
    mark = bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))
    return MAGIC + mark + sink.getvalue()


def _data(index: int, nonce: str = "") -> tuple[str, bytes]:
    return "data", json.dumps({"k": STREAM, "i": index, "d": DIGESTS[index], "r": nonce, "x": ""}).encode()


@dataclass
class Log:
    """One partition of ``apex.chunks``, one of events, one of assignments; written as a correct runner does unless told."""

    chunks: list[Raw] = field(default_factory=list)
    events: list[Raw] = field(default_factory=list)
    hash: bytes = bytes(16)
    at_ms: int = 1000

    def put(
        self,
        first_seq: int,
        *chunks: tuple[str, bytes],
        attempt: int = 1,
        writer: str = "w1",
        checkpoint: bytes | None = None,
        hash_: bytes | None = None,
    ) -> bytes:
        fence = chunks[0][0] in {"claim", "resume"}
        fields = {
            "stream_id": STREAM,
            "attempt": attempt,
            "writer": writer,
            "first_seq": first_seq,
            "chunks": [
                {"kind": kind, "event_time_us": 1, "content_type": "", "payload": payload} for kind, payload in chunks
            ],
            "checkpoint": checkpoint,
            "hash": bytes(16),
        }
        unhashed = _encode("chunk-run.v1", fields)[:-16]
        chained = sha256((self.hash if hash_ is None else hash_) + unhashed[10:]).digest()[:16]
        own = (bytes(16) if hash_ is None else hash_) if fence else chained
        self.at_ms += 1
        self.chunks.append(Raw(0, len(self.chunks), self.at_ms, STREAM.encode(), unhashed + own))
        self.hash = self.hash if fence else own
        return own

    def event(self, change: str, attempt: int = 1) -> None:
        self.at_ms += 1
        fields = {"task_id": STREAM, "change": change, "at_us": 1, "attempt": attempt, "by": "w"}
        value = _encode("task-event.v2", {**fields, "reason": "", "detail": b""})
        self.events.append(Raw(0, len(self.events), self.at_ms, STREAM.encode(), value))

    def first_three(self) -> None:
        self.put(0, ("claim", b""))
        self.put(0, _data(0))
        self.put(1, _data(1), _data(2))

    def end(self, seq: int = 5, **more: Any) -> None:
        self.put(seq, ("complete", b"{}"), **more)
        self.event("completed", more.get("attempt", 1))

    def whole(self) -> "Log":
        self.first_three()
        self.put(3, _data(3), _data(4))
        self.end()
        return self


def _judge(log: Log, *, seen: list[Seen] | None = None, action: str = "deterministic", **topics: Any) -> Report:
    job = Job(task_id=STREAM, action=action, plan={"key": STREAM, "n": 5})
    evidence = Evidence(jobs=[job], accepted=[STREAM], seen=seen or [])
    submitted = [Raw(0, 0, 1, STREAM.encode(), b"")]
    return judge(Topics(chunks=log.chunks, events=log.events, tasks=submitted, **topics), evidence)


def _frames(*indices: int, end: bool = True) -> list[str]:
    updates = [
        json.dumps({"type": "stream_update", "stream_id": STREAM, "seq": seq, "data": json.loads(_data(index)[1])})
        for seq, index in enumerate(indices)
    ]
    last = json.dumps({"type": "stream_complete", "stream_id": STREAM, "seq": len(indices)})
    return updates + ([last] if end else [])


def test_a_whole_stream_passes():
    report = _judge(Log().whole(), seen=[Seen(stream_id=STREAM, viewer="v", frames=_frames(0, 1, 2, 3, 4), ended=True)])
    assert report.ok, str(report)
    assert (report.streams, report.chunks, report.attempts) == (1, 6, 1)


def test_an_attempt_that_goes_on_at_the_next_seq_passes():
    log = Log()
    log.first_three()
    log.put(-1, ("claim", b""), attempt=2, writer="w2")
    log.put(3, _data(3), attempt=1)  # a zombie's
    log.hash = _hash_of(log.chunks[2])
    log.put(3, ("resume", b""), attempt=2, writer="w2", hash_=log.hash)
    log.put(3, _data(3), _data(4), attempt=2, writer="w2")
    log.end(attempt=2, writer="w2")
    report = _judge(log)
    assert report.ok, str(report)
    assert (report.attempts, report.rewinds, report.dead) == (2, 0, 1)


def test_a_rewind_to_a_checkpoint_passes_and_what_it_took_back_is_no_loss():
    log = Log()
    log.put(0, ("claim", b""))
    kept = log.put(0, _data(0), _data(1), checkpoint=b"state")
    log.put(2, _data(2))
    log.put(-1, ("claim", b""), attempt=2, writer="w2")
    log.put(2, ("resume", b""), attempt=2, writer="w2", hash_=kept)
    log.hash = kept
    log.put(2, _data(2), _data(3), _data(4), attempt=2, writer="w2")
    log.end(attempt=2, writer="w2")
    before = _frames(0, 1, 2, end=False)[2]
    seen = Seen(stream_id=STREAM, viewer="v", frames=_frames(0, 1, 2, 3, 4), forgotten=[(2, before)], ended=True)
    report = _judge(log, seen=[seen])
    assert report.ok, str(report)
    assert report.rewinds == 1


def _lost(log: Log) -> None:
    log.first_three()
    log.put(3, _data(4))
    log.end(seq=4)


def _repeated(log: Log) -> None:
    log.first_three()
    log.put(3, _data(2), _data(3), _data(4))
    log.end(seq=6)


def _disordered(log: Log) -> None:
    log.first_three()
    log.put(3, _data(4), _data(3))
    log.end()


def _unchained(log: Log) -> None:
    log.first_three()
    log.put(3, _data(3), _data(4), hash_=b"x" * 16)
    log.end()


def _never_closed(log: Log) -> None:
    log.first_three()
    log.event("completed")


def _resumed_nowhere(log: Log) -> None:
    log.first_three()
    log.put(-1, ("claim", b""), attempt=2, writer="w2")
    log.put(1, ("resume", b""), attempt=2, writer="w2", hash_=_hash_of(log.chunks[1]))


def _resumed_with_another_hash(log: Log) -> None:
    log.first_three()
    log.put(-1, ("claim", b""), attempt=2, writer="w2")
    log.put(3, ("resume", b""), attempt=2, writer="w2", hash_=b"y" * 16)


def _unclaimed(log: Log) -> None:
    log.first_three()
    log.put(3, _data(3), attempt=2, writer="w2")


def _between_claim_and_resume(log: Log) -> None:
    log.first_three()
    log.put(-1, ("claim", b""), attempt=2, writer="w2")
    log.put(3, _data(3), attempt=2, writer="w2")


def _claimed_closed(log: Log) -> None:
    log.whole()
    log.put(-1, ("claim", b""), attempt=2, writer="w2")
    log.put(0, ("resume", b""), attempt=2, writer="w2")


def _ended_early(log: Log) -> None:
    log.first_three()
    log.event("completed")
    log.at_ms += 5
    log.put(3, _data(3), _data(4))
    log.put(5, ("complete", b"{}"))


def _ended_otherwise(log: Log) -> None:
    log.whole()
    log.event("failed")


def _other_content(log: Log) -> None:
    log.first_three()
    log.put(3, ("data", _data(3)[1].replace(DIGESTS[3].encode(), b"0" * 16)), _data(4))
    log.end()


@pytest.mark.parametrize(
    ("write", "complaint"),
    [
        (_lost, "1 are missing"),
        (_repeated, "1 are repeated"),
        (_disordered, "1 are out of order"),
        (_unchained, "does not continue the chain"),
        (_never_closed, "not closed"),
        (_resumed_nowhere, "goes on neither at the next seq"),
        (_resumed_with_another_hash, "does not have the hash of the place"),
        (_unclaimed, "written before its claim"),
        (_between_claim_and_resume, "between claim and resume"),
        (_claimed_closed, "made when the stream was closed"),
        (_ended_early, "before w1 closed its stream"),
        (_ended_otherwise, "its events disagree"),
        (_other_content, "is not what was yielded"),
    ],
)
def test_what_is_wrong_in_a_log_is_named(write: Callable[[Log], None], complaint: str):
    log = Log()
    write(log)
    report = _judge(log)
    assert any(complaint in violation for violation in report.violations), str(report)


@pytest.mark.parametrize(
    ("frames", "complaint"),
    [
        (_frames(0, 1, 2, 3), "5 frames instead of 6"),
        (_frames(0, 1, 2, 3, 4)[:-1], "5 frames instead of 6"),
        (_frames(0, 1, 1, 2, 3, 4), "7 frames instead of 6"),
        (_frames(0, 2, 1, 3, 4), "from seq 1"),
    ],
    ids=["chunk missing", "end missing", "chunk twice", "disorder"],
)
def test_a_viewer_that_was_shown_something_else_is_named(frames: list[str], complaint: str):
    report = _judge(Log().whole(), seen=[Seen(stream_id=STREAM, viewer="v", frames=frames, ended=True)])
    assert any(complaint in violation for violation in report.violations), str(report)


def test_a_chunk_that_only_a_zombie_wrote_must_not_have_been_shown():
    log = Log()
    log.first_three()
    log.put(-1, ("claim", b""), attempt=2, writer="w2")
    log.put(3, _data(4), attempt=1)
    log.hash = _hash_of(log.chunks[2])
    log.put(3, ("resume", b""), attempt=2, writer="w2", hash_=log.hash)
    log.put(3, _data(3), _data(4), attempt=2, writer="w2")
    log.end(attempt=2, writer="w2")
    zombies = _frames(0, 1, 2, 4, end=False)[3]
    seen = Seen(stream_id=STREAM, viewer="v", frames=_frames(0, 1, 2, 3, 4), forgotten=[(3, zombies)], ended=True)
    report = _judge(log, seen=[seen])
    assert report.lost == 1
    assert any("what is not in the log" in violation for violation in report.violations)


def test_two_executions_of_a_restarted_stream_must_not_mix():
    log = Log()
    log.put(0, ("claim", b""))
    log.put(0, _data(0, "a"), _data(1, "a"))
    log.put(-1, ("claim", b""), attempt=2, writer="w2")
    log.put(2, ("resume", b""), attempt=2, writer="w2", hash_=log.hash)
    log.put(2, *(_data(index, "b") for index in (2, 3, 4)), attempt=2, writer="w2")
    log.end(attempt=2, writer="w2")
    report = _judge(log, action="restart")
    assert any("2 executions" in violation for violation in report.violations), str(report)


@pytest.mark.parametrize(
    ("commits", "complaint"),
    [
        ([(1, 0)], "passed its assignment 0"),
        ([], "the commit stands at None"),
        ([(1, 9000), (0, 9001)], "a commit of 0 after one of 1"),
    ],
)
def test_a_commit_that_breaks_the_rule_is_named(commits: list[tuple[int, int]], complaint: str):
    task = {"task_id": STREAM, "plugin": "p", "action": "a", "params": b"{}", "tier": "normal", "submitted_us": 1}
    assignment = _encode("assignment.v2", {"task": {**task, "options": b""}, "attempt": 1, "assigned_us": 1})
    report = _judge(
        Log().whole(),
        assignments=[Raw(3, 0, 1, b"", assignment)],
        commits=[Commit("apex.runners", "apex.assignments", 3, offset, "", at_ms) for offset, at_ms in commits],
    )
    assert any(complaint in violation for violation in report.violations), str(report)


def _assigned(offset: int, epoch: int) -> Raw:
    task = {"task_id": STREAM, "plugin": "p", "action": "a", "params": b"{}", "tier": "normal", "submitted_us": 1}
    task |= {"options": b"", "tenant": "", "scheduling": b"", "members": b"", "traceparent": ""}
    fields = {"task": task, "attempt": 1, "assigned_us": 1, "epoch": epoch}
    return Raw(3, offset, 1, STREAM.encode(), _encode("assignment.v5", fields))


@pytest.mark.parametrize("committed", [2, 3, 4])
def test_claims_and_dead_assignments_may_be_passed_before_the_task_is_done(committed: int):
    """A dispatcher claims with epoch 2; what one of epoch 1 still assigns is dead, and the task is assigned anew."""
    claims = [Raw(3, 0, 1, b"claim/1/a", None), Raw(3, 1, 1, b"claim/2/b", None)]
    assignments = [*claims, _assigned(2, epoch=1), _assigned(3, epoch=2)]
    early = [Commit("apex.runners", "apex.assignments", 3, committed, "", 2)]
    done = [Commit("apex.runners", "apex.assignments", 3, 4, "", 9000)]

    report = _judge(Log().whole(), assignments=assignments, commits=early + done)

    passed = [violation for violation in report.violations if "passed its assignment" in violation]
    assert bool(passed) is (committed == 4), str(report)  # only the live one holds the commit back


def test_an_acknowledged_submission_that_is_not_in_the_log_is_lost():
    report = judge(Topics(), Evidence(accepted=["gone"]))
    assert report.lost == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({}, ""),
        ({"items": [*map(_data, (0, 2, 1, 3, 4)), ("complete", b"{}")]}, "2 of 6 sealed chunks are not the stream's"),
        ({"items": [*map(_data, range(5))]}, "5 chunks are sealed, its state says 6"),
        ({"digest": bytes(32)}, "does not have its digest"),
        ({"first_seq": 1}, "another one than its position says"),
        ({"state": {"data_count": 6}}, "says {'data_count': 6}, the log says {'data_count': 5}"),
        ({"state": {"status": "open"}}, "says {'status': 'open'}"),
        ({"ref_offset": 9}, "is not there"),
    ],
    ids=["right", "content", "length", "digest", "position", "count", "status", "missing"],
)
def test_sealed_streams_are_compared_with_the_log(change: dict[str, Any], complaint: str):
    log = Log().whole()
    report = _judge(log, **_sealed(log, **change))
    assert report.sealed_streams == 1
    if complaint:
        assert any(complaint in violation for violation in report.violations), str(report)
    else:
        assert report.ok, str(report)


def test_what_a_deposed_archiver_writes_does_not_count():
    log = Log().whole()
    report = _judge(log, **_sealed(log, epoch=0, state={"next_seq": 99}))
    assert report.ok, str(report)
    assert report.sealed_streams == 0


def test_what_the_archiver_has_committed_must_be_sealed():
    log = Log().whole()
    passed = [Commit("apex.archivers", "apex.chunks", 0, len(log.chunks), "", 9000)]
    report = _judge(log, commits=passed)
    assert any("the archiver's commit 5 passed its record 4" in violation for violation in report.violations), str(
        report
    )
    assert _judge(log, commits=passed, **_sealed(log)).ok


def _sealed(
    log: Log,
    items: list[tuple[str, bytes]] | None = None,
    digest: bytes | None = None,
    first_seq: int = 0,
    state: dict[str, Any] | None = None,
    ref_offset: int = 0,
    epoch: int = 1,
) -> dict[str, list[Raw]]:
    """One segment of the whole stream, and a state that names it; before them, the archiver's claim of epoch 1."""
    data = _columns(items or [*map(_data, range(5)), ("complete", b"{}")])
    packed = bytes(cramjam.zstd.compress(data))
    place = {"number": 0, "first_seq": 0, "count": 6, "index": False}
    segment = {**place, "stream_id": STREAM, "first_seq": first_seq, "raw_bytes": len(data), "data": packed}
    segment["digest"] = sha256(packed).digest() if digest is None else digest
    newest = _state(log, [{**place, "offset": ref_offset, "size_bytes": len(packed)}], epoch) | (state or {})
    claim = {"partition": 0, "epoch": 1, "archiver": "a", "sealed_to": 0, "segments_to": 0, "control_to": 0, "at_us": 1}
    return {
        "segments": [Raw(0, 0, 1, f"{STREAM}/0".encode(), _encode("segment.v1", segment))],
        "states": [
            Raw(0, 0, 1, b"!0", _encode("archive-progress.v1", claim)),
            Raw(0, 1, 1, STREAM.encode(), _encode("stream-state.v1", newest)),
        ],
    }


def _columns(items: list[tuple[str, bytes]]) -> bytes:
    kinds = ("data", "progress", "complete", "error", "cancelled")
    columns = {
        "kinds": bytes(kinds.index(kind) for kind, _ in items),
        "sizes": b"".join(len(payload).to_bytes(4, "little") for _, payload in items),
        "times": bytes(8 * len(items)),
        "content_types": [""],
        "content_type_of": bytes(len(items)),
        "payloads": b"".join(payload for _, payload in items),
    }
    return _encode("segment-chunks.v1", columns)


def _state(log: Log, segments: list[dict[str, Any]], epoch: int) -> dict[str, Any]:
    return {
        "stream_id": STREAM,
        "status": "complete",
        "epoch": epoch,
        "offset": len(log.chunks),
        "attempt": 1,
        "writer": "w1",
        "fenced": False,
        "next_seq": 6,
        "data_count": 5,
        "hash": log.hash,
        "checkpoint": None,
        "checkpoint_seq": 0,
        "checkpoint_hash": bytes(16),
        "checkpoint_data_count": 0,
        "checkpoint_attempt": 0,
        "claims": [],
        "rewinds": 0,
        "rewound_to": 0,
        "rewound_from": 0,
        "segments": segments,
        "payload_bytes": 1,
        "created_us": 1,
        "updated_us": 1,
        "ended_us": 1,
        "expires_us": 0,
        "options": b"",
    }


def test_bytes_that_are_no_record_are_not_read():
    reader = Reader()
    for value in (None, b"", b"\xff" * 40, MAGIC + bytes(30), Log().whole().chunks[0].value + b"x"):
        with pytest.raises(Unreadable):
            reader.read(value, "chunk-run")


def _hash_of(record: Raw) -> bytes:
    assert record.value is not None
    return record.value[-16:]
