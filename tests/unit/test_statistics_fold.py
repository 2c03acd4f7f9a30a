"""Windows of statistics: what they count, that coming again changes nothing, that they stay bounded."""

import random
from collections.abc import Iterable, Sequence

import pytest
from tests.support.streams import CODEC

from apexstream.core.chunk import FROM_UNKNOWN, Chunk, ChunkRun, Kind
from apexstream.core.claims import ClaimWords
from apexstream.core.events import Scope, TaskChange, TaskEvent, WindowStats
from apexstream.core.widths import RETENTION_S, TOTALS, US
from apexstream.processors.stats import fold
from apexstream.processors.stats.fold import SHORT_MAX, PartitionStats
from apexstream.processors.stats.windows import Key, partition_of

BEGAN = 1_795_000_000 * US  # a whole minute and hour would hide mistakes: it is neither
WORDS = ClaimWords(action="shop.orders", tenant="acme").encode()


def claim(stream_id: str, at_us: int, *, attempt: int = 1, first_seq: int = 0) -> ChunkRun:
    return ChunkRun(stream_id, attempt, f"w{attempt}", first_seq, (Chunk(Kind.CLAIM, WORDS, at_us),))


def chunks(stream_id: str, seq: int, times: Sequence[int], *, attempt: int = 1, last: Kind = Kind.DATA) -> ChunkRun:
    kinds = [Kind.DATA] * (len(times) - 1) + [last]
    found = tuple(Chunk(kind, b"12345", at) for kind, at in zip(kinds, times, strict=True))
    return ChunkRun(stream_id, attempt, f"w{attempt}", seq, found)


class Log:
    """A partition of chunks, appended by the broker's clock, and the statistics' changelog of it."""

    def __init__(self) -> None:
        self.records: list[tuple[int, ChunkRun | TaskEvent]] = []
        self.table: dict[Key, WindowStats] = {}

    def add(self, append_us: int, *records: ChunkRun | TaskEvent) -> None:
        self.records += [(append_us, record) for record in records]

    def feed(self, book: PartitionStats, start: int = 0, end: int | None = None) -> PartitionStats:
        for offset, (append_us, record) in list(enumerate(self.records))[start:end]:
            if isinstance(record, ChunkRun):
                book.run(offset, append_us, record)
            else:
                book.event(offset, append_us, record)
        return book

    def flush(self, book: PartitionStats, kept: int | None = None) -> None:
        for key, window in book.changes()[:kept]:
            if window is None:
                self.table.pop(key, None)
            else:
                self.table[key] = CODEC.decode(CODEC.encode(window), WindowStats)


def of(rows: Iterable[WindowStats], scope: Scope, width_s: int) -> list[WindowStats]:
    return sorted((r for r in rows if r.scope is scope and r.width_s == width_s), key=lambda r: (r.name, r.start_us))


def whole(log: Log) -> dict[Key, WindowStats]:
    """The table after everything was counted in one go."""
    other = Log()
    other.records = log.records
    other.flush(other.feed(PartitionStats(3)))
    return other.table


def test_chunks_count_in_the_second_minute_and_hour_in_which_they_were_yielded():
    log = Log()
    log.add(BEGAN, claim("s", BEGAN))
    log.add(BEGAN + 61 * US, chunks("s", 0, [BEGAN + US, BEGAN + 2 * US, BEGAN + 61 * US]))
    table = whole(log).values()
    assert [(w.start_us - BEGAN, w.chunks) for w in of(table, Scope.STREAM, 1)] == [
        (0, 0),
        (US, 1),
        (2 * US, 1),
        (61 * US, 1),
    ]
    assert sum(w.chunks for w in of(table, Scope.STREAM, 60)) == sum(w.chunks for w in of(table, Scope.ACTION, 60)) == 3
    (hour,) = of(table, Scope.ACTION, 3600)
    assert (hour.name, hour.tenant, hour.chunks, hour.payload_bytes, hour.claims) == ("shop.orders", "acme", 3, 15, 1)
    assert (hour.gap_max_us, hour.latency_count, hour.latency_max_us) == (59 * US, 1, 60 * US)


def test_task_events_count_for_the_action_that_the_runner_names():
    log = Log()
    for change in (TaskChange.STARTED, TaskChange.RETRYING, TaskChange.FAILED, TaskChange.ASSIGNED):
        event = TaskEvent(task_id="s", change=change, at_us=BEGAN, attempt=1, by="r", action="shop.orders")
        log.add(BEGAN, event)
    log.add(BEGAN, TaskEvent(task_id="s", change=TaskChange.CANCELLED, at_us=BEGAN, attempt=0, by="dispatcher"))
    (second,) = of(whole(log).values(), Scope.ACTION, 1)
    assert (second.started, second.retried, second.failed, second.cancelled) == (1, 1, 1, 0)


