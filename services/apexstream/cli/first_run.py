"""The action that ``apexstream up --run`` runs once everything serves."""

import asyncio
import time
from collections.abc import Callable

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import say
from apexstream.cli.params import parse_params
from apexstream.cli.plan import FirstRun
from apexstream.cli.render import View, view_for
from apexstream.cli.run import find_action, show_stream
from apexstream.cli.timings import Timings
from apexstream.client import Client, Frame, Rewind, Update

SETTLE_S = 2.0
SETTLE_POLL_S = 0.02


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
        await _settled(client, task.task_id)
    say(f"{view.chunks} chunks in {time.monotonic() - began:.2f} s; stream {task.stream_id}")
    return code


async def _settled(client: Client, task_id: str) -> None:
    """Give the runner a moment to record that the task ended, so that no later start looks at it again."""
    deadline = time.monotonic() + SETTLE_S
    while not (await client.task(task_id)).status.final and time.monotonic() < deadline:  # noqa: ASYNC110 - another process' state
        await asyncio.sleep(SETTLE_POLL_S)


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
