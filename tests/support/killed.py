"""Workers that are killed while pipelines run, and what the pipelines must come to all the same."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.jobs import Log, values
from tests.support.pipelines import SECOND, chunks_of
from tests.support.streams import Author, Content
from tests.support.system import PLUGINS

from apexstream.core.chunk import Chunk, Kind

LATENESS_S = 5
SIZE_S = 10
WITHIN_S = 2
INPUTS = [{"stream": f"{side}-once", "time": "$.t", "unit": "s", "key": "$.k"} for side in ("left", "right")]
DEFINITIONS: dict[str, Any] = {
    **{
        f"{side}-once": {"inputs": [{"stream": side}], "operators": [{"op": "distinct", "key": "$.i"}]}
        for side in ("left", "right")
    },
    "windows": {
        "inputs": INPUTS[:1],
        "operators": [
            {
                "op": "window",
                "kind": "tumbling",
                "size_s": SIZE_S,
                "lateness_s": LATENESS_S,
                "key": "$.k",
                "give": {"n": "count", "sum": "sum $.v"},
            }
        ],
    },
    "pairs": {
        "inputs": INPUTS,
        "combine": {"op": "join", "within_s": WITHIN_S, "how": "outer", "lateness_s": LATENESS_S},
        "operators": [],
    },
}


def events(count: int, seed: int) -> list[dict[str, Any]]:
    """Ten a second of ``count / 50`` keys: shuffled, every 20th twice, every 50th far too late."""
    draw = random.Random(seed)
    made: list[dict[str, Any]] = []
    while len(made) < count:
        number = len(made)
        late = 60 if number % 50 == 49 else 0
        t = max(0, number // 10 - draw.randint(0, LATENESS_S - 1) - late)
        made.append(
            {"i": f"{seed}:{number}", "t": t, "k": draw.randrange(max(1, count // 50)), "v": draw.randint(0, 99)}
        )
        if number % 20 == 19:
            made.append(made[draw.randrange(max(0, number - 30), number)])
    return made[:count]


# The oracle: the whole input, sorted.


def once(made: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({event["i"]: event for event in made}.values())


def in_time(made: Sequence[dict[str, Any]], gone: Any) -> list[dict[str, Any]]:
    """Those for which ``gone(time, watermark)`` is not true when they come."""
    kept, highest = [], -(10**9)
    for event in made:
        if not gone(event["t"], highest - LATENESS_S):
            kept.append(event)
        highest = max(highest, event["t"])
    return kept


def windows_expected(left: Sequence[dict[str, Any]]) -> set[tuple[Any, ...]]:
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for event in in_time(once(left), lambda t, watermark: t // SIZE_S * SIZE_S + SIZE_S <= watermark):
        found[event["k"], event["t"] // SIZE_S * SIZE_S].append(event["v"])
    return {(key, start * SECOND, len(held), sum(held)) for (key, start), held in found.items()}


def pairs_expected(left: Sequence[dict[str, Any]], right: Sequence[dict[str, Any]]) -> list[tuple[Any, Any]]:
    lefts, rights = (in_time(once(side), lambda t, watermark: t < watermark) for side in (left, right))
    by_key: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for event in rights:
        by_key[event["k"]].append(event)
    pairs = [(a["i"], b["i"]) for a in lefts for b in by_key[a["k"]] if abs(a["t"] - b["t"]) <= WITHIN_S]
    met = {each for pair in pairs for each in pair}
    pairs += [(a["i"], None) for a in lefts if a["i"] not in met]
    return sorted(pairs + [(None, b["i"]) for b in rights if b["i"] not in met], key=str)


# The workers.


class Worker:
    """A process of processors, under a name of its own that it keeps."""

    def __init__(self, log: Log, name: str) -> None:
        self._environ = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": log.settings.bootstrap_servers,
            "APEX_TOPIC_PREFIX": log.settings.topic_prefix,
            "APEX_INSTANCE": name,
            "APEX_SOLE_INSTANCE": "true",
            "APEX_LOG_LEVEL": "error",
            "APEX_PROCESSORS_STANDBY": "0",
            "APEX_STATS": "off",
            "PYTHONPATH": os.pathsep.join([str(PLUGINS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "apexstream", "serve", "processors"], env=self._environ)

    def end(self, how: int = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None


@dataclass
class Result:
    """What came out, what must, and what it took."""

    outputs: dict[str, Content]
    replayed: dict[str, Content]
    windows: set[tuple[Any, ...]]
    pairs: list[tuple[Any, Any]]
    kills: int
    seconds: float

    def check(self) -> None:
        """Raise AssertionError where they differ."""
        assert all(content.fold.closed is Kind.COMPLETE for content in self.outputs.values())
        got = values(self.outputs["windows"])
        assert {(x["key"], x["start"], x["n"], x["sum"]) for x in got} == self.windows
        assert len(got) == len(self.windows)
        pairs = [(x.get("left", {}).get("i"), x.get("right", {}).get("i")) for x in values(self.outputs["pairs"])]
        assert sorted(pairs, key=str) == self.pairs
        for name, content in self.replayed.items():
            assert content.chunks == self.outputs[name].chunks, f"the replay of {name} differs"


async def run_killed(log: Log, count: int, kills: int, seed: int = 1) -> Result:
    """Write ``count`` events in all while workers are killed ``kills`` times, and one more joins and leaves in the middle; then
    replay everything without a kill."""
    started = time.monotonic()
    left, right = events(count // 2, 1), events(count // 2, 2)
    streams = {"left": chunks_of(left), "right": chunks_of(right)}
    authors = {name: Author(name) for name in streams}
    workers = [Worker(log, "first"), Worker(log, "second")]
    for name, author in authors.items():
        await log.append(name, author.claim(0))
    for name, definition in DEFINITIONS.items():
        await log.submit(name, **definition)
    workers[0].start()
    draw = random.Random(seed)
    try:
        rounds = kills + 1
        for turn in range(rounds):
            await _write(log, authors, streams, turn, rounds)
            if turn == rounds // 2:
                workers[1].start()  # a rebalance while work goes on …
            await _progress(log, draw, turn, rounds, count)
            if turn < kills:
                workers[0].end()
                workers[0].start()
            if turn == rounds // 2 + (rounds > 2):
                workers[1].end(signal.SIGTERM)  # … and another one
        outputs = {name: await log.until(name) for name in DEFINITIONS}
        for name in ("windows", "pairs"):
            await log.submit(f"{name}-again", **DEFINITIONS[name])
        replayed = {name: await log.until(f"{name}-again") for name in ("windows", "pairs")}
    finally:
        for worker in workers:
            worker.end()
    return Result(
        outputs, replayed, windows_expected(left), pairs_expected(left, right), kills, time.monotonic() - started
    )


async def _write(log: Log, authors: dict[str, Author], streams: dict[str, list[Chunk]], turn: int, rounds: int) -> None:
    for name, chunks in streams.items():
        part = chunks[len(chunks) * turn // rounds : len(chunks) * (turn + 1) // rounds]
        runs = [authors[name].run(part[at : at + 100]) for at in range(0, len(part), 100)]
        await log.append(name, *runs)


async def _progress(log: Log, draw: random.Random, turn: int, rounds: int, count: int) -> None:
    """Wait until the first outputs hold some of what was written last, so that the kill comes in the middle of work."""
    written = count // 2 * (turn + draw.random() * 0.9) / rounds * 0.9
    async with asyncio.timeout(90):
        while len((await log.content("left-once")).chunks) < written:
            await asyncio.sleep(0.1)
