"""Cut anywhere and resumed from what the log would hold, each action gives the content of a run that was never cut."""

import asyncio
import json
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from apexstream_plugin_longrun.action import plugin

from apexstream.core.chunk import Chunk, Kind
from apexstream.plugin import PluginManager
from apexstream.runner.host.confinement import Confinement
from apexstream.runner.host.local import LocalHost
from apexstream.runner.host.port import ActionHost, Call, CallOutcome, Ending, Resume, RunningCall
from apexstream.runner.host.process import ProcessHost
from apexstream.runtime.clock import SystemClock

SOURCE = Path(__file__).parents[1] / "src"
TIMEOUT_S = 60.0
FRESH = Resume()


class Stream:
    """A log for one stream: takes chunks up to a place where it is cut, and knows where another attempt goes on."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.content: list[bytes] = []
        self.checkpoint: tuple[int, bytes] | None = None
        self.attempts = 0
        self.grew = asyncio.Event()

    def resume(self) -> Resume:
        """As an attempt would after reading the log: rewind, if the mode does."""
        if self.mode == "deterministic":
            return Resume(next_seq=len(self.content), data_count=len(self.content))
        if self.checkpoint is None:
            self.content.clear()
            return FRESH
        count, state = self.checkpoint
        del self.content[count:]
        return Resume(next_seq=count, data_count=count, checkpoint=state)

    async def attempt(
        self, host: ActionHost, action: str, params: dict[str, Any], *, cut_after: int | None
    ) -> CallOutcome:
        """Run the action until it ends, or until so many batches are in the log."""
        self.attempts += 1
        sink = Sink(self, cut_after)
        sink.call = host.start(
            Call(
                task_id="t",
                attempt=self.attempts,
                plugin="longrun",
                action=action,
                params=json.dumps(params).encode(),
                resume=self.resume(),
            ),
            sink,
        )
        async with asyncio.timeout(TIMEOUT_S):
            return await sink.outcome


class Sink:
    def __init__(self, stream: Stream, cut_after: int | None) -> None:
        self.call: RunningCall
        self.outcome: asyncio.Future[CallOutcome] = asyncio.get_running_loop().create_future()
        self._stream = stream
        self._left = cut_after

    def chunks(self, chunks: Sequence[Chunk], checkpoint: bytes | None) -> None:
        if self._left == 0:
            return
        self._stream.content += [chunk.payload for chunk in chunks if chunk.kind is Kind.DATA]
        if checkpoint is not None:
            self._stream.checkpoint = (len(self._stream.content), checkpoint)
        self._stream.grew.set()
        self.call.credit(sum(len(chunk.payload) for chunk in chunks))
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.call.kill()

    def ended(self, outcome: CallOutcome) -> None:
        self.outcome.set_result(outcome)


@pytest.fixture
def local() -> LocalHost:
    plugins = PluginManager([])
    plugins.add("longrun", plugin)
    return LocalHost(plugins, SystemClock())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """400 files in 60 directories, so that many batches come of it."""
    chance = random.Random(7)
    for number in range(400):
        folder = tmp_path / "tree" / f"d{number % 20}" / f"e{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(chance.randbytes(chance.choice([0, 10, 20_000])))
    return tmp_path / "tree"


CASES = {
    "digest": "checkpointed",
    "primes": "checkpointed",
    "walk": "deterministic",
}


def params_of(action: str, tree: Path) -> dict[str, Any]:
    if action == "primes":
        return {"stop": 300_000, "segment": 1000, "checkpoint_chunks": 7, "checkpoint_s": 60}
    return {"path": str(tree)}


@pytest.mark.parametrize("action", CASES)
@pytest.mark.parametrize("seed", range(5))
async def test_cut_at_random_places_the_content_is_that_of_an_uncut_run(
    local: LocalHost, tree: Path, action: str, seed: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("apexstream_plugin_longrun.action.FINDINGS_AT_ONCE", 7)
    monkeypatch.setattr("apexstream_plugin_longrun.action.ENTRIES_AT_ONCE", 7)
    params, chance = params_of(action, tree), random.Random(seed)
    whole, cut = Stream(CASES[action]), Stream(CASES[action])
    assert (await whole.attempt(local, action, params, cut_after=None)).ending is Ending.COMPLETED
    for _ in range(12):
        outcome = await cut.attempt(local, action, params, cut_after=chance.randint(1, 6))
        assert outcome.ending in {Ending.LOST, Ending.COMPLETED}
    assert (await cut.attempt(local, action, params, cut_after=None)).ending is Ending.COMPLETED
    assert cut.content == whole.content
    assert len(whole.content) > 250


async def test_a_resumed_digest_reads_no_file_again(local: LocalHost, tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("apexstream_plugin_longrun.action.FINDINGS_AT_ONCE", 7)
    whole, cut = Stream("checkpointed"), Stream("checkpointed")
    await whole.attempt(local, "digest", {"path": str(tree)}, cut_after=None)
    await cut.attempt(local, "digest", {"path": str(tree)}, cut_after=30)
    cut.resume()
    done = [json.loads(payload) for payload in cut.content]
    assert len(done) > 30
    for finding in done:
        if finding["kind"] == "file":
            (tree / finding["path"]).write_bytes(b"changed since")
    assert (await cut.attempt(local, "digest", {"path": str(tree)}, cut_after=None)).ending is Ending.COMPLETED
    assert cut.content == whole.content


async def test_killed_for_real_again_and_again(tree: Path):
    whole, cut = Stream("checkpointed"), Stream("checkpointed")
    params = {"stop": 30_000_000, "segment": 100_000, "checkpoint_chunks": 5, "checkpoint_s": 60}
    confinement = Confinement(import_paths=(str(SOURCE),))
    async with ProcessHost({"longrun": "apexstream_plugin_longrun.action:plugin"}, confinement=confinement) as host:
        await whole.attempt(host, "primes", params, cut_after=None)
        for batches in (3, 10):
            attempt = asyncio.create_task(cut.attempt(host, "primes", params, cut_after=None))
            async with asyncio.timeout(TIMEOUT_S):
                for _ in range(batches):
                    cut.grew.clear()
                    await cut.grew.wait()
            os.kill(host.pids()["longrun"][0], signal.SIGKILL)
            assert (await attempt).ending is Ending.LOST
        assert (await cut.attempt(host, "primes", params, cut_after=None)).ending is Ending.COMPLETED
    assert cut.attempts == 3
    assert cut.content == whole.content
    assert json.loads(cut.content[-1])["total"] == 1_857_859


@pytest.mark.parametrize("action", ["digest", "walk"])
async def test_a_path_that_is_no_directory_is_refused_before_the_first_chunk(
    local: LocalHost, tmp_path: Path, action: str
):
    stream = Stream(CASES[action])
    outcome = await stream.attempt(local, action, {"path": str(tmp_path / "missing")}, cut_after=None)
    assert (outcome.ending, outcome.error_class) == (Ending.FAILED, "permanent")
    assert outcome.error is not None
    assert outcome.error["code"] == "invalid_parameters"
    assert stream.content == []


async def test_a_cancelled_digest_stops_in_the_midst_of_a_large_file(local: LocalHost, tmp_path: Path):
    with (tmp_path / "large").open("wb") as large:
        large.truncate(1 << 40)  # an hour's reading, and no room taken
    stream = Stream("checkpointed")
    sink = Sink(stream, None)
    call = Call(
        task_id="t", attempt=1, plugin="longrun", action="digest", params=json.dumps({"path": str(tmp_path)}).encode()
    )
    sink.call = local.start(call, sink)
    await asyncio.sleep(0.1)
    sink.call.cancel("enough")
    async with asyncio.timeout(TIMEOUT_S):
        assert (await sink.outcome).ending is Ending.CANCELLED
