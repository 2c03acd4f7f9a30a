"""One way to read a result, whatever form the plugin gave it: every form becomes an async iterator that is closed for sure."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any

_END = object()


@asynccontextmanager
async def opened(result: Any) -> AsyncIterator[AsyncIterator[Any]]:
    """The chunks of ``result``, which is closed at the end: an async iterable, a generator or iterator (run in its own
    thread, so that it may block), an awaitable of any of these, or a single value, which becomes the only chunk.

    Lists, strings and dicts are single values: a plugin that returns one means one result.
    """
    if isinstance(result, Awaitable):
        result = await result
    if isinstance(result, AsyncIterable):
        chunks = aiter(result)
    elif isinstance(result, Iterator):
        chunks = _in_thread(result)
    else:
        chunks = _single(result)
    try:
        yield chunks
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def iterate(result: Any) -> AsyncGenerator[Any, None]:
    """The same as an async generator."""
    async with opened(result) as chunks:
        async for chunk in chunks:
            yield chunk


async def _single(result: Any) -> AsyncGenerator[Any, None]:
    yield result


async def _in_thread(iterator: Iterable[Any]) -> AsyncGenerator[Any, None]:
    """Run a blocking iterator in one thread of its own, a step at a time, and close it there."""
    loop = asyncio.get_running_loop()
    context = copy_context()  # the thread sees what the caller sees, its StreamPersistence for instance
    thread = ThreadPoolExecutor(1, "plugin-generator")
    steps = iter(iterator)

    def step() -> Any:
        return context.run(next, steps, _END)

    try:
        while (chunk := await loop.run_in_executor(thread, step)) is not _END:
            yield chunk
    finally:
        try:
            if isinstance(steps, Generator):
                await loop.run_in_executor(thread, context.run, steps.close)
        finally:
            thread.shutdown(wait=False)  # a step that blocks for ever must not block the loop as well
