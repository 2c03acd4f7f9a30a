"""What the gateway knows: tasks, folded from submissions and events, and the actions that runners offer."""

from bisect import insort
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import Any

import msgspec
import structlog
from jsonschema import Draft202012Validator

from apexstream.contracts.codec import Codec
from apexstream.core.errors import ChunkDecodeError, InvalidParameters, Unavailable, UnknownAction, UnknownTask
from apexstream.core.events import ActionInfo, DeadLetter, Event, RunnerState, TaskEvent, TaskSubmitted
from apexstream.core.inputs import Path
from apexstream.core.task import TaskState, TaskStatus
from apexstream.core.tiers import Tier, Tiers
from apexstream.gateway.access.principal import sees
from apexstream.gateway.measures import UNKNOWN
from apexstream.gateway.order import OrderOfWork
from apexstream.log.fetcher import Partition, Record

LETTERS_MAX = 10_000
CONTESTED = "!"  # of an id that two tenants chose in the same moment: nobody's name, so nobody's task
TASKS_MAX = 200_000  # those that ended first are forgotten first; their streams stay in the log
RUNNER_SILENT_US_MAX = 15_000_000

_log = structlog.get_logger(__name__)


class Registry:
    """Tasks by id and runners by id. ``on_submitted`` is called with the id of every task that becomes known."""

    def __init__(
        self, codec: Codec, on_submitted: Callable[[str], None], tiers: Tiers, *, tenant_waiting_max: int
    ) -> None:
        self._codec = codec
        self._on_submitted = on_submitted
        self._tasks: dict[str, TaskState] = {}
        self._ended: deque[str] = deque()  # tasks in the order of their ends
        self._since_ms: dict[str, int] = {}
        self._newest: list[tuple[int, str]] = []  # by submission; those that were forgotten are taken out now and then
        self._tenants: dict[str, str] = {}  # of tasks that are not the nameless tenant's
        self._runners: dict[str, RunnerState] = {}
        self._actions: Mapping[tuple[str, str], ActionInfo] = {}
        self._letters: dict[str, DeadLetter] = {}
        self._watching: dict[str, dict[Callable[[TaskState], None], None]] = {}
        self._validators: dict[bytes, Draft202012Validator] = {}
        self.order = OrderOfWork(codec, tiers, tenant_waiting_max)

    # Readers of topics.

    def on_submissions(self, _: Partition, records: Iterable[Record]) -> None:
        """Tasks of one tier."""
        for record in records:
            task = self._read(record, TaskSubmitted)
            if isinstance(task, TaskSubmitted):
                for member in task.tasks():
                    self.submitted(member, record.timestamp)

    def submitted(self, task: TaskSubmitted, since_ms: int) -> TaskState:
        """A task exists from now on, and its stream cannot be older than ``since_ms``."""
        state = self._state(task.task_id)
        if task.task_id not in self._since_ms:
            self._since_ms[task.task_id] = since_ms
            insort(self._newest, (task.submitted_us, task.task_id))
            if task.tenant:
                self._tenants[task.task_id] = task.tenant
            state.submitted(task)
            self.order.submitted(task, waiting=state.status is TaskStatus.WAITING)
            self._on_submitted(task.task_id)
        elif self._tenants.get(task.task_id, "") != task.tenant:
            # Topics of tiers are read in no common order: another gateway may have seen these two the other way round.
            self._tenants[task.task_id] = CONTESTED
            _log.warning("two tenants chose one id", task=task.task_id)
        return state

    def on_task_events(self, _: Partition, records: Iterable[Record]) -> None:
        """Changes of tasks."""
        for record in records:
            event = self._read(record, TaskEvent)
            if isinstance(event, TaskEvent):
                self._change(self._state(event.task_id), event)
                self.order.changed(event)

    def on_runners(self, _: Partition, records: Iterable[Record]) -> None:
        """Runners that announce themselves or leave."""
        for record in records:
            runner_id = (record.key or b"").decode()
            state = self._read(record, RunnerState) if record.value is not None else None
            if isinstance(state, RunnerState):
                self._runners[runner_id] = state
            else:
                self._runners.pop(runner_id, None)
        self._actions = {(info.plugin, info.action): info for one in self._runners.values() for info in one.actions}

    def on_dead_letters(self, _: Partition, records: Iterable[Record]) -> None:
        """Tasks that failed for good; the newest ones are kept."""
        for record in records:
            task_id = (record.key or b"").decode()
            self._letters.pop(task_id, None)
            letter = self._read(record, DeadLetter) if record.value is not None else None
            if isinstance(letter, DeadLetter):
                self._letters[task_id] = letter
                if len(self._letters) > LETTERS_MAX:
                    del self._letters[next(iter(self._letters))]

    def _change(self, state: TaskState, event: TaskEvent) -> None:
        before, had_ended = msgspec.structs.astuple(state), state.status.final
        state.apply(event)
        if state.status.final and not had_ended:
            self._ended.append(event.task_id)
        watching = self._watching.get(event.task_id)
        if watching and msgspec.structs.astuple(state) != before:
            for tell in list(watching):
                tell(state)

    def moved(self, task_id: str, tier: Tier) -> None:
        """The task was asked to wait in another tier."""
        self._state(task_id).tier = tier
        self.order.moved(task_id, tier)

    # Watchers.

    def watch(self, task_id: str, tell: Callable[[TaskState], None]) -> None:
        """Call ``tell`` with the task's state whenever it has changed."""
        self._watching.setdefault(task_id, {})[tell] = None

    def unwatch(self, task_id: str, tell: Callable[[TaskState], None]) -> None:
        """Call it no more."""
        watching = self._watching.get(task_id, {})
        watching.pop(tell, None)
        if not watching:
            self._watching.pop(task_id, None)

    # Questions.

    def task(self, task_id: str, tenant: str = "") -> TaskState:
        """The state of a task of ``tenant``, or :class:`UnknownTask`."""
        state = self._tasks.get(task_id)
        if state is None or not sees(tenant, self.tenant(task_id)):
            raise UnknownTask(
                f"there is no task {task_id!r}", where="task_id", hint="It was never submitted, or has expired"
            )
        return state

    def tenant(self, task_id: str) -> str | None:
        """Whose task it is; None if there is no such task."""
        return self._tenants.get(task_id, "") if task_id in self._since_ms else None

    def traceparent_of(self, stream_id: str) -> str:
        """The trace that a stream's task belongs to; empty where none is known."""
        state = self._tasks.get(stream_id)
        return "" if state is None else state.traceparent

    def recent(self, limit: int, tenant: str = "", allowed: Callable[[str], bool] = lambda _: True) -> list[TaskState]:
        """The newest tasks of ``tenant`` whose ids are ``allowed``, newest first."""
        seen = (name for _, name in reversed(self._newest) if sees(tenant, self.tenant(name)) and allowed(name))
        return [self._tasks[name] for name in islice(seen, limit)]

    def since_ms(self, stream_id: str) -> int | None:
        """The broker's time when the stream's task was submitted, milliseconds; None if there is no such task yet."""
        return self._since_ms.get(stream_id)

    def action_of(self, stream_id: str) -> tuple[str, str]:
        """The plugin and action that write a stream; both ``unknown`` where no such task is known."""
        state = self._tasks.get(stream_id)
        return (UNKNOWN, UNKNOWN) if state is None or not state.plugin else (state.plugin, state.action)

    def dead_letters(self, tenant: str = "") -> list[DeadLetter]:
        """Tasks of ``tenant`` that failed for good and were not sent again, newest first."""
        letters = [letter for letter in self._letters.values() if sees(tenant, letter.tenant)]
        return sorted(letters, key=lambda letter: letter.at_us, reverse=True)

    def dead_letter(self, task_id: str, tenant: str = "") -> DeadLetter:
        """One of them, or :class:`UnknownTask`."""
        letter = self._letters.get(task_id)
        if letter is None or not sees(tenant, letter.tenant):
            raise UnknownTask(
                f"no dead letter {task_id!r}", where="task_id", hint="It was sent again, or never failed for good"
            )
        return letter

    def runners(self, now_us: int) -> list[RunnerState]:
        """Runners that announced themselves lately."""
        return [state for state in self._runners.values() if now_us - state.at_us <= RUNNER_SILENT_US_MAX]

    def actions(self) -> Mapping[tuple[str, str], ActionInfo]:
        """What any known runner offers, by (plugin, action)."""
        return self._actions

    def broken_plugins(self) -> list[str]:
        """Plugins that some runner could not load, with the reason."""
        return sorted({broken for state in self._runners.values() for broken in state.broken_plugins})

    def check(self, plugin: str, action: str, params: Mapping[str, Any], later: Collection[Path] = ()) -> None:
        """Refuse what could never run: an unknown action, or parameters that do not fit its schema. What takes the places
        ``later`` is known when the task starts."""
        actions = self.actions()
        info = actions.get((plugin, action))
        if info is None:
            raise self._unknown(plugin, action, actions)
        found = self._validator(info.params_schema).iter_errors(params)
        problems = sorted(
            (each for each in found if not any(tuple(each.absolute_path)[: len(path)] == path for path in later)),
            key=lambda problem: problem.json_path,
        )
        if problems:
            first = problems[0]
            place = "" if first.json_path == "$" else f" {first.json_path}"
            raise InvalidParameters(first.message, where=f"{plugin}.{action}{place}", hint=_takes(info))

    def _unknown(self, plugin: str, action: str, known: Iterable[tuple[str, str]]) -> Unavailable | UnknownAction:
        if not self._runners:
            return Unavailable("no runner is connected", where="runners", hint="Start one: `apexstream serve runner`")
        for broken in self.broken_plugins():
            if broken.startswith(f"{plugin}: "):
                return UnknownAction(f"plugin {broken}", where="plugin", hint="Mend the plugin and restart its runner")
        plugins = sorted({name for name, _ in known})
        if plugin not in plugins:
            return UnknownAction(
                f"no plugin named {plugin!r}", where="plugin", hint=f"Known plugins: {', '.join(plugins)}"
            )
        actions = sorted(name for owner, name in known if owner == plugin)
        return UnknownAction(
            f"plugin {plugin} has no action {action!r}", where="action", hint=f"Known actions: {', '.join(actions)}"
        )

    def _validator(self, schema: bytes) -> Draft202012Validator:
        if schema not in self._validators:
            self._validators[schema] = Draft202012Validator(msgspec.json.decode(schema))
        return self._validators[schema]

    def _state(self, task_id: str) -> TaskState:
        state = self._tasks.get(task_id)
        if state is None:
            if len(self._tasks) >= TASKS_MAX:
                self._forget_one()
            state = self._tasks[task_id] = TaskState(task_id=task_id)
        return state

    def _forget_one(self) -> None:
        oldest = self._ended.popleft() if self._ended else next(iter(self._tasks))
        del self._tasks[oldest]
        self._since_ms.pop(oldest, None)
        self._tenants.pop(oldest, None)
        self.order.forget(oldest)
        if len(self._newest) > 2 * TASKS_MAX:
            self._newest = [each for each in self._newest if each[1] in self._tasks]

    def _read(self, record: Record, kind: type[Event]) -> Event | None:
        try:
            return self._codec.decode(record.value or b"", kind)
        except ChunkDecodeError as problem:
            _log.error("skipped a record that cannot be read", offset=record.offset, error=str(problem))
            return None


def _takes(info: ActionInfo) -> str:
    schema = msgspec.json.decode(info.params_schema)
    required = set(schema.get("required", ()))
    names = [name if name in required else f"{name}?" for name in schema.get("properties", ())]
    return f"It takes: {', '.join(names)}" if names else ""
