"""The archiver: seals folded chunks into segments, and applies retention and erasure.

It fences a partition the way an attempt fences a stream: a claim in the log, from whose place on nothing counts that an
archiver of a lower epoch writes. Then it works in one order only: segments, then states, then progress, each acknowledged
before the next, so that whatever is killed, its successor finds a prefix and goes on from there.

:mod:`stream` (one stream between two states) and :mod:`refs` (lists of positions) are pure, :mod:`claim` fences a partition,
:mod:`seal` writes, :mod:`partition` is the loop of one partition, :mod:`service` has those that this member owns.
"""
