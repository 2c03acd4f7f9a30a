"""What an author declares and keeps for resuming: modes, options, checkpoints, classes of errors."""

import asyncio
import errno
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

import msgspec
import pytest

from apexstream.core.chunk import CHECKPOINT_BYTES_MAX
from apexstream.core.errors import OutcomeUnknown
from apexstream.plugin import (
    ActionContext,
    ActionSpec,
    BasePlugin,
    Chunk,
    ErrorClass,
    InvalidChunk,
    InvalidParameters,
    PermanentError,
    Plugin,
    PluginManager,
    RateLimited,
    ResourceError,
    StreamPersistence,
    TaskOptions,
    TransientError,
    UnknownAction,
    classify,
)
from apexstream.plugin.decorated import OptionFields
from apexstream.plugin.persistence import encode_state, enter


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def kept(persistence: StreamPersistence, states: list[Any]) -> list[Any]:
    """Yield one chunk a state, as the platform sees them; what was kept with each."""
    found = []
    for state in states:
        if state is not None:
            persistence.state = state
        checkpoint = persistence.take()
        persistence.data_seq += 1
        found.append(None if checkpoint is None else msgspec.msgpack.decode(checkpoint))
    return found


def declared(**keywords: Any) -> ActionSpec:
    plugin = Plugin("p")

    @plugin.action(**keywords)
    async def go() -> AsyncIterator[int]:
        yield 1

    plugins = PluginManager([])
    plugins.add("p", plugin)
    return plugins.spec("p", "go")


def test_a_bare_action_restarts_and_has_no_options():
    plugin = Plugin("p")

    @plugin.action
    async def go() -> AsyncIterator[int]:
        yield 1

    (spec,) = plugin.get_actions()
    assert (spec.resume, spec.options) == ("restart", TaskOptions())


def test_an_action_declares_how_it_resumes_and_defaults_for_its_tasks():
    spec = declared(resume="checkpointed", idle_timeout_s=30, max_attempts=9, keep=True)
    assert spec.resume == "checkpointed"
    assert spec.options == TaskOptions(idle_timeout_s=30.0, max_attempts=9, keep=True)


@pytest.mark.parametrize(
    "keywords", [{"resume": "sometimes"}, {"max_attempts": 0}, {"idle_timeout": 3}, {"ttl_s": "x"}]
)
def test_a_declaration_that_cannot_be_is_refused_when_it_is_made(keywords: dict[str, Any]):
    with pytest.raises(TypeError, match="go"):
        declared(**keywords)


def test_the_decorator_takes_every_task_option():
    assert set(get_type_hints(OptionFields)) == set(TaskOptions.__struct_fields__)


class Classic(BasePlugin):
    def __init__(self, modes: dict[str, str], actions: list[ActionSpec | str]) -> None:
        self.modes, self.actions = modes, actions

    def get_actions(self) -> list[ActionSpec | str]:
        return self.actions

    def resume_mode(self, action_name: str) -> str:
        return self.modes.get(action_name, "restart")


def test_a_class_names_its_modes_by_method_or_by_spec():
    plugins = PluginManager([])
    plugins.add("p", Classic({"a": "checkpointed"}, ["a", "b", ActionSpec(name="c", resume="deterministic")]))
    assert [plugins.spec("p", name).resume for name in "abc"] == ["checkpointed", "restart", "deterministic"]


def test_a_class_with_a_mode_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="resume='often'"):
        PluginManager([]).add("p", Classic({"a": "often"}, ["a"]))


@dataclass
class Place:
    line: int
    name: str = "x"


class Tally(msgspec.Struct):
    counts: dict[str, int]


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (Place(3, "y"), Place),
        (Tally({"a": 1}), Tally),
        ({"n": 1}, dict),
        (7, int),
        (b"\x00raw", bytes),
        ({1, 2}, set[int]),
    ],
)
def test_a_state_comes_back_as_it_was(state: Any, kind: Any):
    assert StreamPersistence(checkpoint=encode_state(state)).restored(kind) == state


