"""Coordination without Kafka: the log's order alone decides, and every attempt is told the same at the same place."""

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apexstream.core import coordination as core
from apexstream.core.coordination import Answer, Arrive, Await, Put, Read, Scope, Signal, read_question, scope_key
from apexstream.core.errors import ApexError, InvalidRequest
from apexstream.core.events import CoordinationAct, CoordinationEvent
from apexstream.plugin import Coordination, NotCoordinated, StreamPersistence, TransientError
from apexstream.plugin.errors import classify
from apexstream.runner.host.frames import Asked, BrokenFrame
from apexstream.runner.host.port import Call
from apexstream.runner.host.questions import Questions
from apexstream.runner.host.remote import RemoteCall

TASKS = ("a", "b", "c", "d")


def event(act: CoordinationAct, task: str = "a", name: str = "n", op: str = "", **more: Any) -> CoordinationEvent:
    return CoordinationEvent(
        scope="s", act=act, name=name, task_id=task, op=op or f"{act}/{name}", attempt=1, at_us=0, **more
    )


def folded(*events: CoordinationEvent) -> Scope:
    scope = Scope()
    for each in events:
        scope.apply(each)
    return scope


def arrive(parties: int, name: str = "n") -> Arrive:
    return Arrive(scope="", name=name, op=f"arrive/{name}", parties=parties, value=b"0", timeout_s=1)


ACTS = st.builds(
    event,
    st.sampled_from(list(CoordinationAct)),
    st.sampled_from(TASKS),
    st.sampled_from(["x", "y"]),
    st.sampled_from(["", "1", "2"]),
    value=st.binary(max_size=4),
    parties=st.sampled_from([2, 3]),
    version=st.integers(-1, 3),
)


def asked(task: str) -> list[Any]:
    """Every question that such events could be about."""
    return [
        question
        for name in ("x", "y")
        for question in (
            Signal(scope="", name=name, op=f"signal/{name}", value=b"1"),
            Await(scope="", name=name, op=f"give_up/{name}", timeout_s=1),
            arrive(2, name),
            Read(scope="", name=name, op=f"read/{name}"),
            Put(scope="", name=name, op=f"put/{name}", value=b"1", version=0),
        )
    ]


@settings(deadline=None)
@given(st.lists(ACTS, max_size=40), st.lists(ACTS, max_size=20))
def test_what_was_decided_stays_decided_whatever_comes_later(before: list[Any], after: list[Any]):
    scope = folded(*before)
    told = {(task, at): scope.answer(task, question) for task in TASKS for at, question in enumerate(asked(task))}
    for each in (*before, *after):  # once more, as a second attempt or a zombie would write it
        scope.apply(each)
    for (task, at), answer in told.items():
        if answer is not None:
            assert scope.answer(task, asked(task)[at]) == answer


@settings(deadline=None)
@given(st.lists(st.sampled_from(TASKS), max_size=20), st.integers(1, 4))
def test_a_barrier_opens_for_as_many_tasks_as_it_is_for_and_counts_each_once(arrivals: list[str], parties: int):
    scope = folded(*(event(CoordinationAct.ARRIVE, task, value=b"1", parties=parties) for task in arrivals))
    first = list(dict.fromkeys(arrivals))
    for task in TASKS:
        answer = scope.answer(task, arrive(parties))
        if len(first) < parties:
            assert answer is None
        elif task in first[:parties]:
            assert list(msgspec.json.decode((answer or Answer()).value)) == first[:parties]
        elif task in first:
            assert answer is not None
            assert answer.code == "barrier_full"


def test_the_first_signal_decides_the_value():
    scope = folded(event(CoordinationAct.SIGNAL, value=b"1"), event(CoordinationAct.SIGNAL, "b", value=b"2"))
    for task in TASKS:
        found = scope.answer(task, Await(scope="", name="n", op="o", timeout_s=1))
        assert found is not None
        assert found.value == b"1"


