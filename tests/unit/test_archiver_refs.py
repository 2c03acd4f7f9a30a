"""Lists of positions stay short, lose nothing in pages, and are cut exactly."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.archiver.refs import REFS_MAX, cut_at, overfull
from apexstream.core.events import SegmentRef
from apexstream.log.segments import check_dense

Pages = dict[int, list[SegmentRef]]


def ref(number: int, first_seq: int, count: int, *, index: bool = False) -> SegmentRef:
    return SegmentRef(offset=number, number=number, first_seq=first_seq, count=count, size_bytes=1, index=index)


def grown(segments: list[SegmentRef], pages: Pages, counts: list[int]) -> list[SegmentRef]:
    """``segments`` and further ones of ``counts`` chunks each, folded into ``pages`` whenever they are too many."""
    for count in counts:
        seq = segments[-1].first_seq + segments[-1].count if segments else 0
        segments = [*segments, ref(len(pages) * 1_000_000 + len(segments), seq, count)]
        while (chosen := overfull(segments)) is not None:
            below = segments[chosen]
            number = -1 - len(pages)
            pages[number] = below
            segments[chosen] = [ref(number, below[0].first_seq, sum(each.count for each in below), index=True)]
    return segments


def cut(segments: list[SegmentRef], pages: Pages, seq: int) -> list[SegmentRef]:
    """As the sealer does it: a torn page is replaced by what it lists, cut in its place."""
    done = cut_at(segments, seq)
    kept = list(done.kept)
    while done.torn is not None:
        done = cut_at(pages[done.torn.number], seq)
        kept += done.kept
    return kept


def leaves(segments: list[SegmentRef], pages: Pages) -> list[SegmentRef]:
    found = []
    for each in segments:
        found += leaves(pages[each.number], pages) if each.index else [each]
    return found


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=2000), st.floats(0, 1), st.lists(st.integers(1, 3), max_size=600)
)
def test_positions_grow_are_cut_and_grow_again_without_a_hole(
    before: list[int], where: float, after: list[int]
) -> None:
    pages: Pages = {}
    total = sum(before)
    seq = int(total * where)

    segments = grown([], pages, before)
    assert len(segments) <= REFS_MAX
    check_dense(leaves(segments, pages), 0, total)
    segments = cut(segments, pages, seq)
    check_dense(segments, 0, seq)
    check_dense(leaves(segments, pages), 0, seq)
    segments = grown(segments, pages, after)
    assert len(segments) <= REFS_MAX
    check_dense(leaves(segments, pages), 0, seq + sum(after))


def test_pages_of_pages_keep_a_very_long_stream_short() -> None:
    pages: Pages = {}

    segments = grown([], pages, [1] * 40_000)

    assert len(segments) <= REFS_MAX
    assert any(below[0].index for below in pages.values())
    assert len(leaves(segments, pages)) == 40_000


def test_a_segment_across_the_cut_stays_and_counts_for_less() -> None:
    segments = [ref(0, 0, 10), ref(1, 10, 10), ref(2, 20, 10)]

    done = cut_at(segments, 13)

    assert done.kept == (segments[0], msgspec.structs.replace(segments[1], count=3))
    assert done.dropped == (segments[2],)
    assert done.torn is None


def test_a_cut_between_segments_tears_nothing() -> None:
    segments = [ref(0, 0, 10), ref(1, 10, 10, index=True)]

    assert cut_at(segments, 10).kept == (segments[0],)
    assert cut_at(segments, 10).dropped == (segments[1],)
    assert cut_at(segments, 0).dropped == tuple(segments)
    assert cut_at(segments, 11).torn == segments[1]
