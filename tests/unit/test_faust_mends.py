"""Every mend of Faust, next to stock Faust, which must still be wrong: where it is right one day, its mend can go."""

import asyncio
from collections import defaultdict
from threading import Thread
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from faust.exceptions import ValueDecodeError
from faust.stores.memory import Store
from faust.tables.recovery import Recovery
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from intervaltree import IntervalTree
from mode.threads import WorkerThread

from apexstream.processors import faust_mends
from apexstream.processors.faust_mends import (
    MendedApp,
    MendedConsumer,
    MendedProducer,
    MendedRecovery,
    MendedSchema,
    MendedStore,
    MendedThread,
)

AT = TP("work", 0)


def stock_and(stock: type, mended: type) -> Any:
    wrong = pytest.mark.xfail(
        strict=True, reason="what the mend is for", raises=(AssertionError, TimeoutError, ValueError)
    )
    return pytest.mark.parametrize(
        "kind", [pytest.param(stock, marks=wrong, id="stock"), pytest.param(mended, id="mended")]
    )


def consumer(kind: Any, committed: int | None = None) -> Any:
    """A consumer without a connection."""
    made = kind.__new__(kind)
    made._acked, made._acked_index = defaultdict(list), defaultdict(set)
    made._gap, made._read_offset = defaultdict(IntervalTree), {AT: None}
    made._committed_offset = defaultdict(lambda: committed)
    made._in_flight, made._highest = defaultdict(dict), {}
    made._active_partitions, made._paused_partitions = {AT}, set()
    return made


def deliver(made: Any, *offsets: int, acked: tuple[int, ...]) -> None:
    for offset in offsets:
        made._in_flight[AT][offset] = None
        made._highest[AT] = offset
    made._acked[AT] += acked
    made._acked_index[AT].update(acked)


@stock_and(driver.Consumer, MendedConsumer)
@pytest.mark.parametrize("committed", [None, 5])
def test_nothing_is_committed_past_a_message_that_is_still_being_processed(kind: Any, committed: int | None) -> None:
    made = consumer(kind, committed)
    deliver(made, 5, 6, 7, acked=(6, 7))

    assert made._new_offset(AT) in {None, 5}


@stock_and(driver.Consumer, MendedConsumer)
async def test_the_message_after_a_gap_in_the_offsets_is_not_taken_for_done(kind: Any) -> None:
    made = consumer(kind, 0)
    await made._add_gap(AT, 1, 5)  # after offset 0 comes offset 5
    deliver(made, 0, 5, 6, acked=(0, 6))

    assert made._new_offset(AT) == 5


@stock_and(driver.Consumer, MendedConsumer)
async def test_acknowledgements_of_revoked_partitions_can_still_be_committed(kind: Any) -> None:
    made = consumer(kind, 0)
    made.diag = SimpleNamespace(set_flag=lambda _: None, unset_flag=lambda _: None)
    made.app = SimpleNamespace(_start_span_from_rebalancing=lambda _: _Span())
    deliver(made, 0, 1, acked=(0, 1))
    seen: list[list[int]] = []

    async def commit(_: Any) -> None:
        seen.append(list(made._acked[AT]))

    made._on_partitions_revoked = commit

    await made.on_partitions_revoked({AT})

    assert seen == [[0, 1]]


class _Span:
    def __enter__(self) -> "_Span":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@stock_and(driver.Consumer, MendedConsumer)
async def test_a_rebalance_does_not_wait_for_ever_for_an_event_that_nobody_acknowledges(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faust_mends, "DRAIN_TIMEOUT_S", 0.05)
    made = consumer(kind)
    made._unacked_messages = {_Waiting()}
    made.app = SimpleNamespace(agents=SimpleNamespace(human_tracebacks=str))
    made.diag = SimpleNamespace(set_flag=lambda _: None, unset_flag=lambda _: None)
    made.log = SimpleNamespace(dev=lambda *_: None, warning=lambda *_: None, info=lambda *_: None)
    made._stopped = made._crashed = SimpleNamespace(is_set=lambda: False)
    made._clean_unacked_messages = lambda: None

    async def nothing(*_: Any, **__: Any) -> None:
        await asyncio.sleep(0.01)

    made.commit = made._wait_for_ack = made.sleep = nothing

    async with asyncio.timeout(1):
        await made.wait_empty()


class _Waiting:
    acked = False
    refcount = 1


@stock_and(driver.Producer, MendedProducer)
def test_what_is_sent_is_idempotent_without_transactions(kind: Any) -> None:
    producer = kind.__new__(kind)
    producer.app = SimpleNamespace(in_transaction=False)

    assert producer._settings_extra().get("enable_idempotence") is True


@stock_and(Store, MendedStore)
async def test_what_is_held_as_a_standby_stays_when_a_recovery_ends(kind: Any) -> None:
    store = kind.__new__(kind)
    store.data, store._key_partition = {b"active": b"1", b"standby": b"2", b"gone": b"3"}, {}
    store._key_partition = {b"active": 0, b"standby": 1, b"gone": 2}

    await store.on_recovery_completed({TP("state", 0)}, {TP("state", 1)})

    assert store.data == {b"active": b"1", b"standby": b"2"}


