"""Who gets which partitions of a group."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from apexstream.log.assignor import BusyAssignor, Holding, share

NUMBERS = range(48)


def holding(owned: list[int] | range, busy: list[int] | range = range(0), round_: int = 1) -> Holding:
    return Holding(round_, tuple(("t", n) for n in owned), tuple(("t", n) for n in busy))


@st.composite
def groups(draw: st.DrawFn) -> dict[str, Holding]:
    """Members that say whatever they like, as after splits of the group."""
    numbers = st.lists(st.integers(0, 60), max_size=50, unique=True)
    return {
        f"m{at}": holding(draw(numbers), draw(numbers), draw(st.integers(0, 5)))
        for at in range(draw(st.integers(1, 9)))
    }


@given(groups())
def test_every_partition_has_one_owner_and_shares_differ_by_one_at_most(members: dict[str, Holding]):
    shares = share(NUMBERS, "t", members)
    assert sorted(number for numbers in shares.values() for number in numbers) == list(NUMBERS)
    sizes = [len(numbers) for numbers in shares.values()]
    assert len(shares) == len(members)
    assert max(sizes) - min(sizes) <= 1


@given(groups())
def test_a_second_assignment_changes_nothing(members: dict[str, Holding]):
    first = share(NUMBERS, "t", members)
    again = share(NUMBERS, "t", {member: holding(numbers, round_=9) for member, numbers in first.items()})
    assert {member: sorted(numbers) for member, numbers in again.items()} == {
        member: sorted(numbers) for member, numbers in first.items()
    }


@given(st.sets(st.sampled_from(list(NUMBERS)), max_size=24))
def test_a_member_that_joins_gets_what_nobody_works_on(busy: set[int]):
    shares = share(NUMBERS, "t", {"old": holding(NUMBERS, sorted(busy)), "new": Holding()})
    assert busy <= set(shares["old"])
    assert len(shares["new"]) == 24


def test_what_a_member_left_goes_to_the_others_and_they_keep_theirs():
    shares = share(NUMBERS, "t", {"b": holding(range(16, 32)), "c": holding(range(32, 48))})
    assert set(range(16, 32)) <= set(shares["b"])
    assert set(range(32, 48)) <= set(shares["c"])


def test_of_two_that_say_they_own_it_the_newer_assignment_counts():
    shares = share(range(2), "t", {"away": holding([0, 1], [0, 1], 3), "here": holding([0], round_=4)})
    assert shares == {"away": [1], "here": [0]}


def test_members_tell_each_other_in_the_words_of_kafka():
    leader, other = BusyAssignor(lambda: [("t", 3)]), BusyAssignor(tuple)
    cluster = SimpleNamespace(partitions_for_topic={"t": {0, 1, 2, 3}, "u": {0}}.get)
    alone = leader.assign(cluster, {"leader": leader.metadata(["t"])})
    leader.on_assignment(alone["leader"])
    both = leader.assign(cluster, {"leader": leader.metadata(["t"]), "other": other.metadata(["t", "u", "gone"])})
    other.on_assignment(both["other"])
    assert [(tp.topic, tp.partition) for tp in both["leader"].partitions()] == [("t", 0), ("t", 3)]
    assert [(tp.topic, tp.partition) for tp in both["other"].partitions()] == [("t", 1), ("t", 2), ("u", 0)]
    assert other.metadata(["t"]).user_data == b'{"round":2,"owned":[["t",1],["t",2],["u",0]],"busy":[]}'
