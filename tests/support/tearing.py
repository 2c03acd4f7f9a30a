"""When a viewer is torn off its stream, and how far the stream is written ahead of that. Pure."""

from dataclasses import dataclass


@dataclass
class Tears:
    """``most`` tears, spread over a stream: one for each ``every`` chunks of it.

    A viewer is torn off when it has got a little further since the last time (``due``, in messages that it has taken). The stream
    is written ``every`` chunks ahead for each tear, and further while what is written is not enough for the viewer to get to the
    tear that is due: else it and the writer could wait for each other.
    """

    every: int
    most: int
    torn: int = 0
    due: int = 0

    def tear(self, taken: int) -> None:
        """The viewer was torn off when it had taken so many messages."""
        self.torn += 1
        self.due = taken + self.every // 2

    def may_write(self, next_seq: int, *, taken: int, held: int) -> bool:
        """``next_seq``: so many chunks the stream has; ``taken``: so many messages the viewer took, those that were taken back
        included; ``held``: so many chunks it has."""
        within_reach = taken + next_seq - held >= self.due  # a rewind that it has not seen yet brings it further still
        far_ahead = next_seq > (self.torn + 2) * self.every
        return self.torn >= self.most or not (far_ahead and within_reach)