def test_what_an_attempt_writes_after_it_lost_the_stream_does_not_count():
    log = Log()
    log.add(BEGAN, claim("s", BEGAN), chunks("s", 0, [BEGAN, BEGAN]))
    log.add(BEGAN, claim("s", BEGAN, attempt=2, first_seq=FROM_UNKNOWN), chunks("s", 2, [BEGAN]))
    log.add(BEGAN, ChunkRun("s", 2, "w2", 0, (Chunk(Kind.RESUME, b"", BEGAN),)))
    log.add(BEGAN, chunks("s", 0, [BEGAN], attempt=2, last=Kind.COMPLETE), chunks("s", 2, [BEGAN]))
    (totals,) = of(whole(log).values(), Scope.STREAM, TOTALS)
    assert (totals.chunks, totals.claims, totals.rewinds, totals.completed) == (2, 2, 1, 1)


def test_a_clock_that_runs_ahead_of_the_broker_counts_as_the_broker_s():
    log = Log()
    log.add(BEGAN, claim("s", BEGAN), chunks("s", 0, [BEGAN + 900 * US]))
    (second,) = of(whole(log).values(), Scope.STREAM, 1)
    assert (second.start_us, second.latency_max_us) == (BEGAN, 0)


@pytest.mark.parametrize("seed", range(8))
def test_windows_are_the_same_however_often_it_crashed_and_read_again(seed: int):
    draw = random.Random(seed)
    log = Log()
    for number in range(5):
        log.add(BEGAN, claim(f"s{number}", BEGAN))
    seqs = [0] * 5
    for step in range(150):
        at = BEGAN + step * US // 3
        number, count = draw.randrange(5), draw.randint(1, 4)
        log.add(at, chunks(f"s{number}", seqs[number], [at - draw.randint(0, 2 * US) for _ in range(count)]))
        seqs[number] += count
        if draw.random() < 0.2:
            change = draw.choice([TaskChange.STARTED, TaskChange.PARKED])
            log.add(at, TaskEvent(task_id="s", change=change, at_us=at, attempt=1, by="r", action="shop.orders"))
    acknowledged = 0
    while acknowledged < len(log.records):
        book = PartitionStats(3, log.table.values())
        for _ in range(draw.randint(1, 4)):
            upto = min(len(log.records), acknowledged + draw.randint(1, 30))
            log.feed(book, acknowledged, upto)
            if draw.random() < 0.4:
                log.flush(book, kept=draw.randint(0, 25))  # and then it dies
                break
            log.flush(book)
            acknowledged = upto
    assert log.table == whole(log)


def test_windows_go_when_their_time_is_over():
    log, book = Log(), PartitionStats(3)
    end = BEGAN + (RETENTION_S[Scope.ACTION][1] + 60) * US
    log.add(BEGAN, claim("s", BEGAN), chunks("s", 0, [BEGAN]))
    log.flush(log.feed(book))
    log.add(end, claim("t", end), chunks("t", 0, [BEGAN]))
    log.flush(log.feed(book, 2))
    assert [w.start_us for w in of(log.table.values(), Scope.ACTION, 1)] == [end]
    assert [w.name for w in of(log.table.values(), Scope.STREAM, 1)] == ["t"]
    assert {w.name for w in of(log.table.values(), Scope.STREAM, TOTALS)} == {"s", "t"}


def test_streams_that_ended_make_room_for_new_ones(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fold, "STREAMS_MAX", 20)
    log, book = Log(), PartitionStats(3)
    for number in range(30):
        ended = Kind.COMPLETE if number < 15 else Kind.DATA
        log.add(BEGAN, claim(f"s{number}", BEGAN), chunks(f"s{number}", 0, [BEGAN], last=ended))
        log.flush(log.feed(book, 2 * number))
    kept = {w.name for w in of(log.table.values(), Scope.STREAM, TOTALS)}
    assert kept == {f"s{number}" for number in range(10, 30)}
    assert {w.name for w in log.table.values() if w.scope is Scope.STREAM} == kept


def test_streams_without_room_count_for_their_action_and_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fold, "STREAMS_MAX", 20)
    monkeypatch.setattr(fold, "GUESTS_MAX", 50)
    log, book = Log(), PartitionStats(3)
    count = 200
    for number in range(count):
        log.add(BEGAN, claim(f"s{number}", BEGAN), chunks(f"s{number}", 0, [BEGAN]))
    for start in range(0, len(log.records), 20):
        log.flush(log.feed(book, start, start + 20))
    (second,) = of(log.table.values(), Scope.ACTION, 1)
    assert second.chunks == count
    assert (len(book._streams), len(book._guests)) == (20, 50)


def test_many_streams_shorter_than_a_flush_write_few_windows():
    log, book = Log(), PartitionStats(3)
    for number in range(500):
        log.add(BEGAN, claim(f"s{number}", BEGAN), chunks(f"s{number}", 0, [BEGAN], last=Kind.COMPLETE))
    log.flush(log.feed(book))
    assert len(of(log.table.values(), Scope.STREAM, TOTALS)) == SHORT_MAX
    assert sum(w.claims for w in of(log.table.values(), Scope.ACTION, 3600)) == 500


def test_a_key_names_its_partition():
    log = Log()
    log.add(BEGAN, claim("s", BEGAN))
    assert {partition_of(key) for key in whole(log)} == {3}
    assert partition_of(b"no such key") == -1
