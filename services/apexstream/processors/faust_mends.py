"""What of faust-streaming 0.15.3 has to be mended. Each mend says what is wrong, and has a test that fails without it
(``tests/unit/test_faust_mends.py``); when such a test finds stock Faust right, the mend can go.

Nothing here knows of pipelines.
"""

import asyncio
import contextlib
import gc
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import monotonic
from typing import Any, cast

import faust
import structlog
from faust.exceptions import KeyDecodeError, ValueDecodeError
from faust.stores.memory import Store
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.threads import WorkerThread

DRAIN_TIMEOUT_S = 10.0

_log = structlog.get_logger(__name__)


class MendedThread(WorkerThread):
    """The consumer's thread. Stock lets the event loop stand still until it has ended, and the process cannot end before it;
    one that waits for an answer of that loop never does. Here the loop waits ``DRAIN_TIMEOUT_S``, and the process not at all."""

    def __init__(self, service: Any, **more: Any) -> None:
        super().__init__(service, **more)
        self.daemon = True

    def stop(self) -> None:
        self.is_stopped.wait(DRAIN_TIMEOUT_S)


class MendedConsumer(driver.Consumer):
    """Commits nothing that was not processed, and loses nothing that was.

    * Stock ``_new_offset`` commits past messages that are still being processed: at the head of a partition, with a fresh
      group, and after a gap in the offsets (``_add_gap`` takes the message after it for done). Here the offset to commit is
      the lowest that was delivered and is not acknowledged.
    * Stock forgets acknowledgements of revoked partitions before it waits for the events in flight, so they are never
      committed and processed again. Here it forgets afterwards.
    * Stock ``wait_empty`` waits for ever for an event that nobody acknowledges, and no rebalance ends. Here for
      ``DRAIN_TIMEOUT_S``; what is not done by then is delivered again.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._in_flight: dict[TP, dict[int, None]] = defaultdict(dict)  # insertion order is offset order
        self._highest: dict[TP, int] = {}
        super().__init__(*args, **kwargs)
        deliver: Callable[[Any], Awaitable[None]] = self.callback  # type: ignore[has-type]
        acked = self.app.topics.acks_enabled_for

        async def tracked(message: Any) -> None:
            if not acked(message.topic):
                await deliver(message)
                return
            tp, offset = message.tp, message.offset
            if offset <= self._highest.get(tp, -1):
                return  # fetched before a seek, and delivered since
            self._in_flight[tp][offset] = None
            self._highest[tp] = offset
            await deliver(message)
            if not message.refcount and not message.acked:
                self._in_flight[tp].pop(offset, None)  # no agent wanted it

        self.callback = tracked

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        return driver.AIOKafkaConsumerThread(self, loop=self.loop, beacon=self.beacon, Worker=MendedThread)

    def _forget(self, tps: Iterable[TP] | None = None) -> None:
        for book in (self._in_flight, self._highest, self._acked, self._acked_index):
            for tp in list(book) if tps is None else tps:
                book.pop(tp, None)

    async def perform_seek(self) -> None:
        self._forget()  # all from the committed offset on is delivered again
        await super().perform_seek()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self._on_partitions_revoked(revoked)  # stops the flow, waits for what is in flight, commits
        if self._active_partitions is not None:
            self._active_partitions.difference_update(revoked)
        self._paused_partitions.difference_update(revoked)
        self._forget(revoked)
        for tp in revoked:
            for book in (self._gap, self._read_offset, self._committed_offset):
                book.pop(tp, None)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Offsets have gaps; nobody needs to know where."""

    def _new_offset(self, tp: TP) -> int | None:
        if not self._acked[tp]:
            return None
        in_flight = self._in_flight[tp]
        for offset in self._acked[tp]:
            in_flight.pop(offset, None)
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        if tp not in self._highest:
            return None
        offset = next(iter(in_flight), self._highest[tp] + 1)
        committed = self._committed_offset[tp]
        return offset if committed is None or offset > committed else None

    async def wait_empty(self) -> None:
        end = monotonic() + DRAIN_TIMEOUT_S
        while self._unacked_messages and monotonic() < end:
            gc.collect()  # the set is weak: what was dropped counts as done
            await self.commit()
            self._clean_unacked_messages()
            if self._unacked_messages:
                await self._wait_for_ack(timeout=0.2)
        await self.commit()


class MendedProducer(driver.Producer):
    """Stock sends without idempotence unless transactions are used, so a retried batch can be written twice, or out of order."""

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class MendedTransport(driver.Transport):
    """The driver with the mended halves."""

    Consumer = MendedConsumer
    Producer = MendedProducer


