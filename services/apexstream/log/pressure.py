"""Tells the writers of adaptive streams, over ``apex.control``, how far their readers here are behind."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from apexstream.contracts.codec import Codec
from apexstream.core.errors import Unavailable
from apexstream.core.events import ControlCommand, ControlVerb
from apexstream.core.throttle import Reporter, behind_words
from apexstream.runtime.clock import Clock

LOOK_S = 1.0

_log = structlog.get_logger(__name__)


async def report_pressure(
    behind: Callable[[], Mapping[str, float]],
    append: Callable[[bytes, bytes], Awaitable[object]],
    codec: Codec,
    clock: Clock,
    *,
    reader: str,
) -> None:
    """Until cancelled. ``behind`` gives the pressure (0 to 1) of each adaptive stream that is read here, ``append`` writes a
    command. What cannot be said is said the next time, if it is still true."""
    reporters: dict[str, Reporter] = {}
    while True:
        await asyncio.sleep(LOOK_S)
        found = behind()
        reporters = {stream_id: reporters.get(stream_id) or Reporter() for stream_id in found}
        for stream_id, pressure in found.items():
            if not reporters[stream_id].due(pressure, clock.monotonic()):
                continue
            command = ControlCommand(
                task_id=stream_id,
                verb=ControlVerb.THROTTLE,
                at_us=clock.now_us(),
                reason="a reader is behind",
                detail=behind_words(reader, pressure),
            )
            try:
                await append(stream_id.encode(), codec.encode(command))
            except Unavailable as problem:
                _log.warning("the writer of a stream cannot be told", stream=stream_id, error=str(problem))