def test_who_gave_up_before_the_signal_has_given_up_for_good_and_nobody_else():
    question = Await(scope="", name="n", op="give_up/n", timeout_s=1)
    scope = folded(event(CoordinationAct.GIVE_UP), event(CoordinationAct.SIGNAL, "b", value=b"1"))
    told = [scope.answer(task, question) for task in ("a", "b")]
    assert [answer and answer.code for answer in told] == ["coordination_timeout", ""]
    scope = folded(event(CoordinationAct.SIGNAL, "b", value=b"1"), event(CoordinationAct.GIVE_UP))
    assert scope.answer("a", question) == Answer(value=b"1")


def test_a_barrier_that_one_left_is_broken_for_all_but_not_once_it_was_open():
    come, leave = (lambda task: event(CoordinationAct.ARRIVE, task, parties=2)), event(CoordinationAct.LEAVE)
    for events, code in (((come("a"), leave, come("b")), "barrier_broken"), ((come("a"), come("b"), leave), "")):
        told = [folded(*events).answer(task, arrive(2)) for task in ("a", "b")]
        assert [answer and answer.code for answer in told] == [code, code]


def test_parties_that_count_differently_are_told():
    scope = folded(event(CoordinationAct.ARRIVE, parties=2), event(CoordinationAct.ARRIVE, "b", parties=3))
    answer = scope.answer("b", Arrive(scope="", name="n", op="arrive/n", parties=3, value=b"", timeout_s=1))
    assert answer is not None
    assert answer.code == "barrier_mismatch"


def test_a_scope_is_bounded_in_events_and_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(core, "SCOPE_EVENTS_MAX", 3)
    scope = folded(*(event(CoordinationAct.PUT, op=str(n), value=b"1") for n in range(5)))
    put = Put(scope="", name="n", op="9", value=b"1", version=-1)
    told = scope.answer("a", put)
    assert told is not None
    assert told.code == "coordination_full"
    kept = scope.answer("a", msgspec.structs.replace(put, op="2"))
    assert kept is not None
    assert kept.version == 3
    monkeypatch.setattr(core, "SCOPE_EVENTS_MAX", 100)
    monkeypatch.setattr(core, "SCOPE_BYTES_MAX", 10)
    scope = folded(*(event(CoordinationAct.PUT, op=str(n), value=b"12345") for n in range(5)))
    assert scope.is_full


def test_tenants_never_meet_and_a_graph_is_no_named_scope():
    assert len({scope_key(tenant, *place) for tenant in ("", "x") for place in (("g", ""), ("", "g"), ("", "h"))}) == 6
    assert scope_key("x", "g", "named") == scope_key("x", "", "named")
    with pytest.raises(InvalidRequest, match="no graph"):
        scope_key("x", "", "")


@pytest.mark.parametrize(
    "question",
    [
        b"",
        b"\xff" * 9,
        msgspec.msgpack.encode({"ask": "steal"}),
        msgspec.msgpack.encode({"ask": "read", "scope": "", "name": "A B", "op": "o"}),
        msgspec.msgpack.encode({"ask": "read", "scope": "/x", "name": "n", "op": "o"}),
        msgspec.msgpack.encode({"ask": "read"}),
        msgspec.msgpack.encode(msgspec.structs.replace(arrive(1000), value=b"x" * 200)),
    ],
)
def test_what_is_no_question_is_refused(question: bytes):
    with pytest.raises(InvalidRequest):
        read_question(question)


class Platform:
    """Scopes in memory: what a runner does, without the log."""

    def __init__(self) -> None:
        self.scope = Scope()
        self.task = "a"
        self.events = 0

    async def ask(self, data: bytes) -> bytes:
        question = read_question(data)
        answer = self.scope.answer(self.task, question)
        if answer is None:
            act = CoordinationAct(str(question.__struct_config__.tag).replace("await", "give_up"))
            more = {key: getattr(question, key) for key in ("value", "parties", "version") if hasattr(question, key)}
            self.scope.apply(event(act, self.task, question.name, question.op, **more))
            self.events += 1
            answer = self.scope.answer(self.task, question)
        return msgspec.msgpack.encode(answer or core.refused("unavailable", "nobody came"))

    def attempt(self, data_seq: int = 0) -> tuple[Coordination, StreamPersistence]:
        persistence = StreamPersistence(task_id=self.task, data_seq=data_seq)
        return Coordination(self.ask, persistence), persistence


