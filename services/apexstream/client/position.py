"""Where a follower stands in a stream, and what an incoming frame means for it. Pure."""

from dataclasses import dataclass
from enum import Enum, auto

from apexstream.client.frames import Frame, Rewind


class Step(Enum):
    """What to do with a frame."""

    DELIVER = auto()
    DROP = auto()  # was delivered before
    GAP = auto()  # something before it is missing: resume from ``next_seq``


@dataclass(slots=True)
class Position:
    """``next_seq`` is the seq that the follower needs next."""

    next_seq: int = 0

    def take(self, frame: Frame) -> Step:
        """Decide about a frame, and move on if it is delivered."""
        if isinstance(frame, Rewind):
            return self._rewind(frame.seq)
        if frame.seq != self.next_seq:
            return Step.DROP if frame.seq < self.next_seq else Step.GAP
        self.next_seq += 1
        return Step.DELIVER

    def _rewind(self, seq: int) -> Step:
        if seq >= self.next_seq:
            return Step.DROP  # nothing that was delivered is affected
        self.next_seq = seq
        return Step.DELIVER
