"""One way to read a result, whatever form the plugin gave it: every form becomes an async iterator that is closed for sure."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

_END = object()


async def iterate(result: Any) -> AsyncGenerator[Any, None]:
    """Yield the chunks of ``result``: an async iterable, a generator or iterator (run in its own thread, so that it may
    block), an awaitable of any of these, or a single value, which becomes the only chunk.

    Lists, strings and dicts are single values: a plugin that returns one means one result.
    """
    if isinstance(result, Awaitable):
        result = await result
    if isinstance(result, AsyncIterable):
        source = _closing(result)
    elif isinstance(result, Iterator):
        source = _in_thread(result)
    else:
        source = _single(result)
    async with aclosing(source) as chunks:
        async for chunk in chunks:
            yield chunk


async def _single(result: Any) -> AsyncGenerator[Any, None]:
    yield result


async def _closing(source: AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    iterator = aiter(source)
    try:
        async for chunk in iterator:
            yield chunk
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


async def _in_thread(iterator: Iterable[Any]) -> AsyncGenerator[Any, None]:
    """Run a blocking iterator in one thread of its own, a step at a time, and close it there."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "plugin-generator") as thread:
        steps = iter(iterator)
        try:
            while (chunk := await loop.run_in_executor(thread, next, steps, _END)) is not _END:
                yield chunk
        finally:
            if isinstance(steps, Generator):
                await loop.run_in_executor(thread, steps.close)
