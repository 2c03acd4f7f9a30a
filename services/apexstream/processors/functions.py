"""Calls users' functions in processes of their own: one that raises, hangs, crashes or talks nonsense costs its element."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import msgspec
import structlog

from apexstream.core.chunk import CHUNK_BYTES_MAX
from apexstream.core.stateless import ElementFailed
from apexstream.processors.items import PipelineFailed

START_TIMEOUT_S = 30.0
LINE_BYTES_MAX = 4 * CHUNK_BYTES_MAX
CRASHES_MAX = 5  # of one function in a row before the pipeline is given up
_KEPT = frozenset({"PATH", "PYTHONPATH", "LANG", "LC_ALL", "TZ", "HOME", "VIRTUAL_ENV"})

_log = structlog.get_logger(__name__)


class Request(msgspec.Struct):
    """One call: ``so_far`` is there if the function folds and something came out before."""

    value: Any
    folds: bool = False
    so_far: Any = msgspec.UNSET


class Answer(msgspec.Struct):
    """What a call came to, or how it failed."""

    result: Any = None
    failed: str = ""


class Functions:
    """A process for each function that is used. ``timeout_s`` bounds one call. Use as an async context manager."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._callers: dict[str, _Caller] = {}

    async def __aenter__(self) -> "Functions":
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(caller.stop() for caller in self._callers.values()))

    async def __call__(self, function: str, values: Sequence[Any], *, folds: bool, so_far: Any) -> list[Any]:
        """See :class:`chain.Call`. Raises :class:`PipelineFailed` if there is no such function, or it cannot be run."""
        caller = self._callers.get(function)
        if caller is None:
            caller = self._callers[function] = _Caller(function, self._timeout_s)
        results: list[Any] = []
        for value in values:
            if folds and so_far is msgspec.UNSET:
                so_far = value
                results.append(value)
                continue
            result = await caller.call(Request(value, folds, so_far))
            if folds and not isinstance(result, ElementFailed):
                so_far = result
            results.append(result)
        return results


class _Caller:
    """The process of one function."""

    def __init__(self, function: str, timeout_s: float) -> None:
        self._function = function
        self._timeout_s = timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._crashes = 0

    async def call(self, request: Request) -> Any:
        process = await self._running()
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await _ask(process, request)
        except TimeoutError:
            await self.stop()
            return self._failed(f"it took longer than {self._timeout_s:g} s and was ended")
        except (OSError, ValueError, EOFError, msgspec.DecodeError) as problem:
            await self.stop()
            self._crashes += 1
            if self._crashes > CRASHES_MAX:
                raise PipelineFailed(f"its process ended {self._crashes} times", where=self._function) from None
            return self._failed(f"its process ended or wrote nonsense: {problem!r:.200}")
        self._crashes = 0
        return self._failed(answer.failed) if answer.failed else answer.result

    def _failed(self, what: str) -> ElementFailed:
        return ElementFailed(what, where=self._function)

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "apexstream.processors.caller",
                self._function,
                str(os.getpid()),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_BYTES_MAX,
                env={name: value for name, value in os.environ.items() if name in _KEPT},  # no credentials
            )
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    ready = await _answer(process)
            except (TimeoutError, EOFError, ValueError, msgspec.DecodeError) as problem:
                await self.stop()
                raise PipelineFailed(f"it cannot be started: {problem!r:.200}", where=self._function) from None
            if ready.failed:
                await self.stop()
                raise PipelineFailed(ready.failed, where=self._function)
        return self._process


async def _ask(process: asyncio.subprocess.Process, request: Request) -> Answer:
    assert process.stdin is not None  # noqa: S101 - it was started with pipes
    process.stdin.write(msgspec.json.encode(request) + b"\n")
    await process.stdin.drain()
    return await _answer(process)


async def _answer(process: asyncio.subprocess.Process) -> Answer:
    assert process.stdout is not None  # noqa: S101 - it was started with pipes
    line = await process.stdout.readline()
    if not line:
        raise EOFError("it is gone")
    return msgspec.json.decode(line, type=Answer)
