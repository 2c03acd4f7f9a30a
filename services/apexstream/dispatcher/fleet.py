"""The runners: what each can take, what it has in hand, and where a task fits. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from apexstream.core.events import RunnerState
from apexstream.core.scheduling import RunnerResources, Scheduling, resources_of

STICKY_MAX = 10_000  # words whose last runner is remembered
TOGETHER_MAX = 8  # tasks that go to one partition before the next one has its turn, so that one batch holds them


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides where a task can run; tasks of one shape are interchangeable."""

    action: str
    needs: tuple[tuple[str, float], ...] = ()
    runs_on: tuple[str, ...] = ()
    avoids: tuple[str, ...] = ()
    sticky: str = ""

    @classmethod
    def of(cls, action: str, facts: Scheduling) -> "Shape":
        """The shape of a task."""
        return cls(action, tuple(sorted(facts.needs.items())), facts.runs_on, facts.avoids, facts.sticky)


@dataclass(slots=True)
class _Load:
    """What is in hand: on a partition, or on all partitions of a runner."""

    tasks: int = 0
    starting: int = 0  # of them, those that were given and have not begun
    amounts: dict[str, float] = field(default_factory=dict)

    def add(self, needs: Iterable[tuple[str, float]], sign: int) -> None:
        self.tasks += sign
        for name, amount in needs:
            self.amounts[name] = self.amounts.get(name, 0.0) + sign * amount


@dataclass(slots=True)
class _Runner:
    state: RunnerState
    has: RunnerResources
    actions: frozenset[str]
    starting_max: int
    load: _Load = field(default_factory=_Load)
    partition: int = -1  # of the last tasks
    together: int = TOGETHER_MAX  # how many of them went there

    def could(self, shape: Shape) -> str:
        """Why this runner could never run such a task; empty if it could."""
        if shape.action not in self.actions:
            return f"offers {shape.action}"
        for name, amount in shape.needs:
            if self.has.amounts.get(name, 0.0) < amount:
                return f"has {name} {amount:g}"
        if not set(shape.runs_on) <= set(self.has.labels):
            return f"has the labels {', '.join(shape.runs_on)}"
        if not set(shape.avoids).isdisjoint(self.has.labels):
            return f"is without the labels {', '.join(shape.avoids)}"
        return "owns a partition" if not self.state.partitions else ""

    def fits(self, shape: Shape) -> bool:
        """Whether there is room for such a task now; it could run here at all."""
        if self.load.tasks >= self.state.capacity:
            return False
        used, has = self.load.amounts, self.has.amounts
        return all(used.get(name, 0.0) + amount <= has[name] + 1e-9 for name, amount in shape.needs)

    @property
    def keeps_up(self) -> bool:
        """Whether one more task would be begun soon."""
        return self.load.starting < self.starting_max


