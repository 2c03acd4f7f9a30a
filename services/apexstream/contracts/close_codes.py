"""What a close code of the gateway says about connecting again, read from ``schemas/gateway/close-codes.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import msgspec

from apexstream.contracts.schemas import schemas_folder


class Reconnect(StrEnum):
    """``LATER``: once the cause is gone, with another token or after a pause."""

    YES = "yes"
    LATER = "later"
    NO = "no"


class _Range(msgspec.Struct, frozen=True):
    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")
    reconnect: Reconnect = Reconnect.YES


class _Code(msgspec.Struct, frozen=True):
    code: int
    reconnect: Reconnect


class _Table(msgspec.Struct, frozen=True):
    ranges: list[_Range]
    codes: list[_Code]


@dataclass(frozen=True, slots=True)
class CloseCodes:
    """``named`` codes, and ``ranges`` of (first, last, verdict) for all others."""

    named: Mapping[int, Reconnect]
    ranges: tuple[tuple[int, int, Reconnect], ...]

    def reconnect(self, code: int) -> Reconnect:
        """Whether to connect again. A code that is neither named nor in a range says nothing against it."""
        if code in self.named:
            return self.named[code]
        return next((verdict for first, last, verdict in self.ranges if first <= code <= last), Reconnect.YES)


@cache
def load_close_codes() -> CloseCodes:
    """The table, read once."""
    table = msgspec.json.decode((schemas_folder() / "gateway" / "close-codes.json").read_bytes(), type=_Table)
    return CloseCodes(
        {each.code: each.reconnect for each in table.codes},
        tuple((each.first, each.last, each.reconnect) for each in table.ranges),
    )