def test_a_fresh_start_restores_nothing():
    assert StreamPersistence().restored(Place) is None


def test_fields_added_to_a_state_later_take_their_defaults():
    stored = encode_state({"line": 3})
    assert StreamPersistence(checkpoint=stored).restored(Place) == Place(3, "x")


@pytest.mark.parametrize("stored", [encode_state({"row": 3}), b"\xc1", encode_state([1])])
def test_a_state_that_does_not_fit_is_permanent(stored: bytes):
    with pytest.raises(PermanentError) as caught:
        StreamPersistence(task_id="t1", checkpoint=stored).restored(Place)
    assert classify(caught.value) is ErrorClass.PERMANENT
    assert "t1" in str(caught.value)


@pytest.mark.parametrize("state", [b"x" * (CHECKPOINT_BYTES_MAX + 1), object(), "\ud800"])
def test_a_state_that_cannot_be_kept_is_one_clear_error(state: Any):
    with pytest.raises(InvalidChunk):
        encode_state(state)


def test_without_a_rhythm_every_assigned_state_is_kept_with_the_next_chunk_only():
    assert kept(StreamPersistence(), [1, None, 3, None]) == [1, None, 3, None]


def test_every_so_many_chunks_the_state_of_that_chunk_is_kept():
    persistence = StreamPersistence()
    persistence.every(chunks=3)
    assert kept(persistence, [0, 1, 2, 3, 4, 5, 6]) == [None, None, 2, None, None, 5, None]


def test_a_due_checkpoint_waits_for_the_next_assigned_state():
    persistence = StreamPersistence()
    persistence.every(chunks=2)
    assert kept(persistence, [0, None, None, 3, 4, 5]) == [None, None, None, 3, None, 5]


def test_every_so_many_seconds_by_a_clock_that_never_goes_back():
    clock = Clock()
    persistence = StreamPersistence(monotonic=clock)
    persistence.every(seconds=10)
    assert kept(persistence, [0, 1]) == [None, None]
    clock.now = 10.0
    assert kept(persistence, [2, 3]) == [2, None]
    clock.now = 20.5
    assert kept(persistence, [4]) == [4]


def test_chunks_or_seconds_whichever_comes_first():
    clock = Clock()
    persistence = StreamPersistence(monotonic=clock)
    persistence.every(chunks=3, seconds=10)
    assert kept(persistence, [0, 1, 2]) == [None, None, 2]
    clock.now = 11.0
    assert kept(persistence, [3, 4]) == [3, None]


@pytest.mark.parametrize("rhythm", [{"chunks": 0}, {"seconds": 0}, {"seconds": -1.0}])
def test_a_rhythm_that_cannot_be_is_refused(rhythm: dict[str, Any]):
    with pytest.raises(ValueError, match="every"):
        StreamPersistence().every(**rhythm)


def test_a_chunks_own_checkpoint_is_always_kept_and_starts_the_rhythm_again():
    persistence = StreamPersistence()
    persistence.every(chunks=3)
    assert kept(persistence, [0, 1]) == [None, None]
    persistence.state = "assigned"
    assert persistence.take({"own": 1}) == encode_state({"own": 1})
    persistence.data_seq += 1
    assert kept(persistence, [3, 4, 5]) == [None, None, 5]


def test_what_is_due_is_known_before_the_state_is_made():
    persistence = StreamPersistence()
    persistence.every(chunks=2)
    asked = []
    for number in range(4):
        asked.append(persistence.due)
        persistence.state = number
        persistence.take()
        persistence.data_seq += 1
    assert asked == [False, True, False, True]


def test_a_demanded_checkpoint_is_due_at_once():
    persistence = StreamPersistence()
    persistence.every(chunks=100)
    persistence.demand()
    assert kept(persistence, [1, 2]) == [1, None]


def test_an_action_that_keeps_no_checkpoints_is_told_when_it_tries():
    persistence = StreamPersistence(refused="p.go goes on by restart")
    with pytest.raises(InvalidChunk, match="restart"):
        persistence.state = 1
    with pytest.raises(InvalidChunk, match="checkpointed"):
        persistence.take({"own": 1})


