"""The commit rule: what a committed offset passes is finished, at the moment of the commit already."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.faults.rawlog import Commit


@dataclass(frozen=True, slots=True)
class Work:
    """An assignment: where it lies, its task, and when (broker's clock) that was finished; None: never."""

    partition: int
    offset: int
    task_id: str
    finished_ms: int | None


def passed_unfinished(commits: Iterable[Commit], work: Sequence[Work]) -> list[str]:
    """A line for every assignment that a commit passed before it was finished.

    A task that was assigned twice may be passed in one place while it stands in the other: nothing is lost by that.
    """
    by_partition: dict[int, list[Work]] = defaultdict(list)
    places: dict[str, list[Work]] = defaultdict(list)
    for one in sorted(work, key=lambda one: (one.partition, one.offset)):
        by_partition[one.partition].append(one)
        places[one.task_id].append(one)
    committed: dict[int, int] = {}
    found = []
    for commit in commits:
        passed = [
            one
            for one in by_partition[commit.partition]
            if committed.get(commit.partition, 0) <= one.offset < commit.offset
        ]
        committed[commit.partition] = commit.offset
        for one in passed:
            early = one.finished_ms is None or one.finished_ms > commit.at_ms
            elsewhere = any(
                twin is not one and twin.offset >= committed.get(twin.partition, 0) for twin in places[one.task_id]
            )
            if early and not elsewhere:
                when = (
                    "never finished"
                    if one.finished_ms is None
                    else f"finished {one.finished_ms - commit.at_ms} ms later"
                )
                found.append(
                    f"{one.task_id}: the commit of {commit.offset} on assignments/{commit.partition} at {commit.at_ms} "
                    f"passed its assignment {one.offset}, which was {when}"
                )
    return found


def left_behind(commits: Iterable[Commit], work: Sequence[Work]) -> list[str]:
    """A line for every partition whose work is all finished, and whose last commit says otherwise: it would be repeated."""
    committed: dict[int, int] = {}
    for commit in commits:
        committed[commit.partition] = commit.offset
    by_partition: dict[int, list[Work]] = defaultdict(list)
    for one in work:
        by_partition[one.partition].append(one)
    return [
        f"assignments/{partition}: all {len(todo)} are finished, and the commit stands at {committed.get(partition)}"
        for partition, todo in sorted(by_partition.items())
        if all(one.finished_ms is not None for one in todo)
        and committed.get(partition, 0) <= max(one.offset for one in todo)
    ]


def went_back(commits: Iterable[Commit]) -> list[str]:
    """A line for every commit that is lower than one before it: it came from a member that had lost the partition."""
    committed: dict[int, int] = {}
    found = []
    for commit in commits:
        before = committed.get(commit.partition, 0)
        if commit.offset < before:
            found.append(f"assignments/{commit.partition}: a commit of {commit.offset} after one of {before}")
        committed[commit.partition] = commit.offset
    return found
