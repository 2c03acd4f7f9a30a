"""``apexstream dead-letters``: tasks that failed for good, looked at and sent again."""

import asyncio
from collections.abc import Sequence

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import write_data, write_json
from apexstream.cli.running import gateway_url
from apexstream.cli.table import write_table
from apexstream.client import Client, DeadLetter, Task
from apexstream.core.errors import UnknownTask
from apexstream.runtime.settings import load_settings


def list_letters(output: str, url: str) -> ExitCode:
    """All of them, newest first."""
    letters = asyncio.run(_letters(gateway_url(load_settings(), url)))
    if output == "json":
        for letter in letters:
            write_json(letter)
    else:
        write_table(("task", "plugin", "action", "attempts", "class", "error", "why not again"), map(_row, letters))
    return ExitCode.OK


def show_letter(task_id: str, url: str) -> ExitCode:
    """One of them, with its parameters."""
    for letter in asyncio.run(_letters(gateway_url(load_settings(), url))):
        if letter.task_id == task_id:
            write_json(letter)
            return ExitCode.OK
    raise UnknownTask(f"no dead letter {task_id!r}", where="task_id", hint="`apexstream dead-letters list` shows all")


def retry_letter(task_id: str, output: str, url: str) -> ExitCode:
    """Send it again."""
    task = asyncio.run(_retry(gateway_url(load_settings(), url), task_id))
    write_json(task) if output == "json" else write_data(task.task_id)
    return ExitCode.OK


async def _letters(url: str) -> Sequence[DeadLetter]:
    async with Client(url) as client:
        return await client.dead_letters()


async def _retry(url: str, task_id: str) -> Task:
    async with Client(url) as client:
        return await client.retry(task_id)


def _row(letter: DeadLetter) -> Sequence[str]:
    error = letter.error.message if letter.error else ""
    return (
        letter.task_id,
        letter.plugin,
        letter.action,
        str(letter.attempts),
        letter.error_class,
        error,
        letter.reason,
    )