class MendedStore(Store):
    """Stock deletes, whenever a recovery has ended, all that is held as a standby; a standby in memory is never of any use."""

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        held = {tp.partition for tp in (*active_tps, *standby_tps)}
        for key in [key for key, partition in self._key_partition.items() if partition not in held]:
            self.data.pop(key, None)
            del self._key_partition[key]

    def set(self, key: bytes, value: bytes | None, partition: int) -> None:
        """Change a row, None deletes it, and note where it belongs (stock does so only for what is recovered)."""
        if value is None:
            self.data.pop(key, None)
            self._key_partition.pop(key, None)
        else:
            self.data[key] = value
            self._key_partition[key] = partition


class MendedTable(faust.Table):
    """A table of bytes in memory whose store keeps what a standby needs."""

    def _new_store(self) -> MendedStore:
        return MendedStore("memory://", self.app, self, table_name=self.name, key_type=bytes, value_type=bytes)


class MendedRecovery(Recovery):
    """Recovers what a standby does not have, and lets nothing through before the queues are in order.

    * Stock resumes partitions, then awaits a seek, then clears all queues: what is delivered in between is lost, and offsets
      are not committed until the next restart (faust#596). Here: stop the flow, clear, seek, resume.
    * Stock reads a changelog from its beginning when a standby becomes active. Here from where the standby is.
    * Stock notes how far a partition's rows are recovered even if their record arrives after the partition was lost, and when
      it comes back skips all rows before. Here only what was ours until now counts as recovered.
    """

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        held = {
            tp: offset for tp, offset in self.standby_offsets.items() if offset is not None and tp in self.standby_tps
        }
        for tp in self.active_offsets.keys() - self.active_tps:
            del self.active_offsets[tp]
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        for tp in self.active_tps & held.keys():
            if self.active_offsets.get(tp) is None:
                self.active_offsets[tp] = held[tp]

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        app, consumer = self.app, self.app.consumer
        consumer.stop_flow()
        await app.on_rebalance_complete.send()
        self._set_recovery_ended()
        for table in self.tables.values():
            await table.on_recovery_completed(self.actives_for_table[table], self.standbys_for_table[table])
        if app.consumer_generation_id != generation_id:
            return  # the group is rebalancing again
        assignment = consumer.assignment()
        app.flow_control.resume()  # clears the queues of all agents
        if assignment:
            await self._wait(consumer.perform_seek(), timeout=app.conf.broker_request_timeout)
        consumer.resume_partitions({tp for tp in assignment if not self._is_changelog_tp(tp)})
        self.completed.set()
        consumer.resume_flow()
        await cast("Any", app)._fetcher.maybe_start()  # noqa: SLF001 - as stock does
        self.tables.on_actives_ready()
        if not app.assignor.assigned_standbys():
            self.tables.on_standbys_ready()
        app.on_rebalance_end()


class MendedTableManager(TableManager):
    """Uses the mended recovery."""

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:  # type: ignore[has-type]
            self._recovery = MendedRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery


class MendedSchema(faust.Schema):
    """Raw keys; values as ``decode`` gives them, which is given None for a tombstone.

    Any other error of a codec than a decode error kills stock's fetcher for good, so whatever ``decode`` raises becomes one, and
    the record is skipped with a line in the log.
    """

    def __init__(self, decode: Callable[[Any], Any]) -> None:
        super().__init__(key_serializer="raw", value_serializer="raw")
        self._decode = decode

    def loads_key(self, _: Any, message: Any, **__: Any) -> bytes:
        if message.key is None:
            raise KeyDecodeError("a record without a key")
        return bytes(message.key)

    def loads_value(self, _: Any, message: Any, **__: Any) -> Any:
        try:
            return self._decode(message.value)
        except Exception as problem:
            _log.error("skipped a record that cannot be read", at=(*message.tp, message.offset), error=str(problem))
            raise ValueDecodeError(str(problem)) from problem


class MendedApp(faust.App):
    """Faust with all of the above; :meth:`stop` is bounded (stock can wait for ever for its consumer) and leaves no member.

    Stock's consumer lives in a thread. Whatever else does not stop, or was not started when it was cancelled, the thread would
    go on as a member of the group that takes records for nobody.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, Table=MendedTable, TableManager=MendedTableManager, **kwargs)

    def _new_transport(self) -> MendedTransport:
        return MendedTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> MendedTransport:
        return MendedTransport(self.conf.broker_producer, self)

    def recovered(self) -> int:
        """A number that grows with each row that is recovered."""
        return sum(offset or 0 for offset in self.tables.recovery.active_offsets.values())

    async def stop(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(super().stop(), DRAIN_TIMEOUT_S)
        thread = getattr(self._consumer, "_thread", None)
        if thread is not None and thread._thread_started.is_set() and not thread._shutdown.is_set():  # noqa: SLF001
            thread._stopped_set()  # noqa: SLF001
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(thread._shutdown.wait(), DRAIN_TIMEOUT_S)  # noqa: SLF001
