"""Windows of time that statistics are kept in: their widths, and for how long each is kept. Pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from apexstream.core.events import Scope

US: Final = 1_000_000
TOTALS: Final = 0  # the width of "all of a stream so far"
WIDTHS_S: Final = (1, 60, 3600)
NAMES: Final[Mapping[str, int]] = MappingProxyType({"1s": 1, "1m": 60, "1h": 3600})

RETENTION_S: Final[Mapping[Scope, Mapping[int, int]]] = MappingProxyType(
    {
        Scope.ACTION: MappingProxyType({1: 600, 60: 86_400, 3600: 30 * 86_400}),
        Scope.STREAM: MappingProxyType({TOTALS: 86_400, 1: 300, 60: 10_800, 3600: 86_400}),
    }
)
"""How long a window is kept after its start, and a stream's totals after its last chunk, by scope and width; seconds."""


def start_of(time_us: int, width_s: int) -> int:
    """The start of the window of ``width_s`` that ``time_us`` falls into."""
    return time_us - time_us % (width_s * US)