class Fleet:
    """Runners by id, and what is in progress by partition: partitions, with the tasks on them, may change hands."""

    def __init__(self, silent_us_max: int, starting_max: int) -> None:
        self._silent_us_max = silent_us_max
        self._starting_max = starting_max
        self._runners: dict[str, _Runner] = {}
        self._owner: dict[int, _Runner] = {}
        self._loads: dict[int, _Load] = {}
        self._warm: dict[str, str] = {}

    def announce(self, runner_id: str, state: RunnerState | None) -> bool:
        """A runner says what it is, or leaves (None). Whether that changed what fits."""
        known = self._runners.get(runner_id)
        if known is not None and state is not None and _same(known.state, state):
            known.state = state
            return False
        if state is None:
            self._runners.pop(runner_id, None)
        else:
            actions = frozenset(f"{info.plugin}.{info.action}" for info in state.actions)
            self._runners[runner_id] = _Runner(state, resources_of(state.resources), actions, self._starting_max)
        self._owner = {}
        for runner in sorted(self._runners.values(), key=lambda runner: runner.state.at_us):
            self._owner.update(dict.fromkeys(runner.state.partitions, runner))
            runner.load = _Load()
        for partition, load in self._loads.items():
            owner = self._owner.get(partition)
            if owner is not None:
                owner.load.tasks += load.tasks
                owner.load.starting += load.starting
                for name, amount in load.amounts.items():
                    owner.load.amounts[name] = owner.load.amounts.get(name, 0.0) + amount
        return True

    def take(self, partition: int, shape: Shape) -> None:
        """A task of this shape is in progress on ``partition``."""
        self._change(partition, shape, 1)
        owner = self._owner.get(partition)
        if shape.sticky and owner is not None:
            self._warm.pop(shape.sticky, None)
            self._warm[shape.sticky] = owner.state.runner_id
            if len(self._warm) > STICKY_MAX:
                del self._warm[next(iter(self._warm))]

    def starting(self, partition: int, sign: int) -> None:
        """One task more (1) or less (-1) on ``partition`` that was given and has not begun."""
        self._loads.setdefault(partition, _Load()).starting += sign
        owner = self._owner.get(partition)
        if owner is not None:
            owner.load.starting += sign

    def give_back(self, partition: int, shape: Shape) -> None:
        """It is no longer."""
        self._change(partition, shape, -1)

    def _change(self, partition: int, shape: Shape, sign: int) -> None:
        self._loads.setdefault(partition, _Load()).add(shape.needs, sign)
        owner = self._owner.get(partition)
        if owner is not None:
            owner.load.add(shape.needs, sign)

    def live(self, now_us: int) -> tuple[str, ...]:
        """Runners that announced themselves lately, in the order in which they came."""
        oldest = now_us - self._silent_us_max
        return tuple(name for name, runner in self._runners.items() if runner.state.at_us >= oldest)

    def has_room(self, live: Sequence[str]) -> bool:
        """Whether any runner has a free slot."""
        return any(
            runner.keeps_up and runner.load.tasks < runner.state.capacity
            for runner in map(self._runners.__getitem__, live)
        )

    def place(self, shape: Shape, live: Iterable[str]) -> tuple[str, int] | None:
        """The best runner with room for such a task, and its least busy partition."""
        best: _Runner | None = None
        best_score = (False, 0.0)
        warm = self._warm.get(shape.sticky) if shape.sticky else None
        for name in live:
            runner = self._runners[name]
            if not runner.keeps_up or runner.could(shape) or not runner.fits(shape):
                continue
            score = (name == warm, 1 - runner.load.tasks / runner.state.capacity)
            if best is None or score > best_score:
                best, best_score = runner, score
        if best is None:
            return None
        return best.state.runner_id, self._next_partition(best)

    def _next_partition(self, runner: _Runner) -> int:
        if runner.together >= TOGETHER_MAX:
            loads = self._loads
            runner.partition = min(runner.state.partitions, key=lambda p: loads[p].tasks if p in loads else 0)
            runner.together = 0
        runner.together += 1
        return runner.partition

    def has_space(self, shape: Shape, able: Iterable[str]) -> bool:
        """Whether one of these runners has room for such a task, as soon as it has begun with what it was given."""
        return any(self._runners[name].fits(shape) for name in able)

    def candidates(self, shape: Shape, live: Iterable[str]) -> list[str]:
        """Runners that could run such a task if they had nothing else to do, those with the least to do first."""
        able = [name for name in live if not self._runners[name].could(shape)]
        return sorted(able, key=lambda name: (self._runners[name].load.tasks, name))

    def report(self, live: Iterable[str]) -> list[dict[str, object]]:
        """What each live runner has, and what of it is in use."""
        return [
            {
                "runner_id": name,
                "tasks": runner.load.tasks,
                "capacity": runner.state.capacity,
                "amounts": runner.has.amounts,
                "used": {need: amount for need, amount in runner.load.amounts.items() if amount > 0},
                "labels": runner.has.labels,
            }
            for name in live
            for runner in (self._runners[name],)
        ]

    def owner(self, partition: int) -> str:
        """The runner that has this partition; empty if none."""
        owner = self._owner.get(partition)
        return owner.state.runner_id if owner is not None else ""

    def obstacle(self, shape: Shape, live: Sequence[str]) -> str:
        """Why such a task cannot start now; empty if it can."""
        if not live:
            return "no runner is connected"
        missing = sorted({why for name in live if (why := self._runners[name].could(shape))})
        able = self.candidates(shape, live)
        if not able:
            return f"no runner {' or '.join(missing)}"
        if self.has_space(shape, able):
            keeping_up = any(self._runners[name].keeps_up for name in able)
            return "" if keeping_up else "its runners were given others that they have not begun"
        what = "a free slot" if not shape.needs else f"room for {_listed(shape.needs)}"
        return f"none of {len(able)} runners that could run it has {what}"


def _same(before: RunnerState, now: RunnerState) -> bool:
    if (before.capacity, before.partitions, before.actions) != (now.capacity, now.partitions, now.actions):
        return False
    had, has = resources_of(before.resources), resources_of(now.resources)
    return before.resources == now.resources or (had.amounts, had.labels) == (has.amounts, has.labels)


def _listed(needs: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in needs)
