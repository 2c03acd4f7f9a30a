"""The process that calls one user's function: ``python -m apexstream.processors.caller plugin:function <parent>``.

It has none of the platform's credentials, reads requests and writes answers a line each, and ends with its parent.
"""

import asyncio
import ctypes
import inspect
import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, BinaryIO

import msgspec

from apexstream.core.chunk import CHUNK_BYTES_MAX
from apexstream.core.errors import ApexError, UnknownAction
from apexstream.plugin.decorated import Plugin
from apexstream.plugin.manager import ENTRY_POINT_GROUP, PluginManager
from apexstream.processors.functions import Answer, Request

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until standard input ends."""
    name, parent = sys.argv[1], int(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    # What the function prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    try:
        function = find(name)
    except ApexError as problem:
        _say(answers, Answer(failed=str(problem)))
        return
    _say(answers, Answer())
    with asyncio.Runner() as runner:
        for line in sys.stdin.buffer:
            _say(answers, answer(function, msgspec.json.decode(line, type=Request), runner))


def find(name: str) -> Callable[..., Any]:
    """The function ``plugin:function`` of an installed plugin. Raises :class:`UnknownAction`."""
    plugin_name, _, function_name = name.partition(":")
    manager = PluginManager(entry_points(group=ENTRY_POINT_GROUP, name=plugin_name))
    plugin = manager.plugins.get(plugin_name)
    if plugin is None:
        why = manager.broken.get(plugin_name, "it is not installed where the processors run")
        raise UnknownAction(f"no plugin {plugin_name!r}: {why}", where=name)
    functions = plugin.functions if isinstance(plugin, Plugin) else {}
    if function_name not in functions:
        hint = f"It has: {', '.join(sorted(functions))}" if functions else "Make one with @plugin.function"
        raise UnknownAction(f"plugin {plugin_name} has no function {function_name!r}", where=name, hint=hint)
    return functions[function_name]


def answer(function: Callable[..., Any], request: Request, runner: asyncio.Runner) -> Answer:
    """Call it; whatever it does is an answer."""
    arguments = (request.so_far, request.value) if request.folds else (request.value,)
    try:
        result = function(*arguments)
        if inspect.isawaitable(result):
            result = runner.run(_awaited(result))
        said = Answer(result=result)
        if len(msgspec.json.encode(said)) > 2 * CHUNK_BYTES_MAX:
            return Answer(failed=f"its result is larger than {2 * CHUNK_BYTES_MAX} bytes")
    except Exception as problem:  # the function's, not ours
        return Answer(failed=f"{type(problem).__name__}: {problem!s:.500}")
    return said


async def _awaited(result: Any) -> Any:
    return await result


def _say(answers: BinaryIO, said: Answer) -> None:
    answers.write(msgspec.json.encode(said) + b"\n")


if __name__ == "__main__":
    main()
