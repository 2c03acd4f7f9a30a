"""What of a partition is finished: the pure part of using committed offsets as resume points."""


class OffsetLedger:
    """Tracks work taken from one partition and finished in any order.

    ``commit_offset`` is the end of the contiguous prefix of finished work: everything before it is finished, so a new
    owner starts there and repeats nothing that was done before it and skips nothing that was not.
    """

    __slots__ = ("_committed", "_next", "_open")

    def __init__(self) -> None:
        self._open: dict[int, None] = {}  # insertion order is offset order
        self._next: int | None = None
        self._committed: int | None = None

    def take(self, offset: int) -> bool:
        """Begin work at ``offset``; False if it was begun before, since a rebalance delivers open work again."""
        if self._next is not None and offset < self._next:
            return False
        self._open[offset] = None
        self._next = offset + 1
        return True

    def finish(self, offset: int) -> None:
        """Work at ``offset`` is finished, and never needs to be done again."""
        self._open.pop(offset, None)

    @property
    def open(self) -> int:
        """How many are begun and not finished."""
        return len(self._open)

    def commit_offset(self) -> int | None:
        """The offset to commit, or None if nothing changed since :meth:`committed`."""
        at = next(iter(self._open), self._next)
        return at if at != self._committed else None

    def committed(self, offset: int) -> None:
        """``offset`` was committed."""
        self._committed = offset
