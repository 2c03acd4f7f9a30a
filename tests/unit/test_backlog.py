"""What waits, counted as tasks come and go."""

from collections.abc import Iterator
from typing import Any, Never

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apexstream.contracts.codec import Codec
from apexstream.core.events import QueueState, TaskChange, TaskEvent, TaskSubmitted
from apexstream.core.tiers import DEFAULT_TIERS
from apexstream.gateway.backlog import SPARE, Backlog
from apexstream.gateway.registry import Registry

NAMES = st.sampled_from([f"t{n}" for n in range(12)])
TIERS = st.sampled_from(DEFAULT_TIERS.names)
STEPS = st.lists(st.tuples(st.sampled_from(["add", "remove", "move"]), NAMES, TIERS, st.integers(0, 5)), max_size=60)


@given(steps=STEPS)
def test_a_backlog_tells_what_looking_through_all_tasks_would(steps: list[tuple[str, str, str, int]]) -> None:
    backlog, model = Backlog(), dict[str, tuple[str, str, int]]()
    for what, name, tier, number in steps:
        if what == "add" and name not in model:
            backlog.add(name, tier, f"tenant{number % 2}", number)
            model[name] = (tier, f"tenant{number % 2}", number)
        elif what == "remove":
            backlog.remove(name)
            model.pop(name, None)
        elif what == "move":
            backlog.move(name, tier)
            if name in model:
                model[name] = (tier, *model[name][1:])
        for each in DEFAULT_TIERS.names:
            waits = [since for where, _, since in model.values() if where == each]
            assert (backlog.depth(each), backlog.oldest_us(each)) == (len(waits), min(waits, default=None))
        for tenant in ("tenant0", "tenant1"):
            assert backlog.of_tenant(tenant) == sum(whose == tenant for _, whose, _ in model.values())


def test_what_has_left_is_not_kept() -> None:
    backlog = Backlog()
    backlog.add("stays", "low", "", 0)
    for number in range(10 * SPARE):
        backlog.add(f"t{number}", "low", "", number)
        backlog.remove(f"t{number}")

    assert len(backlog._oldest["low"]) <= SPARE + 3
    assert (backlog.depth("low"), backlog.oldest_us("low")) == (1, 0)


class Unread(dict[str, Any]):
    """Tasks that can be looked up one by one only."""

    def __iter__(self) -> Iterator[str]:
        self._refuse()

    def keys(self) -> Any:
        self._refuse()

    def values(self) -> Any:
        self._refuse()

    def items(self) -> Any:
        self._refuse()

    def _refuse(self) -> Never:
        raise AssertionError("all tasks were looked through")


class Written:
    """A record."""

    offset, key, timestamp = 0, b"", 0

    def __init__(self, value: bytes) -> None:
        self.value = value


def test_tasks_that_ended_first_are_forgotten_first_without_looking_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apexstream.gateway.registry.TASKS_MAX", 4)
    codec = Codec()
    registry = Registry(codec, lambda _: None, DEFAULT_TIERS, tenant_waiting_max=10)
    for number in range(4):
        registry.submitted(submitted(f"t{number}"), 0)
    for task_id in ("t2", "t1"):
        ended = TaskEvent(task_id=task_id, change=TaskChange.COMPLETED, at_us=5, attempt=1, by="r")
        registry.on_task_events(("events", 0), [Written(codec.encode(ended))])
    registry._tasks = Unread(registry._tasks)

    registry.submitted(submitted("t4"), 0)
    registry.submitted(submitted("t5"), 0)

    assert [registry.tenant(f"t{number}") for number in range(6)] == ["", None, None, "", "", ""]


def submitted(task_id: str, submitted_us: int = 0) -> TaskSubmitted:
    return TaskSubmitted(task_id=task_id, plugin="p", action="a", params=b"{}", tier="low", submitted_us=submitted_us)


def test_what_the_queue_tells_costs_the_same_however_many_tasks_are_known() -> None:
    codec = Codec()
    registry = Registry(codec, lambda _: None, DEFAULT_TIERS, tenant_waiting_max=10)
    for number in range(6):
        registry.submitted(submitted(f"t{number}", 1_000_000 * number), 0)
    started = TaskEvent(task_id="t0", change=TaskChange.ASSIGNED, at_us=5, attempt=0, by="d")
    registry.on_task_events(("events", 0), [Written(codec.encode(started))])
    told = b'{"tiers":[{"tier":"high"},{"tier":"low"}]}'
    state = QueueState(dispatcher="d", epoch=1, at_us=10_000_000, state=told)
    registry.order.on_queue_state(("queue", 0), [Written(codec.encode(state))])
    registry._tasks = Unread(registry._tasks)

    high, low = registry.order.queue(10_000_000)["tiers"]

    assert (high["depth"], high["age_s"]) == (0, 0.0)
    assert (low["depth"], low["age_s"]) == (5, 9.0)
