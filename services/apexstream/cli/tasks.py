"""``apexstream tasks``, ``cancel``, ``pause``, ``resume`` and ``forget``."""

import asyncio
from collections.abc import Sequence
from typing import Literal

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import say, write_data, write_json
from apexstream.cli.running import gateway_url
from apexstream.cli.table import write_table
from apexstream.client import Client, Task
from apexstream.runtime.settings import load_settings


def list_tasks(limit: int, output: str, url: str) -> ExitCode:
    """Show the newest tasks, newest first."""
    tasks = asyncio.run(_tasks(gateway_url(load_settings(), url), limit))
    if output == "json":
        for task in tasks:
            write_json(task)
    else:
        write_table(("task", "plugin", "action", "tier", "status", "attempt", "why"), map(_row, tasks))
    return ExitCode.OK


def cancel(task_id: str, output: str, url: str) -> ExitCode:
    """Ask for the end of a task."""
    task = asyncio.run(_cancel(gateway_url(load_settings(), url), task_id))
    write_json(task) if output == "json" else write_data(task.status)
    if task.status.final:
        say(f"nothing to cancel: the task had already ended ({task.status})")
    return ExitCode.OK


def ask(verb: Literal["pause", "resume", "forget"], task_id: str, output: str, url: str) -> ExitCode:
    """Ask something of a task or of its stream; its status is printed as it was then."""
    task = asyncio.run(_ask(gateway_url(load_settings(), url), verb, task_id))
    write_json(task) if output == "json" else write_data(task.status)
    return ExitCode.OK


async def _ask(url: str, verb: Literal["pause", "resume", "forget"], task_id: str) -> Task:
    async with Client(url) as client:
        asked = {"pause": client.pause, "resume": client.resume, "forget": client.forget}[verb]
        return await asked(task_id)


async def _tasks(url: str, limit: int) -> list[Task]:
    async with Client(url) as client:
        return await client.tasks(limit)


async def _cancel(url: str, task_id: str) -> Task:
    async with Client(url) as client:
        return await client.cancel(task_id)


def _row(task: Task) -> Sequence[str]:
    why = task.error.message if task.error else task.reason
    return (task.task_id, task.plugin, task.action, task.tier, task.status, str(task.attempt), why)
