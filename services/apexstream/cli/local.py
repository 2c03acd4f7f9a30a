"""``apexstream run --local``: an action in this process, without gateway and Kafka, with the same output.

For authors of plugins. Nothing is stored, so nothing can be resumed.
"""

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from apexstream.cli.exits import ExitCode
from apexstream.cli.params import parse_params
from apexstream.cli.render import view_for
from apexstream.cli.run import watch
from apexstream.cli.signals import interruptions
from apexstream.client import Cancelled, Complete, EndFrame, Error, Frame, Problem, Progress, ProgressReport, Update
from apexstream.core.errors import ApexError, PluginFailed
from apexstream.plugin import CancellationToken, PluginManager, ProgressCallback, ProgressUpdate
from apexstream.plugin.manager import describe_failure
from apexstream.plugin.values import encode_value
from apexstream.runtime.logs import configure_logs
from apexstream.runtime.settings import load_settings

STREAM = "local"
WAITING_FRAMES_MAX = 256
CANCEL_GRACE_S = 5.0  # between asking an action to stop and cancelling it, as in a runner


def run_local(plugin: str, action: str, arguments: Sequence[str], output: str) -> ExitCode:
    """Run an action here; the exit status says how it ended."""
    configure_logs(load_settings(), service="local", own_errors=True)
    plugins = PluginManager()
    plugins.find(plugin, action)
    schema = next(spec.params_schema for name, spec in plugins.actions() if (name, spec.name) == (plugin, action))
    params = parse_params(arguments, schema)
    plugins.validate(plugin, action, params)
    return asyncio.run(_run(LocalStream(plugins, plugin, action, params), output))


async def _run(stream: "LocalStream", output: str) -> ExitCode:
    with interruptions() as interrupted:
        return await watch(
            stream.frames(), view_for(output), interrupted, cancel=stream.cancel, left="the action was abandoned"
        )


class LocalStream:
    """The frames that a gateway would send if this run of an action were a task."""

    def __init__(self, plugins: PluginManager, plugin: str, action: str, params: dict[str, Any]) -> None:
        self._plugins = plugins
        self._call = (plugin, action, params)
        self._token = CancellationToken()
        self._waiting: asyncio.Queue[Frame] = asyncio.Queue(WAITING_FRAMES_MAX)
        self._late: ProgressUpdate | None = None  # the newest that found no room
        self._putting = False  # a frame that has its seq waits for room: nothing may overtake it
        self._seq = 0
        self._cancelled_at = 0.0

    async def cancel(self) -> None:
        """Ask the action to stop, and cancel it if it does not within ``CANCEL_GRACE_S``."""
        self._cancelled_at = time.monotonic()
        self._token.cancel("Ctrl-C")
        await asyncio.sleep(CANCEL_GRACE_S)
        self._running.cancel()

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Run the action and yield what it gives, up to the end frame."""
        self._running = asyncio.ensure_future(self._run())
        try:
            while True:
                frame = await self._waiting.get()
                yield frame
                if isinstance(frame, EndFrame):
                    return
        finally:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        error: Problem | None = None
        try:
            await self._drive()
        except asyncio.CancelledError:
            if not self._token.is_cancelled:
                raise
        except ApexError as problem:
            error = msgspec.convert(problem.as_dict(), Problem)
        except Exception as problem:  # whatever an author's code raises is this stream's error, as in a runner
            error = Problem(code=PluginFailed.code, message=describe_failure(problem), where=".".join(self._call[:2]))
        if error is not None:
            await self._put(Error, error=error)
        elif self._token.is_cancelled:
            await self._put(Cancelled, data=self._receipt())
        else:
            await self._put(Complete)

    async def _drive(self) -> None:
        run = self._plugins.run(*self._call, self._report(asyncio.get_running_loop()), self._token)
        async with aclosing(run) as values:
            async for value in values:
                await self._put(Update, **_content(value))
                if self._token.is_cancelled:
                    return

    def _report(self, loop: asyncio.AbstractEventLoop) -> ProgressCallback:
        done: asyncio.Future[None] = loop.create_future()
        done.set_result(None)

        def report(update: ProgressUpdate) -> asyncio.Future[None]:
            if _runs_in(loop):
                self._progress(update)
            else:
                loop.call_soon_threadsafe(self._progress, update)
            return done

        return report

    def _progress(self, update: ProgressUpdate) -> None:
        if self._putting or self._waiting.full():
            self._late = update
        else:
            self._waiting.put_nowait(self._frame(Progress, progress=_progress_report(update)))

    async def _put(self, kind: type[Any], **content: Any) -> None:
        self._putting = True
        if self._late is not None:
            late, self._late = self._late, None
            await self._waiting.put(self._frame(Progress, progress=_progress_report(late)))
        await self._waiting.put(self._frame(kind, **content))
        self._putting = False

    def _frame(self, kind: type[Any], **content: Any) -> Frame:
        seq = self._seq
        self._seq += 1
        frame: Frame = kind(stream_id=STREAM, seq=seq, **content)
        return frame

    def _receipt(self) -> dict[str, Any]:
        after_ms = int((time.monotonic() - self._cancelled_at) * 1000)
        return {"reason": self._token.reason, "stopped_at_seq": self._seq, "after_ms": after_ms}


def _runs_in(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _progress_report(update: ProgressUpdate) -> ProgressReport:
    return ProgressReport(percentage=update.percentage, message=update.message, status=update.status)


def _content(value: Any) -> dict[str, Any]:
    payload, content_type = encode_value(value)
    if not content_type:
        return {"data": msgspec.json.decode(payload)}
    if content_type.startswith("text/"):
        return {"data": payload.decode("utf-8", "replace"), "content_type": content_type}
    return {"data": b64encode(payload).decode(), "content_type": content_type, "encoding": "base64"}
