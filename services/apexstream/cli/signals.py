"""What Ctrl-C and SIGTERM mean to a command that watches something."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from apexstream.cli.exits import ExitCode

Interruptions = asyncio.Queue[ExitCode]


@contextmanager
def interruptions() -> Iterator[Interruptions]:
    """A queue of what signals ask for while the block runs: INTERRUPTED on Ctrl-C, TERMINATED on SIGTERM or SIGHUP."""
    loop = asyncio.get_running_loop()
    asked: Interruptions = asyncio.Queue()
    meaning = {
        signal.SIGINT: ExitCode.INTERRUPTED,
        signal.SIGTERM: ExitCode.TERMINATED,
        signal.SIGHUP: ExitCode.TERMINATED,
    }
    for kind, code in meaning.items():
        loop.add_signal_handler(kind, asked.put_nowait, code)
    try:
        yield asked
    finally:
        for kind in meaning:
            loop.remove_signal_handler(kind)


async def first_of(*ways: Coroutine[Any, Any, ExitCode]) -> ExitCode:
    """Run all ``ways`` to an end and return what the first one says; the others are cancelled and awaited."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task.result() for task in tasks if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
