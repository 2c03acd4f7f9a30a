"""Which states count is decided by their place in the log, and every reader of the same records agrees."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.streams import CODEC

from apexstream.archiver.stream import OpenStream
from apexstream.core.errors import Erased, Expired
from apexstream.core.events import ArchiveProgress, StreamState, StreamStatus
from apexstream.log.index import StreamIndex, check_readable, progress_key
from apexstream.log.view import View

PARTITION = 3


@dataclass(frozen=True)
class Record:
    offset: int
    key: bytes
    value: bytes | None
    timestamp: int = 0


def state(stream_id: str, epoch: int, offset: int = 0, **fields: object) -> StreamState:
    stream = OpenStream(stream_id, None)
    stream.seal()
    assert stream.snapshot is not None
    blank = stream.snapshot.state(stream_id, epoch, (), 0)
    return StreamState(
        **{**{name: getattr(blank, name) for name in blank.__struct_fields__}, "offset": offset, **fields}
    )


def progress(epoch: int, archiver: str, sealed_to: int = 0) -> ArchiveProgress:
    return ArchiveProgress(
        partition=PARTITION,
        epoch=epoch,
        archiver=archiver,
        sealed_to=sealed_to,
        segments_to=0,
        control_to=0,
        at_us=0,
    )


def record_of(event: StreamState | ArchiveProgress, offset: int) -> Record:
    key = progress_key(PARTITION) if isinstance(event, ArchiveProgress) else event.stream_id.encode()
    return Record(offset, key, CODEC.encode(event))


class Index(StreamIndex):
    """An index that is fed by the test instead of a topic."""

    def __init__(self) -> None:
        self.told: list[str] = []
        super().__init__(None, "streams", CODEC, self.told.append)  # type: ignore[arg-type]

    def take(self, *events: StreamState | ArchiveProgress) -> "Index":
        first = self._positions.get(PARTITION, 0)
        self.on_records(("streams", PARTITION), [record_of(event, first + at) for at, event in enumerate(events)])
        return self


@pytest.fixture
def index() -> Iterator[Index]:
    made = Index()
    yield made
    made._db.close()


def test_the_newest_state_counts(index: Index) -> None:
    index.take(progress(1, "a"), state("s", 1, 10), state("t", 1, 11), state("s", 1, 20))

    assert index.get("s") == state("s", 1, 20)
    assert index.get("unknown") is None
    assert len(index) == 2


def test_after_a_claim_what_older_archivers_write_does_not_count(index: Index) -> None:
    index.take(progress(1, "a"), state("s", 1, 10), progress(2, "b"), state("s", 1, 99), state("t", 1, 99))

    assert index.get("s") == state("s", 1, 10)
    assert index.get("t") is None
    assert index.outranked(PARTITION) == {"s", "t"}


def test_what_is_written_anew_is_hidden_no_more(index: Index) -> None:
    index.take(progress(2, "b"), state("s", 1, 99), progress(1, "a"))
    assert index.outranked(PARTITION) == {"s", "!3"}

    index.take(state("s", 2, 10), progress(2, "b", 7))

    assert index.outranked(PARTITION) == frozenset()
    assert index.sealed_to(PARTITION) == 7


def test_of_two_claims_of_one_epoch_the_first_wins(index: Index) -> None:
    index.take(progress(1, "a", 5), progress(1, "b", 9))

    held = index.progress(PARTITION)
    assert held is not None
    assert (held.archiver, index.sealed_to(PARTITION)) == ("a", 5)


def test_states_whose_claim_was_compacted_away_still_count_and_outrank_older_ones(index: Index) -> None:
    index.take(state("s", 4, 10), state("t", 3, 11), progress(6, "c"))

    assert index.get("s") is not None
    assert index.get("t") is None
    assert index.epoch(PARTITION) == 6


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.booleans()), max_size=40))
def test_one_batch_or_many_make_no_difference(moves: list[tuple[int, int, bool]]) -> None:
    events = [
        progress(epoch, f"a{epoch}", at) if claims else state(f"s{stream}", epoch, at)
        for at, (stream, epoch, claims) in enumerate(moves)
    ]
    together, apart = Index().take(*events) if events else Index(), Index()
    for event in events:
        apart.take(event)

    for stream in range(4):
        assert together.get(f"s{stream}") == apart.get(f"s{stream}")
    assert together.outranked(PARTITION) == apart.outranked(PARTITION)
    assert together.progress(PARTITION) == apart.progress(PARTITION)
    together._db.close()
    apart._db.close()


def test_expired_streams_are_found_by_partition_and_time(index: Index) -> None:
    index.take(
        state("never", 1, expires_us=0), state("later", 1, expires_us=2000), *(
            state(f"old{at}", 1, expires_us=1000 - at) for at in range(5)
        )
    )  # fmt: skip

    assert set(index.expired(PARTITION, 1000, 99)) == {f"old{at}" for at in range(5)}
    assert len(index.expired(PARTITION, 1000, 2)) == 2
    assert index.expired(PARTITION + 1, 1000, 99) == []


def test_a_record_that_cannot_be_read_hides_nothing(index: Index) -> None:
    index.take(state("s", 1, 10))
    index.on_records(("streams", PARTITION), [Record(1, b"s", b"garbage"), Record(2, b"s", None)])

    assert index.get("s") == state("s", 1, 10)


async def test_waiting_for_a_place_ends_when_it_is_read(index: Index) -> None:
    index.take(state("s", 1))
    await index.reached(PARTITION, 1)
    waits = [asyncio.create_task(index.reached(PARTITION, offset)) for offset in (2, 3, 9)]
    given_up = asyncio.create_task(index.reached(PARTITION, 2))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)

    index.take(state("s", 1), state("s", 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert [task.done() for task in waits] == [True, True, False]
    waits[2].cancel()


async def test_erased_and_expired_streams_are_told_once_the_past_is_read(index: Index) -> None:
    index._view = View.__new__(View)
    index._view.caught_up = asyncio.Event()
    index.take(state("before", 1, status=StreamStatus.ERASED))
    index._view.caught_up.set()
    index.take(state("a", 1, status=StreamStatus.ERASED), state("b", 1, status=StreamStatus.EXPIRED), state("c", 1))

    assert index.told == ["a", "b"]


def test_content_that_is_gone_is_said_to_be_gone() -> None:
    check_readable(state("s", 1, status=StreamStatus.COMPLETE, expires_us=1000), now_us=999)
    with pytest.raises(Expired):
        check_readable(state("s", 1, status=StreamStatus.COMPLETE, expires_us=1000), now_us=1000)
    with pytest.raises(Expired):
        check_readable(state("s", 1, status=StreamStatus.EXPIRED), now_us=0)
    with pytest.raises(Erased):
        check_readable(state("s", 1, status=StreamStatus.ERASED), now_us=0)
