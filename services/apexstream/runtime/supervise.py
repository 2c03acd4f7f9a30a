"""Runs a service's loops side by side: until told to stop, or until one of them fails."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


async def run_until(stop: asyncio.Event, *loops: Coroutine[Any, Any, Any]) -> None:
    """Run ``loops`` until ``stop`` is set, then cancel and await them all. If one ends or raises first, so do the others,
    and its error is raised, the first one if it comes in a group: a service without one of its loops must not look alive."""
    tasks = [asyncio.create_task(loop, name=getattr(loop, "__qualname__", "loop")) for loop in loops]
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopping, *tasks):
            task.cancel()
        await asyncio.gather(stopping, *tasks, return_exceptions=True)
    for task in done - {stopping}:
        try:
            task.result()
        except ExceptionGroup as group:
            raise _first(group) from group
        raise RuntimeError(f"{task.get_name()} ended by itself")


@asynccontextmanager
async def beside(loop: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """Run ``loop`` for as long as the body, to its very end. If it ends first, the body is cancelled and its error raised."""
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(_forever(loop), name=getattr(loop, "__qualname__", "loop"))
            try:
                yield
            finally:
                running.cancel()
    except ExceptionGroup as problems:
        raise _first(problems) from problems


async def _forever(loop: Coroutine[Any, Any, Any]) -> None:
    await loop
    raise RuntimeError(f"{getattr(loop, '__qualname__', 'loop')} ended by itself")


def _first(problem: Exception) -> Exception:
    return _first(problem.exceptions[0]) if isinstance(problem, ExceptionGroup) else problem
