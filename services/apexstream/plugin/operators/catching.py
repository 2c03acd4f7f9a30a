"""What a failure costs: one element, or the rest of the stream.

``catch`` covers the operators before it, back to the ``catch`` before, or to a ``retry``. Where the function fails that map,
filter, tap, flat_map, scan or reduce calls for an element, the operator goes on and its state is kept. A source that fails
has ended, and so has any other operator: there nothing can be skipped, and the stream ends after the element that stands for
the failure, if any does.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from apexstream.plugin.operators.calls import SKIP, STOP, Ruling, result_of, ruling
from apexstream.plugin.operators.stream import Guard, Source, Stream, opened

T = TypeVar("T")
R = TypeVar("R")
Kinds: TypeAlias = type[Exception] | tuple[type[Exception], ...]


class Missing:
    """The type of :data:`MISSING`; None is a value like any other."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()
"""Where there is no element."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception, and the element whose function raised it; ``MISSING`` if it was the stream itself that failed."""

    problem: Exception
    element: Any


Policy: TypeAlias = Callable[[Failure], Awaitable[R] | R]
"""Takes a :class:`Failure`; gives ``SKIP``, ``STOP`` or the value that stands for the result; or raises."""


def skip_failed(failure: Failure) -> Ruling:  # noqa: ARG001 - a Policy
    """Leave the element out."""
    return SKIP


def stop(failure: Failure) -> Ruling:  # noqa: ARG001 - a Policy
    """Let the operator end, as if its source had ended before the element."""
    return STOP


def replace(value: R) -> Callable[[Failure], R]:
    """Let ``value`` stand for the failed function's result. Operators between there and ``catch`` get it as well."""
    return lambda failure: value  # noqa: ARG005 - a Policy


def dead_letter(
    sink: Callable[[Failure], Awaitable[object] | object], *, then: Ruling = SKIP
) -> Callable[[Failure], Awaitable[Ruling]]:
    """Hand the failure to ``sink``, then leave the element out, or ``then=STOP``. What ``sink`` raises fails the stream."""

    async def policy(failure: Failure) -> Ruling:
        await result_of(sink, failure)
        return then

    return policy


class _Catch:
    """The guard of one reading."""

    def __init__(self, policy: Policy[Any], only: Kinds, outer: Guard | None) -> None:
        self._policy = policy
        self._only = only
        self._outer = outer
        self._final: Exception | None = None

    async def ruling(self, problem: Exception, element: Any) -> Any:
        if problem is self._final:
            raise problem
        try:
            if isinstance(problem, self._only):
                return await result_of(self._policy, Failure(problem, element))
            return await ruling(self._outer, problem, element)  # a catch further on may want it
        except Exception as final:
            self._final = final  # passes through all that this guard covers, and is not ruled on again
            raise


def catch(
    source: Source[T],
    policy: Policy[T | Ruling],
    *,
    only: Kinds = Exception,
) -> Stream[T]:
    """The elements, with failures of the kinds ``only`` before this point put before ``policy``: :func:`skip_failed`,
    :func:`stop`, :func:`replace`, :func:`dead_letter`, or a function of one's own. Cancellation is never caught.
    """

    async def run(outer: Guard | None) -> AsyncGenerator[T, None]:
        guard = _Catch(policy, only, outer)
        try:
            async with opened(source, guard) as elements:
                async for element in elements:
                    yield element
        except Exception as problem:
            verdict = await guard.ruling(problem, MISSING)
        else:
            return
        if not isinstance(verdict, Ruling):
            yield verdict

    return Stream(run, source)
