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
    """``next_seq`` is the seq that the follower needs next; None before the first frame of one that starts at a cursor.
    ``cursor`` says the same to the gateway, and of how many rewinds the follower knows; empty before the first frame.
    ``sparse``: frames may be left out, as a view does."""

    next_seq: int | None = 0
    cursor: str = ""
    sparse: bool = False

    def take(self, frame: Frame) -> Step:
        """Decide about a frame, and move on if it is delivered."""
        step = self._judge(frame)
        if step is Step.DELIVER:
            self.next_seq = frame.seq if isinstance(frame, Rewind) else frame.seq + 1
            self.cursor = frame.cursor
        return step

    def _judge(self, frame: Frame) -> Step:
        if self.next_seq is None:
            return Step.DELIVER
        if isinstance(frame, Rewind):
            return Step.DELIVER if frame.seq < self.next_seq else Step.DROP  # nothing that was delivered is affected
        if frame.seq == self.next_seq or (self.sparse and frame.seq > self.next_seq):
            return Step.DELIVER
        return Step.DROP if frame.seq < self.next_seq else Step.GAP
