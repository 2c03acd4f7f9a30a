"""The strict reader: decodes one Avro record by the book and names the reason when bytes break a rule.

It is the judge, not the fast path: the codec asks it whenever a faster decoder fails or the bytes are not what we would
have written ourselves.
"""

import struct
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NoReturn
from uuid import UUID

from apexstream.contracts.shape import Array, Enum, Fixed, Map, Primitive, Record, Shape, Union
from apexstream.core.errors import ChunkDecodeError

VARINT_BYTES_MAX: Final = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1)
_TICK = {"timestamp-millis": timedelta(milliseconds=1), "timestamp-micros": timedelta(microseconds=1)}


def read_record(shape: Record, body: bytes) -> dict[str, Any]:
    """Decode all of ``body``; raise :class:`ChunkDecodeError` with the reason and the place.

    The value is what any other Avro decoder gives: a dict of the fields, enums as their symbols, unions as the value of
    their branch, logical types as ``datetime``, ``date`` and ``UUID``.
    """
    reader = _Reader(body)
    value: dict[str, Any] = reader.read(shape, shape.name.rpartition(".")[2])
    left = len(body) - reader.at
    if left:
        reader.fail("trailing_bytes", f"{left} bytes after the end of the record", shape.name)
    return value


class _Reader:
    """A position in ``body``. ``path`` is only ever used to say where something is wrong."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def fail(self, reason: str, what: str, path: str) -> NoReturn:
        raise ChunkDecodeError(reason, what, where=f"{path} at byte {self.at}")

    def read(self, shape: Shape, path: str) -> Any:
        match shape:
            case Primitive():
                return self._primitive(shape, path)
            case Record():
                return {name: self.read(part, f"{path}.{name}") for name, part in shape.fields}
            case Array():
                return self._array(shape, path)
            case Map():
                return self._map(shape, path)
            case Union():
                return self._union(shape, path)
            case Enum():
                return self._enum(shape, path)
            case Fixed():
                return self._take(shape.bytes_min, path)

    def _primitive(self, shape: Primitive, path: str) -> Any:
        value: Any = getattr(self, f"_{shape.kind}")(path)
        return self._logical(shape.logical, value, path) if shape.logical else value

    def _null(self, _path: str) -> None:
        return None

    def _boolean(self, path: str) -> bool:
        value = self._take(1, path)[0]
        if value > 1:
            self.fail("out_of_range", f"boolean {value}", path)
        return value == 1

    def _int(self, path: str) -> int:
        value = self._long(path)
        if not -(1 << 31) <= value < 1 << 31:
            self.fail("out_of_range", f"{value} does not fit 32 bits", path)
        return value

    def _long(self, path: str) -> int:
        number, shift = 0, 0
        tail = self.body[self.at : self.at + VARINT_BYTES_MAX]
        for byte in tail:
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        else:
            self.fail("bad_varint" if tail else "truncated", "a number that does not end", path)
        if number >> 64:
            self.fail("bad_varint", "a number of more than 64 bits", path)
        self.at += shift // 7
        return number >> 1 ^ -(number & 1)

    def _float(self, path: str) -> float:
        value: float = struct.unpack("<f", self._take(4, path))[0]
        return value

    def _double(self, path: str) -> float:
        value: float = struct.unpack("<d", self._take(8, path))[0]
        return value

    def _bytes(self, path: str) -> bytes:
        size = self._long(path)
        if size < 0:
            self.fail("bad_length", f"a length of {size}", path)
        return self._take(size, path)

    def _string(self, path: str) -> str:
        try:
            return self._bytes(path).decode()
        except UnicodeDecodeError as problem:
            self.fail("bad_utf8", f"text that is not UTF-8: {problem.reason}", path)

    def _take(self, size: int, path: str) -> bytes:
        left = len(self.body) - self.at
        if size > left:
            self.fail("truncated", f"{size} bytes announced and {left} left", path)
        self.at += size
        return self.body[self.at - size : self.at]

    def _union(self, shape: Union, path: str) -> Any:
        branch = self._long(path)
        if not 0 <= branch < len(shape.branches):
            self.fail("bad_union", f"branch {branch} of {len(shape.branches)}", path)
        return self.read(shape.branches[branch], path)

    def _enum(self, shape: Enum, path: str) -> str:
        symbol = self._long(path)
        if not 0 <= symbol < len(shape.symbols):
            self.fail("bad_enum", f"symbol {symbol} of {len(shape.symbols)}", path)
        return shape.symbols[symbol]

    def _array(self, shape: Array, path: str) -> list[Any]:
        items: list[Any] = []
        while count := self._long(path):
            end = self._block(count, shape.items.bytes_min, path)
            for _ in range(abs(count)):
                items.append(self.read(shape.items, f"{path}[{len(items)}]"))
            self._check_block(end, path)
        return items

    def _map(self, shape: Map, path: str) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        while count := self._long(path):
            end = self._block(count, 1 + shape.values.bytes_min, path)
            for _ in range(abs(count)):
                key = self._string(path)
                entries[key] = self.read(shape.values, f"{path}[{key!r}]")
            self._check_block(end, path)
        return entries

    def _block(self, count: int, item_bytes_min: int, path: str) -> int:
        """Check a block's count before anything is allocated; return where it says that it ends, -1 if it does not."""
        end = -1
        if count < 0:
            size = self._long(path)
            if size < 0:
                self.fail("bad_length", f"a block of {size} bytes", path)
            end = self.at + size
        left = len(self.body) - self.at
        if abs(count) * item_bytes_min > left:
            self.fail("truncated", f"{abs(count)} items announced and {left} bytes left", path)
        return end

    def _check_block(self, end: int, path: str) -> None:
        if end not in (-1, self.at):
            self.fail("bad_length", f"a block that should have ended at byte {end}", path)

    def _logical(self, logical: str, value: Any, path: str) -> Any:
        try:
            if logical == "uuid":
                return UUID(value)
            if logical == "date":
                return _EPOCH_DAY + timedelta(days=value)
            return _EPOCH + value * _TICK[logical]
        except (ValueError, OverflowError) as problem:
            self.fail("bad_logical", f"{value!r:.60} is no {logical}: {problem}", path)
