"""The receiving end of one call: hands chunks to the attempt's sink and keeps account of how far the call may run ahead."""

from collections import deque

import structlog

from apexstream.runner.host.frames import Batch, cost
from apexstream.runner.host.port import CREDIT_BYTES, CallOutcome, Sink

_log = structlog.get_logger(__name__)


class Window:
    """What it costs to hold what was delivered and not yet taken.

    An attempt tells in payload bytes what it took, in the order of delivery; a batch's cost is free again once all of it
    was taken, one without payload bytes at the next :meth:`take`. A batch is counted whole, so that at most one batch lies
    beyond the window.
    """

    __slots__ = ("_delivered", "_held", "_taken", "available")

    def __init__(self) -> None:
        self.available = CREDIT_BYTES  # cost that may still arrive; not positive: nothing may
        self._delivered = 0  # payload bytes since the start
        self._taken = 0
        self._held: deque[tuple[int, int]] = deque()  # (payload bytes delivered with it, cost), oldest first

    def deliver(self, batch: Batch, payload_bytes: int) -> None:
        """Note a batch that arrived."""
        batch_cost = cost(payload_bytes, len(batch.payloads), batch.checkpoint)
        self._delivered += payload_bytes
        self.available -= batch_cost
        self._held.append((self._delivered, batch_cost))

    def take(self, size_bytes: int) -> int:
        """Note that this many payload bytes were taken; how much cost that frees."""
        self._taken = min(self._taken + size_bytes, self._delivered)
        freed = 0
        while self._held and self._held[0][0] <= self._taken:
            freed += self._held.popleft()[1]
        self.available += freed
        return freed


class Receiver:
    """One call's :class:`Window` and sink. A sink that raises is told nothing more but the end."""

    __slots__ = ("_deaf", "_sink", "over", "window")

    def __init__(self, sink: Sink) -> None:
        self.window = Window()
        self.over = False
        self._sink = sink
        self._deaf = False

    def batch(self, batch: Batch, payload_bytes: int) -> bool:
        """Deliver a checked batch; False if the sink cannot take it, so that going on is pointless."""
        self.window.deliver(batch, payload_bytes)
        if self._deaf:
            return False
        chunks, covered = batch.chunks(), batch.covered
        try:
            if batch.checkpoint is None or covered == len(chunks):
                self._sink.chunks(chunks, batch.checkpoint)
            else:
                self._sink.chunks(chunks[:covered], batch.checkpoint)
                self._sink.chunks(chunks[covered:], None)
        except Exception:  # the attempt's trouble must not become that of other calls on the same socket
            _log.exception("an attempt could not take chunks; its action is interrupted")
            self._deaf = True
        return not self._deaf

    def asked(self, number: int, question: bytes) -> None:
        """Hand a question over."""
        if not self._deaf:
            self._sink.asked(number, question)

    def ended(self, outcome: CallOutcome) -> None:
        """Report the end, once."""
        if self.over:
            return
        self.over = True
        try:
            self._sink.ended(outcome)
        except Exception:
            _log.exception("an attempt could not take its end")
