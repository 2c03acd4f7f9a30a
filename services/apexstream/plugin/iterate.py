"""One way to read a result, whatever form the plugin gave it: every form becomes an async iterator that is closed for sure."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any

_END = object()

InThread = Callable[[Callable[[Iterator[Any]], Any]], Awaitable[Any]]
"""Calls a function with the iterator in the iterator's thread, and gives what it returns."""


async def resolved(result: Any) -> Any:
    """What an action gave, once it is there."""
    return await result if isinstance(result, Awaitable) else result


@asynccontextmanager
async def opened(result: Any) -> AsyncIterator[AsyncIterator[Any]]:
    """The chunks of ``result``, which is closed at the end: an async iterable, a generator or iterator (run in its own
    thread, so that it may block), an awaitable of any of these, or a single value, which becomes the only chunk.

    Lists, strings and dicts are single values: a plugin that returns one means one result.
    """
    result = await resolved(result)
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


async def _in_thread(iterator: Iterator[Any]) -> AsyncGenerator[Any, None]:
    """Run a blocking iterator in one thread of its own, a step at a time, and close it there."""
    async with threaded(iterator) as run:
        while (chunk := await run(_step)) is not _END:
            yield chunk


def _step(steps: Iterator[Any]) -> Any:
    return next(steps, _END)


@asynccontextmanager
async def threaded(steps: Iterator[Any]) -> AsyncIterator[InThread]:
    """Run functions on a blocking iterator in one thread of its own, where it is also closed in the end."""
    loop = asyncio.get_running_loop()
    context = copy_context()  # the thread sees what the caller sees, its StreamPersistence for instance
    thread = ThreadPoolExecutor(1, "plugin-generator")

    def run(function: Callable[[Iterator[Any]], Any]) -> Awaitable[Any]:
        return loop.run_in_executor(thread, lambda: context.run(function, steps))

    try:
        yield run
    finally:
        try:
            if isinstance(steps, Generator):
                await run(_close)  # type: ignore[arg-type]  # it is a generator
        finally:
            thread.shutdown(wait=False)  # a step that blocks for ever must not block the loop as well


def _close(steps: Generator[Any, Any, Any]) -> None:
    steps.close()
