"""Which dispatcher's assignments count: decided partition by partition, by the order of records in it. Pure.

A new dispatcher claims every partition with a higher epoch before it decides anything, and reads up to its claims. From
a claim on, every assignment of a lower epoch is dead for whoever reads the partition, so a dispatcher that does not
know yet that it was replaced can write what it likes. The idea is that of ``core.fold``, for work instead of content.
Dispatchers and runners read partitions alike; a runner keeps the epoch in its :class:`~apexstream.log.ledger.OffsetLedger`.
"""

from collections.abc import Iterable, Mapping

_CLAIM = "claim/"


def claim_key(epoch: int, name: str) -> bytes:
    """The key of a claim, which has no value: a reader that knows no claims skips it."""
    return f"{_CLAIM}{epoch}/{name}".encode()


def claim_of(key: bytes | None) -> tuple[int, str] | None:
    """The (epoch, dispatcher) that a record without a value claims for; None if it is no claim."""
    parts = (key or b"").decode(errors="replace").removeprefix(_CLAIM).split("/", 1)
    is_claim = (key or b"").startswith(_CLAIM.encode()) and len(parts) == 2 and parts[0].isdecimal()
    return (int(parts[0]), parts[1]) if is_claim else None


class Reign:
    """The newest claim of each partition."""

    def __init__(self, partitions: Iterable[int]) -> None:
        self._newest: dict[int, tuple[int, str]] = dict.fromkeys(partitions, (0, ""))
        self._seen: dict[int, tuple[int, str]] = {}

    def claimed(self, partition: int, epoch: int, name: str) -> None:
        """A claim was read. Of two with one epoch the first in the log wins."""
        self._seen[partition] = epoch, name
        if epoch > self._newest.get(partition, (0, ""))[0]:
            self._newest[partition] = epoch, name

    def counts(self, partition: int, epoch: int) -> bool:
        """Whether an assignment of ``epoch``, read now from ``partition``, is alive."""
        return epoch >= self._newest.get(partition, (0, ""))[0]

    @property
    def newest(self) -> int:
        """The highest epoch that anybody claimed with."""
        return max(epoch for epoch, _ in self._newest.values())

    def was_read(self, epoch: int, name: str) -> bool:
        """Whether these claims were read from every partition."""
        return all(self._seen.get(partition) == (epoch, name) for partition in self._newest)

    def is_held(self) -> bool:
        """Whether one dispatcher's claims are the newest of every partition."""
        return len(set(self._newest.values())) == 1

    def holds(self, epoch: int, name: str) -> bool:
        """Whether these claims are the newest of every partition."""
        return all(held == (epoch, name) for held in self._newest.values())

    def as_mapping(self) -> Mapping[int, tuple[int, str]]:
        """The newest claim by partition."""
        return dict(self._newest)
