"""The open batch of one execution: chunks that were yielded and not yet sent."""

from collections.abc import Callable

from apexstream.core.chunk import RUN_BYTES_MAX, RUN_CHUNKS_MAX, Kind
from apexstream.runner.host.frames import CHUNK_COST_MIN, Batch, cost

BATCH_AGE_US = 1_000  # a batch that an action fills without ever waiting is sent at least this often
SLOW_STEP_US = 200  # after a longer step of the action its chunk is sent at once: the next one will not come soon

_PROGRESS = int(Kind.PROGRESS)


class OpenBatch:
    """Filled by :meth:`put` and :meth:`progress`, emptied by :meth:`close`; its limits are those of a frame and of credit."""

    __slots__ = (
        "_checkpoint",
        "_content_types",
        "_covered",
        "_now_us",
        "_number",
        "_progress_at",
        "_send_at_us",
        "_size",
        "_times",
        "count_max",
        "payloads",
        "resumed_us",
        "size_max",
    )

    def __init__(self, number: int, now_us: Callable[[], int]) -> None:
        """``number`` is that of the call."""
        self.payloads: list[bytes] = []
        self.count_max = RUN_CHUNKS_MAX
        self.size_max = RUN_BYTES_MAX
        self.resumed_us = 0  # when the action's code last went on
        self._number = number
        self._now_us = now_us
        self._times: list[int] = []
        self._progress_at: list[int] = []
        self._content_types: dict[int, str] = {}
        self._checkpoint: bytes | None = None
        self._covered = 0
        self._size = 0
        self._send_at_us = 0

    def limit(self, credit: int) -> None:
        """How large the batch may become with so much credit."""
        self.count_max = max(1, min(RUN_CHUNKS_MAX, credit // CHUNK_COST_MIN))
        self.size_max = max(1, min(RUN_BYTES_MAX, credit))

    def put(self, payload: bytes, content_type: str, checkpoint: bytes | None) -> bool:
        """Add a data chunk that the action has just yielded; True if the batch must be sent now."""
        now_us, payloads = self._now_us(), self.payloads
        if not payloads:
            slow = now_us - self.resumed_us >= SLOW_STEP_US
            self._send_at_us = now_us if slow else now_us + BATCH_AGE_US
        self.resumed_us = now_us
        if content_type or checkpoint is not None:
            self.add(payload, content_type, checkpoint, now_us)
        else:  # nearly all there are
            payloads.append(payload)
            self._times.append(now_us)
            self._size += len(payload)
        return len(payloads) >= self.count_max or self._size >= self.size_max or now_us >= self._send_at_us

    def add(self, payload: bytes, content_type: str, checkpoint: bytes | None, time_us: int) -> None:
        """Add a data chunk that was yielded at ``time_us``."""
        if content_type:
            self._content_types[len(self.payloads)] = content_type
        self.payloads.append(payload)
        self._times.append(time_us)
        self._size += len(payload)
        if checkpoint is not None:  # it stands for those of all chunks before, too
            self._checkpoint, self._covered = checkpoint, len(self.payloads)

    def progress(self, payload: bytes, time_us: int) -> bool:
        """Add a progress chunk, or let it replace one that would be the last; True if the batch must be sent now."""
        last = len(self.payloads) - 1
        if last >= 0 and self._progress_at and self._progress_at[-1] == last:
            self._size += len(payload) - len(self.payloads[last])
            self.payloads[last], self._times[last] = payload, time_us
            return False
        self._progress_at.append(len(self.payloads))
        self.payloads.append(payload)
        self._times.append(time_us)
        self._size += len(payload)
        return self.full

    @property
    def full(self) -> bool:
        """Whether nothing more fits into a frame."""
        return len(self.payloads) >= RUN_CHUNKS_MAX or self._size >= RUN_BYTES_MAX

    def close(self) -> tuple[Batch, int]:
        """What was put in since the last time, and what it costs. There must be something."""
        payloads, types = self.payloads, self._content_types
        batch = Batch(
            self._number,
            payloads,
            self._times,
            self._kinds() if self._progress_at else b"",
            [types.get(at, "") for at in range(len(payloads))] if types else [],
            self._checkpoint,
            self._covered,
        )
        batch_cost = cost(self._size, len(payloads), self._checkpoint)
        self.payloads, self._times, self._size = [], [], 0
        self._checkpoint, self._covered = None, 0
        if self._progress_at:
            self._progress_at = []
        if types:
            self._content_types = {}
        return batch, batch_cost

    def _kinds(self) -> bytes:
        kinds = bytearray(len(self.payloads))
        for at in self._progress_at:
            kinds[at] = _PROGRESS
        return bytes(kinds)
