"""What of a partition is finished: the pure part of using committed offsets as resume points."""

METADATA_BYTES_MAX = 3_500  # Kafka's default limit of an offset's metadata is 4096


class OffsetLedger:
    """Tracks work taken from one partition and finished in any order.

    :meth:`commit` gives the end of the contiguous prefix of finished work, and what is finished beyond it as metadata of
    that commit: a new owner starts at the first and leaves out the second, so nothing finished is done again and
    nothing unfinished is skipped.

    Where writers of the partition claim it with an epoch (``core.reign``), the metadata also has the epoch that held at the
    committed offset: a later one would make the records between the two dead that were alive when they were written.
    """

    __slots__ = ("_beyond", "_claims", "_committed", "_epoch", "_next", "_open")

    def __init__(self, metadata: str = "") -> None:
        self._open: dict[int, None] = {}  # insertion order is offset order
        self._beyond, self._epoch = _read(metadata)  # finished after the first open offset; epoch at the commit
        self._claims: list[tuple[int, int]] = []  # (offset, epoch) at or after the commit, both rising
        self._next: int | None = None
        self._committed: tuple[int, str] | None = None

    def take(self, offset: int) -> bool:
        """Begin work at ``offset``; False if there is none to do: a rebalance delivers open work again, and what the
        last owner finished beyond its commit is delivered too. Offsets come in rising order."""
        if self._next is not None and offset < self._next:
            return False
        self._next = offset + 1
        if offset in self._beyond:
            return False
        self._open[offset] = None
        return True

    def finish(self, offset: int) -> None:
        """Work at ``offset`` is finished, and never needs to be done again."""
        if self._open.pop(offset, offset) is None:
            self._beyond.add(offset)

    def claim(self, offset: int, epoch: int) -> None:
        """The record at ``offset`` claims the partition: records after it count only from this epoch on."""
        if epoch > self.epoch:
            self._claims.append((offset, epoch))

    @property
    def epoch(self) -> int:
        """The newest epoch that the partition was claimed with."""
        return self._claims[-1][1] if self._claims else self._epoch

    @property
    def open(self) -> int:
        """How many are begun and not finished."""
        return len(self._open)

    def commit(self) -> tuple[int, str] | None:
        """The (offset, metadata) to commit, or None if nothing changed since :meth:`committed`."""
        at = next(iter(self._open), self._next)
        if at is None:
            return None
        self._beyond = {offset for offset in self._beyond if offset > at}
        while self._claims and self._claims[0][0] < at:
            self._epoch = self._claims.pop(0)[1]
        commit = at, _write(at, self._beyond, self._epoch)
        return commit if commit != self._committed else None

    def committed(self, commit: tuple[int, str]) -> None:
        """``commit`` was acknowledged."""
        self._committed = commit


def _write(base: int, finished: set[int], epoch: int) -> str:
    """``base:first-last,…`` and ``;epoch`` if there is one: ranges of finished offsets relative to ``base``, cut off at the
    limit, which only costs the new owner a look at work that turns out to be finished."""
    parts: list[str] = []
    size = len(str(base)) + len(str(epoch)) + 2
    first = last = None
    for offset in [*sorted(finished), None]:
        if offset is not None and last is not None and offset == last + 1:
            last = offset
            continue
        if first is not None and last is not None:
            part = f"{first - base}-{last - base}" if last > first else f"{first - base}"
            size += len(part) + 1
            if size > METADATA_BYTES_MAX:
                break
            parts.append(part)
        first = last = offset
    ranges = f"{base}:{','.join(parts)}" if parts else ""
    return f"{ranges};{epoch}" if epoch else ranges


def _read(metadata: str) -> tuple[set[int], int]:
    """The inverse; anything else than what :func:`_write` makes means nothing is known to be finished, nor any epoch."""
    known, _, epoch = metadata.partition(";")
    base, _, ranges = known.partition(":")
    finished: set[int] = set()
    try:
        for part in ranges.split(",") if ranges else ():
            first, _, last = part.partition("-")
            finished.update(range(int(base) + int(first), int(base) + int(last or first) + 1))
        return finished, int(epoch or 0)
    except ValueError:
        return set(), 0
