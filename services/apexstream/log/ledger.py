"""What of a partition is finished: the pure part of using committed offsets as resume points."""

METADATA_BYTES_MAX = 3_500  # Kafka's default limit of an offset's metadata is 4096


class OffsetLedger:
    """Tracks work taken from one partition and finished in any order.

    :meth:`commit` gives the end of the contiguous prefix of finished work, and what is finished beyond it as metadata of
    that commit: a new owner starts at the first and leaves out the second, so nothing finished is done again and
    nothing unfinished is skipped.
    """

    __slots__ = ("_beyond", "_committed", "_next", "_open")

    def __init__(self, metadata: str = "") -> None:
        self._open: dict[int, None] = {}  # insertion order is offset order
        self._beyond: set[int] = _read(metadata)  # finished, after the first open offset
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
        commit = at, _write(at, self._beyond)
        return commit if commit != self._committed else None

    def committed(self, commit: tuple[int, str]) -> None:
        """``commit`` was acknowledged."""
        self._committed = commit


def _write(base: int, finished: set[int]) -> str:
    """Ranges of finished offsets as ``base:first-last,…``, relative to ``base``; cut off at the limit, which only costs
    the new owner a look at work that turns out to be finished."""
    parts: list[str] = []
    size = len(str(base)) + 1
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
    return f"{base}:{','.join(parts)}" if parts else ""


def _read(metadata: str) -> set[int]:
    """The inverse; anything else than what :func:`_write` makes means nothing is known to be finished."""
    base, _, ranges = metadata.partition(":")
    finished: set[int] = set()
    try:
        for part in ranges.split(",") if ranges else ():
            first, _, last = part.partition("-")
            finished.update(range(int(base) + int(first), int(base) + int(last or first) + 1))
    except ValueError:
        return set()
    return finished
