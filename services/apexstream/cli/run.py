"""``apexstream run``: submit a task and show its stream until it ends."""

import asyncio
import difflib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import say, say_error, write_data, write_json
from apexstream.cli.params import parse_params
from apexstream.cli.render import View, view_for
from apexstream.cli.running import gateway_url
from apexstream.cli.signals import Interruptions, first_of, interruptions
from apexstream.client import Cancelled, Client, Complete, Error, Frame, Offer, Task
from apexstream.client.model import Action
from apexstream.core.errors import ApexError, UnknownAction
from apexstream.runtime.settings import load_settings


def run(
    plugin: str, action: str, arguments: Sequence[str], *, tier: str, output: str, detach: bool, url: str
) -> ExitCode:
    """Run an action through the gateway; the exit status says how the task ended."""
    address = gateway_url(load_settings(), url)
    return asyncio.run(_run(address, plugin, action, arguments, tier=tier, output=output, detach=detach))


async def _run(
    url: str, plugin: str, action: str, arguments: Sequence[str], *, tier: str, output: str, detach: bool
) -> ExitCode:
    async with Client(url) as client:
        found = find_action(await client.actions(), plugin, action)
        task = await client.submit(plugin, action, parse_params(arguments, found.params_schema), tier=tier)
        if detach:
            write_json(task) if output == "json" else write_data(task.task_id)
            return ExitCode.OK
        say(f"task {task.task_id}")
        with interruptions() as interrupted:
            return await watch_task(client, task, view_for(output), interrupted)


def find_action(offer: Offer, plugin: str, action: str) -> Action:
    """The action in what the gateway offers; raises :class:`UnknownAction` with the nearest name there is."""
    for known in offer.actions:
        if (known.plugin, known.action) == (plugin, action):
            return known
    for broken in offer.broken_plugins:
        if broken.startswith(f"{plugin}:"):
            raise UnknownAction(f"the plugin could not be loaded: {broken.partition(': ')[2]}", where=plugin)
    names = [f"{known.plugin} {known.action}" for known in offer.actions]
    raise UnknownAction("no such action", where=f"{plugin} {action}", hint=_nearest(f"{plugin} {action}", names, offer))


def _nearest(wanted: str, names: Sequence[str], offer: Offer) -> str:
    if not offer.runners:
        return "No runner is connected: start one with `apexstream up` or `apexstream serve runner`"
    near = difflib.get_close_matches(wanted, names, n=1)
    if near:
        return f"Did you mean {near[0]}?"
    return f"There are: {', '.join(names)}" if names else "No plugin is installed where the runner is"


async def watch_task(client: Client, task: Task, view: View, interrupted: Interruptions) -> ExitCode:
    """Show the stream of ``task`` as :func:`watch` does."""
    return await watch(
        client.follow(task.stream_id),
        view,
        interrupted,
        cancel=lambda: client.cancel(task.task_id),
        left=f"the task goes on its way; see `apexstream tail {task.stream_id}`",
    )


async def watch(
    frames: AsyncGenerator[Frame, None],
    view: View,
    interrupted: Interruptions,
    *,
    cancel: Callable[[], Awaitable[object]],
    left: str,
) -> ExitCode:
    """Show ``frames`` until their end, or until a signal makes us leave; ``left`` says then what becomes of the task.

    The first Ctrl-C calls ``cancel``, and the receipt is waited for; a second one, or SIGTERM, leaves.
    """
    try:
        return await first_of(show_stream(frames, view), _interrupt(view, interrupted, cancel, left))
    finally:
        view.close()


async def _interrupt(
    view: View, interrupted: Interruptions, cancel: Callable[[], Awaitable[object]], left: str
) -> ExitCode:
    last = await interrupted.get()
    if last is ExitCode.INTERRUPTED:
        view.close()
        say("cancelling the task and waiting for its receipt; Ctrl-C again leaves without it")
        cancelling = asyncio.ensure_future(_ask_to_cancel(cancel))
        try:
            last = await interrupted.get()
        finally:
            cancelling.cancel()
    view.close()
    say(f"left: {left}")
    return last


async def _ask_to_cancel(cancel: Callable[[], Awaitable[object]]) -> None:
    try:
        await cancel()
    except ApexError as problem:
        say_error(problem)


async def show_stream(frames: AsyncGenerator[Frame, None], view: View) -> ExitCode:
    """Show every frame; the end frame gives the status."""
    async with aclosing(frames) as each:
        async for frame in each:
            view.show(frame)
            ended = end_status(frame)
            if ended is not None:
                return ended
    return ExitCode.OK


def end_status(frame: Frame) -> ExitCode | None:
    """How a stream ended, said on standard error where it did not end well; None if ``frame`` is not its end."""
    match frame:
        case Complete():
            return ExitCode.OK
        case Error(error=problem):
            say_error(problem.exception())
            return ExitCode.FAILED
        case Cancelled(seq=seq, data=receipt):
            detail = ", ".join(f"{key} {value}" for key, value in receipt.items())
            say(f"cancelled at seq {seq}" + (f": {detail}" if detail else ""))
            return ExitCode.CANCELLED
    return None