def recovery(kind: Any, calls: list[str]) -> Any:
    async def call(name: str) -> None:
        calls.append(name)

    def note(name: str) -> Any:
        return lambda *_: calls.append(name)

    state = TP("state", 0)
    app = SimpleNamespace(
        conf=SimpleNamespace(stream_recovery_delay=0, broker_request_timeout=1),
        consumer_generation_id=1,
        tracer=None,
        _rebalancing_span=None,
        assignor=SimpleNamespace(assigned_actives=lambda: {state}, assigned_standbys=set),
        flow_control=SimpleNamespace(resume=note("clear queues")),
        on_rebalance_complete=SimpleNamespace(send=lambda: call("told")),
        on_rebalance_end=note("ended"),
        _fetcher=SimpleNamespace(maybe_start=lambda: call("fetcher")),
        consumer=SimpleNamespace(
            assignment=lambda: {AT},
            perform_seek=lambda: call("seek"),
            resume_partitions=note("resume"),
            resume_flow=note("flow"),
            stop_flow=note("stop flow"),
        ),
    )
    tables = _Tables({})
    made = kind(app, tables)
    made._is_changelog_tp = lambda _: False

    async def wait(awaited: Any, timeout: float) -> None:
        await awaited

    made._wait = wait
    return made


class _Tables(dict[str, Any]):
    _changelogs = {"state": "table"}  # noqa: RUF012 - as Faust's

    def on_actives_ready(self) -> None: ...
    def on_standbys_ready(self) -> None: ...


class _Table:
    @staticmethod
    def persisted_offset(_: TP) -> None:
        return None


@stock_and(Recovery, MendedRecovery)
async def test_nothing_is_delivered_between_the_resumption_and_the_clearing_of_the_queues(kind: Any) -> None:
    calls: list[str] = []
    made = recovery(kind, calls)

    await made.on_recovery_completed(1)

    assert calls.index("clear queues") < calls.index("seek") < calls.index("resume") < calls.index("flow")


@stock_and(Recovery, MendedRecovery)
async def test_a_standby_that_becomes_active_reads_on_where_it_is(kind: Any) -> None:
    made = recovery(kind, [])
    made.tables._changelogs = {"state": _Table()}
    state = TP("state", 0)
    made.standby_tps.add(state)
    made.standby_offsets[state] = 41

    await made.on_rebalance({state}, set(), {state}, generation_id=1)

    assert made.active_offsets[state] == 41


@stock_and(Recovery, MendedRecovery)
async def test_what_arrives_of_a_lost_partition_does_not_count_as_recovered_when_it_comes_back(kind: Any) -> None:
    made = recovery(kind, [])
    made.tables._changelogs = {"state": _Table()}
    state = TP("state", 0)
    made.active_offsets[state] = 41  # noted after the loss; the rows before were forgotten with it

    await made.on_rebalance({state}, set(), {state}, generation_id=1)

    assert made.active_offsets[state] is None


class _StockSchema(faust.Schema):
    def __init__(self, decode: Any) -> None:
        super().__init__(key_serializer="raw", value_serializer="raw")
        self._decode = decode

    def loads_value(self, app: Any, message: Any, **_: Any) -> Any:
        return self._decode(message.value)


@stock_and(_StockSchema, MendedSchema)
async def test_a_value_that_cannot_be_read_does_not_reach_the_fetcher_as_anything_but_a_decode_error(kind: Any) -> None:
    def broken(_: bytes) -> None:
        raise ValueError("a codec's own error")

    schema = kind(broken)
    message = SimpleNamespace(key=b"k", value=b"v", headers=None, tp=AT, offset=3)

    with pytest.raises(ValueDecodeError):
        schema.loads_value(None, message)


@stock_and(WorkerThread, MendedThread)
def test_a_thread_that_does_not_end_holds_up_neither_the_loop_nor_the_end_of_the_process(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faust_mends, "DRAIN_TIMEOUT_S", 0.05)
    worker = kind(None)
    stopping = Thread(target=worker.stop, daemon=True)
    stopping.start()
    stopping.join(1)
    held_up = stopping.is_alive()
    worker.is_stopped.set()

    assert not held_up
    assert worker.daemon


class _Thread:
    """A consumer's thread that nobody has told to stop."""

    def __init__(self) -> None:
        self._thread_started, self._shutdown = asyncio.Event(), asyncio.Event()
        self._thread_started.set()

    def _stopped_set(self) -> None:
        self._shutdown.set()


@stock_and(faust.App, MendedApp)
async def test_stopping_is_bounded_and_ends_the_consumer_even_so(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faust_mends, "DRAIN_TIMEOUT_S", 0.05)

    async def hang(_: Any) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(faust.App, "stop", hang)
    app, thread = kind.__new__(kind), _Thread()
    app._consumer = SimpleNamespace(_thread=thread)

    async with asyncio.timeout(1):
        await app.stop()

    assert thread._shutdown.is_set()
