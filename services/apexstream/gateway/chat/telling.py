"""Tells one reader a stream in a dialect, from its beginning to its end."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from apexstream.core.errors import ApexError
from apexstream.gateway.chat.dialect import REWOUND, Dialect
from apexstream.gateway.cursors import Position
from apexstream.gateway.hub import Hub
from apexstream.gateway.reader import Reader, Stopped, reading
from apexstream.gateway.streamed import BEAT_S, BrokenOff, Streamed, next_delivery, readable
from apexstream.runtime import meters

_BEAT = b":\n\n"


async def answer(hub: Hub, stream_id: str, tenant: str, dialect: Dialect) -> Streamed:
    """The stream as ``dialect`` tells it. Raises what is wrong with a stream that exists (erased, expired) while there is still
    a status to say it with."""

    def read_from(start: Position) -> AbstractAsyncContextManager[Reader]:
        return reading(hub, stream_id, start, dialect.encoding, tenant=tenant)

    async with AsyncExitStack() as stack:
        reader = await stack.enter_async_context(read_from(Position(0)))
        if hub.exists(stream_id, tenant):
            await readable(reader)
        kept = stack.pop_all()
        body = _tell(dialect, reader, kept, read_from)
        return Streamed(body, kept, headers={"stream-id": stream_id, **dialect.headers})


async def _tell(
    dialect: Dialect,
    reader: Reader,
    kept: AsyncExitStack,
    read_from: Callable[[Position], AbstractAsyncContextManager[Reader]],
) -> AsyncGenerator[bytes, None]:
    """``kept`` holds ``reader``, and every later one in its place. If this gateway stops or the reader is too slow it raises
    :class:`BrokenOff`: an answer that just ends would look like a whole one."""
    watching = meters.VIEWERS.of(dialect.encoding.name)
    watching.value += 1
    try:
        yield dialect.begin()
        rewound = True
        while rewound:
            rewound = False
            async for data in _told(reader):
                if data == REWOUND:
                    rewound = True
                    break
                yield data if data == _BEAT else dialect.shown(data)
            if reader.stopped in {Stopped.DRAINING, Stopped.SLOW}:
                raise BrokenOff
            if rewound:
                yield dialect.again()
                start = Position(0, reader.position.rewinds)
                await kept.aclose()
                reader = await kept.enter_async_context(read_from(start))
    except ApexError as problem:
        yield dialect.failed(problem)
    finally:
        watching.value -= 1


async def _told(reader: Reader) -> AsyncGenerator[bytes, None]:
    while (delivery := await next_delivery(reader, BEAT_S)) is not None:
        if delivery.data or not delivery.up_to_date:
            yield delivery.data or _BEAT
        if delivery.ended:
            return
