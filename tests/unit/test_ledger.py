"""Committed offsets never pass unfinished work."""

from hypothesis import given
from hypothesis import strategies as st

from apexstream.log.ledger import OffsetLedger


def test_nothing_to_commit_before_anything_was_taken():
    assert OffsetLedger().commit_offset() is None


def test_the_commit_stops_at_the_first_unfinished_offset():
    ledger = OffsetLedger()
    for offset in (3, 5, 9):
        ledger.take(offset)
    ledger.finish(5)
    assert ledger.commit_offset() == 3
    ledger.finish(3)
    assert ledger.commit_offset() == 9
    ledger.finish(9)
    assert ledger.commit_offset() == 10


def test_a_commit_is_due_once():
    ledger = OffsetLedger()
    ledger.take(0)
    ledger.finish(0)
    ledger.committed(1)
    assert ledger.commit_offset() is None


def test_work_delivered_again_is_not_taken_again():
    ledger = OffsetLedger()
    assert ledger.take(4)
    assert not ledger.take(4)
    assert not ledger.take(2)


@given(st.lists(st.integers(0, 50), unique=True, min_size=1).map(sorted), st.randoms())
def test_in_any_order_of_finishing_everything_before_the_commit_is_finished(offsets, rng):
    ledger, unfinished = OffsetLedger(), set(offsets)
    for offset in offsets:
        ledger.take(offset)
    for offset in rng.sample(offsets, len(offsets)):
        ledger.finish(offset)
        unfinished.discard(offset)
        commit = ledger.commit_offset()
        assert commit == min(unfinished, default=offsets[-1] + 1)