def test_the_idempotency_key_is_that_of_the_next_data_chunk_of_the_stream():
    persistence = StreamPersistence(task_id="t1", data_seq=5)
    assert (persistence.idempotency_key(), persistence.idempotency_key(2)) == ("t1/5", "t1/2")


async def test_context_and_class_see_the_persistence_of_their_own_task():
    plugin, seen = Plugin("p"), []

    @plugin.action
    async def go(ctx: ActionContext) -> AsyncIterator[int]:
        seen.append((ctx.task_id, ctx.attempt, ctx.restored(int), ctx.idempotency_key()))
        yield 1

    plugins = PluginManager([])
    plugins.add("p", plugin)

    async def run(task_id: str) -> None:
        enter(StreamPersistence(task_id=task_id, attempt=2, checkpoint=encode_state(9), data_seq=4))
        assert [value async for value in plugins.run("p", "go")] == [1]

    await asyncio.gather(run("t1"), run("t2"))
    assert seen == [("t1", 2, 9, "t1/4"), ("t2", 2, 9, "t2/4")]


async def test_a_blocking_generator_finds_it_in_its_thread():
    class Blocking(BasePlugin):
        def get_actions(self) -> list[str]:
            return ["go"]

        def execute_action_stream(
            self, action_name, params=None, progress_callback=None, cancellation_token=None
        ) -> Iterator[Any]:
            assert threading.current_thread() is not threading.main_thread()
            yield StreamPersistence.current().task_id

    plugins = PluginManager([])
    plugins.add("p", Blocking())
    enter(StreamPersistence(task_id="t7"))
    assert [value async for value in plugins.run("p", "go")] == ["t7"]


async def test_without_a_platform_checkpoints_are_kept_nowhere_and_harm_nobody():
    plugin = Plugin("p")

    @plugin.action(resume="checkpointed")
    async def go(ctx: ActionContext) -> AsyncIterator[Any]:
        ctx.persistence.every(chunks=2)
        assert ctx.restored(int) is None
        ctx.persistence.state = 1
        yield Chunk("a", checkpoint=1)

    plugins = PluginManager([])
    plugins.add("p", plugin)
    assert [value.value async for value in plugins.run("p", "go")] == ["a"]


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        (TransientError("x"), "transient"),
        (ConnectionResetError(), "transient"),
        (TimeoutError(), "transient"),
        (OSError(errno.EHOSTUNREACH, "no route"), "transient"),
        (asyncio.IncompleteReadError(b"", 3), "transient"),
        (OutcomeUnknown("x"), "transient"),
        (RateLimited(3), "rate_limited"),
        (PermanentError("x"), "permanent"),
        (InvalidParameters("x"), "permanent"),
        (InvalidChunk("x"), "permanent"),
        (UnknownAction("x"), "permanent"),
        (PermissionError("x"), "permanent"),
        (ResourceError("x"), "resource"),
        (MemoryError(), "resource"),
        (OSError(errno.ENOSPC, "full"), "resource"),
        (OSError(errno.EMFILE, "files"), "resource"),
        (OSError(errno.EIO, "bad"), "plugin_bug"),
        (OSError("no number"), "plugin_bug"),
        (FileNotFoundError("x"), "plugin_bug"),
        (ValueError("x"), "plugin_bug"),
        (KeyError("x"), "plugin_bug"),
        (ExceptionGroup("g", [TimeoutError(), ConnectionError()]), "transient"),
        (ExceptionGroup("g", [TimeoutError(), ExceptionGroup("h", [KeyError("x")])]), "plugin_bug"),
    ],
)
def test_an_exception_has_the_class_that_decides_whether_it_is_tried_again(problem: BaseException, expected: str):
    assert classify(problem) == expected


def test_a_rate_limit_says_how_long_in_its_json():
    assert RateLimited(2.5, "busy", where="api").as_dict() == {
        "code": "rate_limited",
        "message": "busy",
        "where": "api",
        "retry_after_s": 2.5,
    }
