"""The order of work: first in, first out inside a tier, and no tier before a more urgent one. Pure: events in, decisions out."""

from collections import deque
from dataclasses import dataclass

from apexstream.core.events import RunnerState, TaskSubmitted
from apexstream.core.tiers import Tier

RUNNER_SILENT_US_MAX = 15_000_000  # a runner that has not announced itself for this long is gone


@dataclass(frozen=True, slots=True)
class Placement:
    """Give ``task`` to whoever owns this partition of the assignments topic."""

    task: TaskSubmitted
    partition: int
    runner_id: str


class FifoScheduler:
    """Waiting tasks, tasks in progress by partition, and the runners that announced themselves."""

    def __init__(self) -> None:
        self._waiting: dict[Tier, deque[TaskSubmitted]] = {tier: deque() for tier in Tier}
        self._active: dict[str, int] = {}  # task id → partition
        self._load: dict[int, int] = {}  # partition → tasks in progress
        self._runners: dict[str, RunnerState] = {}

    def waiting(self, tier: Tier) -> int:
        """How many tasks wait in ``tier``."""
        return len(self._waiting[tier])

    def submit(self, task: TaskSubmitted) -> None:
        """``task`` waits from now on."""
        self._waiting[task.tier].append(task)

    def withdraw(self, task_id: str) -> TaskSubmitted | None:
        """Take a waiting task out; None if it does not wait."""
        for queue in self._waiting.values():
            for task in queue:
                if task.task_id == task_id:
                    queue.remove(task)
                    return task
        return None

    def started(self, task_id: str, partition: int) -> None:
        """The task is in progress on ``partition``."""
        if task_id not in self._active:
            self._active[task_id] = partition
            self._load[partition] = self._load.get(partition, 0) + 1

    def ended(self, task_id: str) -> None:
        """The task is over; its slot is free."""
        partition = self._active.pop(task_id, None)
        if partition is not None:
            self._load[partition] -= 1

    def runner(self, runner_id: str, state: RunnerState | None) -> None:
        """A runner announced itself, or left (None)."""
        if state is None:
            self._runners.pop(runner_id, None)
        else:
            self._runners[runner_id] = state

    def place(self, now_us: int) -> Placement | None:
        """The next task to start and where, or None if nothing waits or no runner has room. Counts it as started."""
        queue = next((queue for queue in self._waiting.values() if queue), None)
        if queue is None:
            return None
        runner = self._roomiest(now_us)
        if runner is None:
            return None
        partition = min(runner.partitions, key=lambda p: self._load.get(p, 0))
        task = queue.popleft()
        self.started(task.task_id, partition)
        return Placement(task, partition, runner.runner_id)

    def _roomiest(self, now_us: int) -> RunnerState | None:
        room = {
            runner_id: state.capacity - sum(self._load.get(p, 0) for p in state.partitions)
            for runner_id, state in self._runners.items()
            if state.partitions and now_us - state.at_us <= RUNNER_SILENT_US_MAX
        }
        best = max(room, key=lambda runner_id: room[runner_id], default=None)
        return self._runners[best] if best is not None and room[best] > 0 else None
