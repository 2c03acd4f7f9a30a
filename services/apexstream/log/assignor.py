"""Who gets which partitions of a consumer group, so that a member that comes or goes interrupts as little work as can be.

Shares are equal, as with Kafka's own assignors, and members keep what they have. Where one has to give something away, as
when a runner comes back after a restart, it gives what it is not working on: aiokafka's sticky assignor takes the first ones.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from apexstream.log.fetcher import Partition


class Holding(msgspec.Struct, frozen=True):
    """What a member tells of itself when it joins: its partitions since assignment number ``round``, and those in use."""

    round: int = 0
    owned: tuple[Partition, ...] = ()
    busy: tuple[Partition, ...] = ()


_NOTHING = Holding()
_read_holding = msgspec.json.Decoder(Holding)


def share(partitions: Collection[int], topic: str, holdings: Mapping[str, Holding]) -> dict[str, list[int]]:
    """The partitions of ``topic`` by member, none of which has more than one more than any other."""
    keeps = _kept(partitions, topic, holdings)
    few, more = divmod(len(partitions), len(holdings))
    shares: dict[str, list[int]] = {}
    for at, member in enumerate(sorted(holdings, key=lambda member: (-len(keeps[member]), member))):
        shares[member] = keeps[member][: few + (at < more)]
    taken = {number for numbers in shares.values() for number in numbers}
    free = [number for number in sorted(partitions) if number not in taken]
    for at, numbers in enumerate(shares.values()):
        missing = few + (at < more) - len(numbers)
        numbers.extend(free[:missing])
        del free[:missing]
    return shares


def _kept(partitions: Collection[int], topic: str, holdings: Mapping[str, Holding]) -> dict[str, list[int]]:
    """What each member may keep, in the order in which it wants to. Of two that say they have one, the newer assignment
    counts: the other was away and does not know."""
    holder: dict[int, str] = {}
    for member in sorted(holdings, key=lambda member: (holdings[member].round, member)):
        holder |= {number: member for name, number in holdings[member].owned if name == topic}
    kept: dict[str, list[int]] = {member: [] for member in holdings}
    for number in sorted(partitions):
        if number in holder:
            kept[holder[number]].append(number)
    for member, numbers in kept.items():
        busy = {number for name, number in holdings[member].busy if name == topic}
        numbers.sort(key=lambda number, busy=busy: number not in busy)  # type: ignore[misc]  # stable
    return kept


class BusyAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka is untyped
    """The assignor of one member; ``busy`` gives the partitions that it is working on. aiokafka calls the rest."""

    name = "apexstream-busy"

    def __init__(self, busy: Callable[[], Iterable[Partition]]) -> None:
        self._busy = busy
        self._round = 0
        self._owned: tuple[Partition, ...] = ()

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What this member says when it joins."""
        holding = Holding(self._round, self._owned, tuple(sorted(set(self._busy()))))
        return ConsumerProtocolMemberMetadata(0, list(topics), msgspec.json.encode(holding))

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Called in the member that leads the group."""
        holdings = {member: _holding(said.user_data) for member, said in members.items()}
        given: dict[str, list[tuple[str, list[int]]]] = {member: [] for member in members}
        for topic in sorted({topic for said in members.values() for topic in said.subscription}):
            theirs = {member: holdings[member] for member, said in members.items() if topic in said.subscription}
            for member, numbers in share(cluster.partitions_for_topic(topic) or (), topic, theirs).items():
                given[member].append((topic, sorted(numbers)))
        number = 1 + max(holding.round for holding in holdings.values())
        return {member: ConsumerProtocolMemberAssignment(0, shares, b"%d" % number) for member, shares in given.items()}

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """What this member has now."""
        self._round = int(assignment.user_data or 0)
        self._owned = tuple((tp.topic, tp.partition) for tp in assignment.partitions())


def _holding(user_data: bytes | None) -> Holding:
    try:
        return _read_holding.decode(user_data or b"{}")
    except msgspec.DecodeError:  # of another version: it has what it is given
        return _NOTHING