async def run(coordination: Coordination, persistence: StreamPersistence, chunks: int) -> list[Any]:
    """What an action sees that reads and changes a value between its chunks."""
    seen: list[Any] = []
    for _ in range(chunks):
        seen.append((await coordination.get("v")).value)
        seen.append((await coordination.get("v")).value)
        done = await coordination.update("v", lambda value: (value or 0) + 1)
        seen.append((done.value, done.version))
        persistence.data_seq += 1
    return seen


async def test_another_attempt_sees_what_the_first_saw_from_the_start_or_from_a_checkpoint():
    platform = Platform()
    first = await run(*platform.attempt(), chunks=3)
    platform.task = "b"
    await run(*platform.attempt(), chunks=2)  # somebody else changes it meanwhile
    platform.task, events = "a", platform.events
    assert await run(*platform.attempt(), chunks=3) == first
    assert await run(*platform.attempt(data_seq=1), chunks=2) == first[3:]
    assert platform.events == events
    assert [each for each in first if isinstance(each, tuple)] == [(1, 1), (2, 2), (3, 3)]


async def test_errors_are_permanent_but_for_a_platform_that_does_not_answer():
    coordination, _ = Platform().attempt()
    with pytest.raises(NotCoordinated) as refusal:
        await coordination.wait_for("never", timeout_s=0)
    assert (refusal.value.code, classify(refusal.value)) == ("coordination_timeout", "permanent")
    with pytest.raises(TransientError, match="nobody came"):
        await coordination.barrier("alone", 2)


async def test_what_cannot_be_asked_is_refused_before_it_is():
    coordination, _ = Platform().attempt()
    for wrong in (
        coordination.signal("A B"),
        coordination.signal("n", object()),
        coordination.signal("n", "x" * 70_000),
        coordination.signal("n", scope="/"),
        coordination.barrier("n", 0),
        coordination.barrier("n", 1_000, "x" * 200),
        coordination.wait_for("n", timeout_s=float("nan")),
    ):
        with pytest.raises(InvalidRequest):
            await wrong
    with pytest.raises(ApexError, match="nobody to meet"):
        await Coordination().signal("n")


async def test_questions_that_were_given_up_count_until_they_are_answered():
    sent: list[int] = []
    questions = Questions(lambda number, _: sent.append(number))
    asking = [asyncio.create_task(questions.ask(b"")) for _ in range(core.ASKED_MAX + 1)]
    await asyncio.sleep(0)
    for task in asking[:2]:
        task.cancel()
    await asyncio.gather(*asking[:2], return_exceptions=True)
    assert len(sent) == core.ASKED_MAX
    questions.answer(0, b"late")
    questions.answer(0, b"twice")
    await asyncio.sleep(0)
    assert len(sent) == core.ASKED_MAX + 1
    for number in sent[1:]:
        questions.answer(number, b"now")
    assert set(await asyncio.gather(*asking[2:])) == {b"now"}


class Sink:
    def __init__(self) -> None:
        self.questions: list[int] = []

    def chunks(self, chunks: Any, checkpoint: Any) -> None: ...
    def ended(self, outcome: Any) -> None: ...
    def asked(self, number: int, question: bytes) -> None:
        self.questions.append(number)


async def test_a_process_that_asks_more_at_once_than_it_may_breaks_a_rule():
    sink = Sink()
    call = RemoteCall(Call(task_id="t", attempt=1, plugin="p", action="a", params=b"{}"), sink)
    for number in range(core.ASKED_MAX):
        call.asked(Asked(0, number, b""))
    with pytest.raises(BrokenFrame):
        call.asked(Asked(0, 99, b""))
    with pytest.raises(BrokenFrame):
        call.asked(Asked(0, 0, b""))
    call.answer(0, b"")
    call.asked(Asked(0, 99, b""))
    assert sink.questions == [*range(core.ASKED_MAX), 99]


def test_the_example_in_the_document_is_an_action():
    text = (Path(__file__).parents[2] / "docs" / "coordination.md").read_text()
    names: dict[str, Any] = {"__name__": "nightly"}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], names)
    assert [spec.name for spec in names["plugin"].get_actions()] == ["load"]
    for code in ("coordination_timeout", "barrier_broken", "barrier_full", "barrier_mismatch", "coordination_full"):
        assert f"`{code}`" in text
