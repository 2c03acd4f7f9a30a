"""Calling a user's function, sync or async, and what becomes of its failure."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from types import CoroutineType
from typing import Any, Final, TypeAlias, TypeVar, cast

from apexstream.plugin.operators.stream import Guard

T = TypeVar("T")
U = TypeVar("U")

Function: TypeAlias = Callable[[T], Awaitable[U] | U]
"""Takes an element; ``def`` or ``async def``. A plain function runs on the event loop: see :func:`threaded`."""


class Ruling(Enum):
    """What happens to an element whose function failed, if no value stands for its result."""

    SKIP = "skip"
    STOP = "stop"


SKIP: Final = Ruling.SKIP
STOP: Final = Ruling.STOP

# Nearly all that functions return; asking these whether they can be awaited would cost more than the call.
PLAIN: Final = frozenset({bool, int, float, str, bytes, dict, list, tuple, set, type(None)})


async def result_of(function: Callable[..., Awaitable[U] | U], *arguments: Any) -> U:
    """Call, and await what is returned if it can be awaited."""
    result = function(*arguments)
    if (kind := type(result)) is CoroutineType or (kind not in PLAIN and isinstance(result, Awaitable)):
        return await cast("Awaitable[U]", result)
    return cast("U", result)


async def ruling(guard: Guard | None, problem: Exception, element: Any) -> Any:
    """``SKIP``, ``STOP`` or the value to go on with; raises ``problem`` where nobody catches it."""
    if guard is None:
        raise problem
    return await guard.ruling(problem, element)


async def guarded(guard: Guard | None, function: Callable[..., Any], element: Any) -> Any:
    """The function's result, or the :func:`ruling` on its failure."""
    try:
        return await result_of(function, element)
    except Exception as problem:
        if guard is None:
            raise
        return await guard.ruling(problem, element)


class Replaced:
    """What a ruling put in the place of a result, marked so that it is not taken for one."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def marked(guard: Guard | None, function: Callable[[T], Any]) -> Callable[[T], Coroutine[Any, Any, Any]]:
    """``function``, whose failure gives ``SKIP``, ``STOP`` or a :class:`Replaced`."""

    async def call(element: T) -> Any:
        try:
            return await result_of(function, element)
        except Exception as problem:
            verdict = await ruling(guard, problem, element)
            return verdict if isinstance(verdict, Ruling) else Replaced(verdict)

    return call


def threaded(function: Callable[[T], U]) -> Callable[[T], Awaitable[U]]:
    """``function`` run in a thread, so that it may block. A call that runs cannot be stopped; its result is dropped then."""

    async def call(element: T) -> U:
        return await asyncio.to_thread(function, element)

    return call


def at_least(least: float, **values: float | None) -> None:
    """Raise :class:`ValueError` for a parameter under ``least``. None is no limit, and fits."""
    for name, value in values.items():
        if value is not None and not value >= least:  # this way round, NaN is refused as well
            raise ValueError(f"{name} is {value}, and must be at least {least}")


def above(bound: float, **values: float | None) -> None:
    """Raise :class:`ValueError` for a parameter that is not above ``bound``."""
    for name, value in values.items():
        if value is not None and not value > bound:
            raise ValueError(f"{name} is {value}, and must be above {bound}")
