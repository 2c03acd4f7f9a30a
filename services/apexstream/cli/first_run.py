"""The action that ``apexstream up --run`` runs once everything serves."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import say
from apexstream.cli.params import parse_params
from apexstream.cli.render import View, view_for
from apexstream.cli.run import find_action, show_stream
from apexstream.cli.timings import Timings
from apexstream.client import Client, Frame, Rewind, Update
from apexstream.core.tiers import Tier


@dataclass(frozen=True, slots=True)
class FirstRun:
    """What to run: the action, its ``-p`` arguments, how its chunks are shown, and whether to stop afterwards."""

    plugin: str
    action: str
    arguments: list[str]
    tier: Tier
    output: str
    once: bool


async def run_first(url: str, first: FirstRun, timings: Timings) -> ExitCode:
    """Run the action, show its stream, and say in one line what it was."""
    async with Client(url) as client:
        action = find_action(await client.actions(), first.plugin, first.action)
        params = parse_params(first.arguments, action.params_schema)
        task = await client.submit(first.plugin, first.action, params, tier=first.tier)
        timings.mark("task submitted")
        began = time.monotonic()
        view = _Counting(view_for(first.output, live=False), lambda: timings.mark("first chunk"))
        try:
            code = await show_stream(client.follow(task.stream_id), view)
        finally:
            view.close()
    timings.mark("stream ended")
    say(f"{view.chunks} chunks in {time.monotonic() - began:.2f} s; stream {task.stream_id}")
    return code


class _Counting:
    """A view that counts the chunks that stand, and says when the first one came."""

    def __init__(self, view: View, on_first: Callable[[], None]) -> None:
        self._view = view
        self._on_first = on_first
        self._kinds = bytearray()  # per seq: 1 for a chunk, 0 for progress and the end

    @property
    def chunks(self) -> int:
        """How many chunks the stream holds so far."""
        return sum(self._kinds)

    def show(self, frame: Frame) -> None:
        """Count and show."""
        if isinstance(frame, Rewind):
            del self._kinds[frame.seq :]
        else:
            self._kinds.append(isinstance(frame, Update))
        if isinstance(frame, Update):
            self._on_first()
        self._view.show(frame)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._view.close()
