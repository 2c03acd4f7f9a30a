"""Committed offsets never pass unfinished work, and what is finished beyond them is not done again."""

from hypothesis import given
from hypothesis import strategies as st

from apexstream.log.ledger import METADATA_BYTES_MAX, OffsetLedger


def test_nothing_to_commit_before_anything_was_taken():
    assert OffsetLedger().commit() is None


def test_the_commit_stops_at_the_first_unfinished_offset_and_names_what_is_finished_beyond():
    ledger = OffsetLedger()
    for offset in (3, 5, 6, 9):
        ledger.take(offset)
    ledger.finish(5)
    ledger.finish(6)
    assert ledger.commit() == (3, "3:2-3")
    ledger.finish(3)
    assert ledger.commit() == (9, "")
    ledger.finish(9)
    assert ledger.commit() == (10, "")


def test_a_commit_is_due_once():
    ledger = OffsetLedger()
    ledger.take(0)
    ledger.finish(0)
    ledger.committed((1, ""))
    assert ledger.commit() is None


def test_work_delivered_again_is_not_taken_again():
    ledger = OffsetLedger()
    assert ledger.take(4)
    assert not ledger.take(4)
    assert not ledger.take(2)


def test_unreadable_metadata_means_nothing_is_known():
    for metadata in ("x", "5:a-b", ":", "nonsense:1"):
        assert OffsetLedger(metadata).take(6)


@given(st.lists(st.integers(0, 50), unique=True, min_size=1).map(sorted), st.randoms())
def test_in_any_order_of_finishing_everything_before_the_commit_is_finished(offsets, rng):
    ledger, unfinished = OffsetLedger(), set(offsets)
    for offset in offsets:
        ledger.take(offset)
    for offset in rng.sample(offsets, len(offsets)):
        ledger.finish(offset)
        unfinished.discard(offset)
        at, metadata = ledger.commit()
        assert at == min(unfinished, default=offsets[-1] + 1)
        successor = OffsetLedger(metadata)
        assert {o for o in offsets if o >= at and successor.take(o)} == unfinished


def test_metadata_is_bounded_and_never_claims_unfinished_work():
    ledger, finished = OffsetLedger(), set(range(1, 20_000, 3))
    for offset in range(20_001):
        ledger.take(offset)
    for offset in finished:
        ledger.finish(offset)
    at, metadata = ledger.commit()
    assert at == 0
    assert 3_000 < len(metadata) <= METADATA_BYTES_MAX
    successor = OffsetLedger(metadata)
    assert {offset for offset in range(20_001) if not successor.take(offset)} < finished


def test_the_epoch_of_a_commit_is_the_one_that_held_at_its_offset():
    ledger = OffsetLedger()
    ledger.take(0)  # given out under epoch 0, and still running
    ledger.claim(1, 7)
    ledger.take(1)
    ledger.finish(1)
    assert ledger.epoch == 7
    assert ledger.commit() == (0, "0:1")
    successor = OffsetLedger("0:1")
    assert successor.epoch == 0  # so that the record at 0 still counts
    successor.claim(1, 7)  # delivered again with it
    assert not successor.take(1)
    assert successor.epoch == 7

    ledger.finish(0)
    assert ledger.commit() == (2, ";7")
    assert OffsetLedger(";7").epoch == 7


def test_an_older_claim_does_not_lower_the_epoch():
    ledger = OffsetLedger("4:2-3;9")
    ledger.claim(5, 8)
    assert ledger.epoch == 9
    assert not ledger.take(6)
    assert ledger.take(8)
    assert ledger.commit() == (8, ";9")
