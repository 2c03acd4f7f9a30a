"""What a submission may ask of the order of work: what it waits for, what it needs, with whom it shares, from when on.

The dispatcher decides by these facts and by nothing else of a task. ``check_graph`` is what refuses a graph that could
never run, before anything of it is accepted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from apexstream.core.errors import InvalidRequest
from apexstream.core.tiers import Tier

UPSTREAMS_MAX = 1_000  # of one task
GRAPH_TASKS_MAX = 5_000

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class ConcurrencyKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Something that tasks share. Holders of one ``key`` run together only if they name the same ``group``, and never
    more than the smallest ``limit`` among them. One key with groups ``read`` (limit 8) and ``write`` (limit 1) is a lock.
    """

    key: Name
    limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1
    group: Annotated[str, msgspec.Meta(max_length=128)] = ""


class Scheduling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """All optional; the defaults ask for nothing.

    ``needs`` are amounts of what a runner announces (``cpu``, ``memory_mb``, ``gpu``, any other name). ``runs_on`` are labels
    that the runner must have, ``avoids`` those that it must not have. Tasks with the same ``sticky`` word go to the runner
    that had the last one, if it has room.
    """

    tenant: Annotated[str, msgspec.Meta(max_length=128)] = ""
    labels: Annotated[tuple[Name, ...], msgspec.Meta(max_length=16)] = ()
    graph: str = ""
    after: Annotated[tuple[Name, ...], msgspec.Meta(max_length=UPSTREAMS_MAX)] = ()
    when: Literal["succeeded", "ended"] = "succeeded"  # what all of ``after`` must have done
    otherwise: Literal["cancel", "fail"] = "cancel"  # what becomes of this task if one of them did not succeed
    needs: Annotated[dict[Name, Amount], msgspec.Meta(max_length=16)] = msgspec.field(default_factory=dict)
    runs_on: Annotated[tuple[Name, ...], msgspec.Meta(max_length=16)] = ()
    avoids: Annotated[tuple[Name, ...], msgspec.Meta(max_length=16)] = ()
    concurrency: Annotated[tuple[ConcurrencyKey, ...], msgspec.Meta(max_length=8)] = ()
    sticky: Annotated[str, msgspec.Meta(max_length=128)] = ""
    not_before_us: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)] = 0
    preemptible: bool = False

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if len({key.key for key in self.concurrency}) < len(self.concurrency):
            raise ValueError("names a concurrency key twice")


class Reschedule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What may be changed of a task that waits. None: as it is."""

    tier: Tier | None = None
    not_before_us: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)] | None = None
    needs: Annotated[dict[Name, Amount], msgspec.Meta(max_length=16)] | None = None

    def over(self, tier: Tier, scheduling: Scheduling) -> tuple[Tier, Scheduling]:
        """A task's tier and facts with these changes."""
        changed = {name: value for name in ("not_before_us", "needs") if (value := getattr(self, name)) is not None}
        return self.tier or tier, msgspec.structs.replace(scheduling, **changed) if changed else scheduling


class RunnerResources(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a runner has besides its slots: ``amounts`` by name, and ``labels``. ``used`` is what its running tasks stated;
    the dispatcher counts that for itself."""

    amounts: dict[str, float] = msgspec.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    used: dict[str, float] = msgspec.field(default_factory=dict)


NOTHING_ASKED = Scheduling()
_NOTHING_ANNOUNCED = RunnerResources()
_scheduling = msgspec.json.Decoder(Scheduling)
_resources = msgspec.json.Decoder(RunnerResources)


def scheduling_of(data: bytes) -> Scheduling:
    """The facts in a record's ``scheduling`` field; empty bytes ask for nothing. Raises ``msgspec.DecodeError``."""
    return _scheduling.decode(data) if data else NOTHING_ASKED


def scheduling_or_nothing(data: bytes) -> Scheduling:
    """The same, where what cannot be read (of a newer version) counts as nothing asked."""
    try:
        return scheduling_of(data)
    except msgspec.DecodeError:
        return NOTHING_ASKED


def resources_of(data: bytes) -> RunnerResources:
    """What a runner announced; what cannot be read counts as nothing, so that such a runner still takes ordinary tasks."""
    try:
        return _resources.decode(data) if data else _NOTHING_ANNOUNCED
    except msgspec.DecodeError:
        return _NOTHING_ANNOUNCED


def check_graph(tasks: Mapping[str, Sequence[str]], is_known: Callable[[str], bool]) -> None:
    """Raise :class:`InvalidRequest` unless every task (id → ids it comes after) can run some day: no upstream that is
    neither in the graph nor known, and no cycle."""
    if len(tasks) > GRAPH_TASKS_MAX:
        raise InvalidRequest(f"{len(tasks)} tasks; at most {GRAPH_TASKS_MAX} are allowed", where="tasks")
    for task_id, upstreams in tasks.items():
        for upstream in upstreams:
            if upstream not in tasks and not is_known(upstream):
                raise InvalidRequest(
                    f"{task_id} comes after {upstream!r}, which is not known",
                    where="after",
                    hint="Submit it first, or in the same graph",
                )
    cycle = _cycle(tasks)
    if cycle:
        raise InvalidRequest(f"the tasks wait for each other: {' → '.join(cycle)}", where="after")


def _cycle(tasks: Mapping[str, Sequence[str]]) -> list[str]:
    """The ids along one cycle, the first one again at the end; empty if there is none."""
    inside = {task_id: [up for up in upstreams if up in tasks] for task_id, upstreams in tasks.items()}
    left = _without_ends(inside)
    if not left:
        return []
    path: dict[str, None] = {}
    at = next(iter(left))
    while at not in path:
        path[at] = None
        at = next(up for up in inside[at] if up in left)
    walked = list(path)
    return [*walked[walked.index(at) :], at]


def _without_ends(inside: Mapping[str, Iterable[str]]) -> set[str]:
    """The tasks that are left when those whose upstreams are all gone are taken out, over and over."""
    open_upstreams = {task_id: len(set(upstreams)) for task_id, upstreams in inside.items()}
    dependents: dict[str, list[str]] = {}
    for task_id, upstreams in inside.items():
        for upstream in set(upstreams):
            dependents.setdefault(upstream, []).append(task_id)
    free = [task_id for task_id, count in open_upstreams.items() if count == 0]
    left = set(inside)
    while free:
        task_id = free.pop()
        left.discard(task_id)
        for dependent in dependents.get(task_id, ()):
            open_upstreams[dependent] -= 1
            if open_upstreams[dependent] == 0:
                free.append(dependent)
    return left
