"""The list of positions in a stream's state: cut where the stream went back, folded into pages when it grows. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from apexstream.core.events import SegmentRef

REFS_MAX = 256  # positions in a state; it is written with every segment
PAGE_REFS = 128  # positions in a page


@dataclass(frozen=True, slots=True)
class Cut:
    """``kept`` hold the chunks before the cut, ``dropped`` none of them. ``torn`` is a page that holds some: what it lists has
    to be cut in its place."""

    kept: tuple[SegmentRef, ...]
    dropped: tuple[SegmentRef, ...]
    torn: SegmentRef | None


def cut_at(segments: Sequence[SegmentRef], seq: int) -> Cut:
    """Leave ``segments`` only what lies before ``seq``. A segment that lies across it stays and counts for less."""
    kept: list[SegmentRef] = []
    torn: SegmentRef | None = None
    for ref in segments:
        if ref.first_seq + ref.count <= seq:
            kept.append(ref)
        elif ref.first_seq < seq:
            if ref.index:
                torn = ref
            else:
                kept.append(msgspec.structs.replace(ref, count=seq - ref.first_seq))
    return Cut(tuple(kept), tuple(ref for ref in segments if ref.first_seq >= seq), torn)


def overfull(segments: Sequence[SegmentRef]) -> slice | None:
    """Which of ``segments`` to fold into one page, if they are too many: the oldest of the more frequent kind.

    Pages come before segments, so both lie together.
    """
    if len(segments) <= REFS_MAX:
        return None
    pages = sum(ref.index for ref in segments)
    start = 0 if pages > REFS_MAX // 2 else pages
    return slice(start, start + PAGE_REFS)
