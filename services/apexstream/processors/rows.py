"""What a job remembers, in rows: read and changed by its steps in memory, written to its table after each. Pure.

Every row is written with what it was before the step, and the header last. Whatever part of a step's rows is in the table
after a crash, the state after the last whole step can be read from it. A digest over all rows shows when that is not so,
for instance because two processes believed to own the job; the state is then worthless, and the job starts over from its
inputs, of which its output is a pure function.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec

from apexstream.core.events import PipelineRow
from apexstream.processors.items import Overflow

ROW_BYTES_MAX = 400_000  # of one version; a record holds two
_DIGEST_BITS = 128
_HEADER = b""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What all rows of a job agree on.

    ``inputs``: next seq and rewinds of each input; ``outputs``: how many chunks each output has, the newest of which is of
    ``last_us``; ``definition``: a hash of what the job does; ``ended``: nothing more is to be done.
    """

    step: int
    digest: bytes
    definition: str
    inputs: tuple[tuple[int, int], ...]
    outputs: dict[str, int]
    last_us: int = 0
    ended: bool = False


class Part:
    """The rows of one step of the chain, by a key of its own."""

    __slots__ = ("_changed", "_rows")

    def __init__(self, rows: dict[bytes, Any]) -> None:
        self._rows = rows
        self._changed: set[bytes] = set()

    def get(self, key: bytes) -> Any:
        """The row, or None. Whoever changes it in place must :meth:`put` it."""
        return self._rows.get(key)

    def put(self, key: bytes, row: Any) -> None:
        """Remember a row: anything JSON, not None."""
        self._rows[key] = row
        self._changed.add(key)

    def delete(self, key: bytes) -> None:
        """Forget a row that is there."""
        del self._rows[key]
        self._changed.add(key)

    def items(self) -> Iterable[tuple[bytes, Any]]:
        """All rows."""
        return self._rows.items()

    def __len__(self) -> int:
        return len(self._rows)

    def changes(self) -> Iterator[tuple[bytes, bytes | None]]:
        """The rows that changed since the last call, encoded; None: forgotten."""
        for key in sorted(self._changed):
            yield key, None if key not in self._rows else encode_row(self._rows[key])
        self._changed.clear()


def encode_row(row: Any) -> bytes:
    """A row's bytes. Raises :class:`Overflow` if there are too many."""
    data = msgspec.json.encode(row)
    if len(data) > ROW_BYTES_MAX:
        raise Overflow(f"one key's state has {len(data)} bytes, more than {ROW_BYTES_MAX}", where="state")
    return data


@dataclass(frozen=True, slots=True)
class Write:
    """A change of the table: ``row`` None is a tombstone."""

    key: bytes
    row: PipelineRow | None


class State:
    """The rows of one job: ``load`` them, let steps change :meth:`part`, then :meth:`commit`.

    ``read`` gives the row that the table has under a key, None if there is none.
    """

    def __init__(self, job: str, rows_max: int, read: Callable[[bytes], PipelineRow | None]) -> None:
        self._prefix = job.encode() + b"\x00"
        self._rows_max = rows_max
        self._read = read
        self._parts: dict[bytes, Part] = {}
        self._loaded: dict[bytes, dict[bytes, Any]] = {}
        self._digest = 0
        self._tombstones: list[bytes] = []
        self.header: Header | None = None

    def load(self, table: Mapping[bytes, PipelineRow]) -> bool:
        """Take what the table holds of this job. False if that is no whole state (then it is as if there were none)."""
        header_row = table.get(self._prefix + _HEADER)
        header = None if header_row is None or header_row.data is None else _header(header_row.data)
        if header is None:
            self.forget(table)
            return not table
        rows = [(key, _as_of(row, header.step)) for key, row in table.items() if key != self._prefix + _HEADER]
        for key, data in rows:
            if data is None:
                self._tombstones.append(key)
            else:
                self._digest ^= _hash(key, data)
                part, _, own = key[len(self._prefix) :].partition(b"/")
                self._loaded.setdefault(part, {})[own] = msgspec.json.decode(data)
        if self._digest.to_bytes(_DIGEST_BITS // 8, "big") != header.digest:
            self.forget(table)
            return False
        self.header = header
        return True

    def forget(self, keys: Iterable[bytes]) -> None:
        """Start from nothing; ``keys`` of the table are deleted with the next commit."""
        self._parts, self._loaded, self._digest, self.header = {}, {}, 0, None
        self._tombstones = sorted({*self._tombstones, *keys})

    def part(self, name: str) -> Part:
        """The rows of a step, which is to be called ``name`` in every life of the job."""
        key = name.encode()
        if key not in self._parts:
            self._parts[key] = Part(self._loaded.pop(key, {}))
        return self._parts[key]

    def check(self) -> None:
        """Raise :class:`Overflow` for too many rows."""
        if sum(len(part) for part in self._parts.values()) > self._rows_max:
            raise Overflow(
                f"it would have to remember more than {self._rows_max} rows",
                where="state",
                hint="Use fewer keys, smaller windows, less lateness, or raise rows_max",
            )

    def commit(
        self,
        *,
        definition: str,
        inputs: tuple[tuple[int, int], ...],
        outputs: dict[str, int],
        last_us: int,
        ended: bool,
    ) -> list[Write]:
        """What to write to the table, in this order, for what changed. Raises :class:`Overflow` for a row that is too large."""
        step = 1 if self.header is None else self.header.step + 1
        fresh = self.header is None
        deleted: list[bytes] = []
        writes: list[Write] = []
        for name, part in self._parts.items():
            for own, data in part.changes():
                key = self._prefix + name + b"/" + own
                before = None if fresh else self._committed(key)
                if data == before:
                    continue
                for version in (before, data):
                    if version is not None:
                        self._digest ^= _hash(key, version)
                writes.append(Write(key, PipelineRow(step=step, data=data, before=before)))
                if data is None:
                    deleted.append(key)
        written = {write.key for write in writes}
        gone = [Write(key, None) for key in self._tombstones if key not in written and key != self._prefix + _HEADER]
        self._tombstones = deleted
        self.header = Header(
            step=step,
            digest=self._digest.to_bytes(_DIGEST_BITS // 8, "big"),
            definition=definition,
            inputs=inputs,
            outputs=outputs,
            last_us=last_us,
            ended=ended,
        )
        head = Write(self._prefix + _HEADER, PipelineRow(step=step, data=msgspec.json.encode(self.header), before=None))
        return [*gone, *writes, head]

    def _committed(self, key: bytes) -> bytes | None:
        row = self._read(key)
        return None if row is None or self.header is None else _as_of(row, self.header.step)


def _as_of(row: PipelineRow, step: int) -> bytes | None:
    return row.data if row.step <= step else row.before


def _header(data: bytes) -> Header | None:
    try:
        return msgspec.json.decode(data, type=Header)
    except msgspec.DecodeError:
        return None


def _hash(key: bytes, data: bytes) -> int:
    digest = blake2b(digest_size=_DIGEST_BITS // 8)
    digest.update(len(key).to_bytes(4, "big"))
    digest.update(key)
    digest.update(data)
    return int.from_bytes(digest.digest(), "big")
