"""Streams as an algebra: lazy, typed operators on anything that can be iterated, as functions and as methods of a chain.

``stream(source).map(f).batch(10)`` is the chain, ``op.batch(op.map(source, f), 10)`` the same with functions (``from
apexstream.plugin import operators as op``). docs/operators.md says of each what it gives, holds, and reads ahead.
"""

from apexstream.plugin.operators.arriving import combine_latest, merge, race
from apexstream.plugin.operators.batching import batch, payload_bytes
from apexstream.plugin.operators.calls import SKIP, STOP, Ruling, threaded
from apexstream.plugin.operators.catching import MISSING, Failure, catch, dead_letter, replace, skip_failed, stop
from apexstream.plugin.operators.chain import StreamTransformer, stream
from apexstream.plugin.operators.clock import LoopClock, ManualClock, Timers
from apexstream.plugin.operators.combining import concat, interleave, zip  # noqa: A004 - its name everywhere
from apexstream.plugin.operators.composer import StreamComposer
from apexstream.plugin.operators.elements import custom, filter, map, tap  # noqa: A004
from apexstream.plugin.operators.errors import HubClosed, LateElement, Overflow, Spent, TimedOut, Uneven
from apexstream.plugin.operators.flattening import flat_map, switch
from apexstream.plugin.operators.folding import reduce, scan
from apexstream.plugin.operators.joining import Joined, join
from apexstream.plugin.operators.library.jsonpath import json_path
from apexstream.plugin.operators.library.sampling import reservoir, sample
from apexstream.plugin.operators.library.statistics import Statistics, statistics
from apexstream.plugin.operators.library.text import BadRow, Counted, count_tokens, csv_rows, lines, words
from apexstream.plugin.operators.lookups import lookup
from apexstream.plugin.operators.pacing import buffer, debounce, rate_limit, throttle
from apexstream.plugin.operators.recovering import Backoff, retry, retrying, timeout, worth_retrying
from apexstream.plugin.operators.selecting import distinct, skip, skip_while, take, take_while, until, until_done
from apexstream.plugin.operators.sharing import Hub, Split, broadcast, partition, split
from apexstream.plugin.operators.stream import Source, Stream, opened
from apexstream.plugin.operators.windowing import window
from apexstream.plugin.operators.windows import Hopping, Session, Sliding, Tumbling, Window
from apexstream.plugin.values import Watermark

__all__ = [
    "MISSING",
    "SKIP",
    "STOP",
    "Backoff",
    "BadRow",
    "Counted",
    "Failure",
    "Hopping",
    "Hub",
    "HubClosed",
    "Joined",
    "LateElement",
    "LoopClock",
    "ManualClock",
    "Overflow",
    "Ruling",
    "Session",
    "Sliding",
    "Source",
    "Spent",
    "Split",
    "Statistics",
    "Stream",
    "StreamComposer",
    "StreamTransformer",
    "TimedOut",
    "Timers",
    "Tumbling",
    "Uneven",
    "Watermark",
    "Window",
    "batch",
    "broadcast",
    "buffer",
    "catch",
    "combine_latest",
    "concat",
    "count_tokens",
    "csv_rows",
    "custom",
    "dead_letter",
    "debounce",
    "distinct",
    "filter",
    "flat_map",
    "interleave",
    "join",
    "json_path",
    "lines",
    "lookup",
    "map",
    "merge",
    "opened",
    "partition",
    "payload_bytes",
    "race",
    "rate_limit",
    "reduce",
    "replace",
    "reservoir",
    "retry",
    "retrying",
    "sample",
    "scan",
    "skip",
    "skip_failed",
    "skip_while",
    "split",
    "statistics",
    "stop",
    "stream",
    "switch",
    "take",
    "take_while",
    "tap",
    "threaded",
    "throttle",
    "timeout",
    "until",
    "until_done",
    "window",
    "words",
    "worth_retrying",
    "zip",
]
