"""Tells one reader a stream in a dialect, from its beginning to its end."""

from collections.abc import AsyncGenerator

from apexstream.core.errors import ApexError
from apexstream.gateway.chat.dialect import REWOUND, Dialect
from apexstream.gateway.cursors import Position
from apexstream.gateway.hub import Hub
from apexstream.gateway.reader import Reader, Stopped, reading
from apexstream.gateway.streamed import BEAT_S, BrokenOff, next_delivery
from apexstream.runtime import meters

_BEAT = b":\n\n"


async def tell(hub: Hub, stream_id: str, tenant: str, dialect: Dialect) -> AsyncGenerator[bytes, None]:
    """What ``dialect`` makes of the stream. If this gateway stops or the reader is too slow it raises :class:`BrokenOff`: an
    answer that just ends would look like a whole one."""
    watching = meters.VIEWERS.of(dialect.encoding.name)
    watching.value += 1
    start: Position | None = Position(0)
    try:
        yield dialect.begin()
        while start is not None:
            async with reading(hub, stream_id, start, dialect.encoding, tenant=tenant) as reader:
                start = None
                async for data in _told(reader):
                    if data == REWOUND:
                        start = Position(0, reader.position.rewinds)
                        yield dialect.again()
                        break
                    yield data if data == _BEAT else dialect.shown(data)
                if reader.stopped in {Stopped.DRAINING, Stopped.SLOW}:
                    raise BrokenOff
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
