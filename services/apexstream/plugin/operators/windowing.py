"""The window operator: which windows there are is decided in :mod:`apexstream.plugin.operators.windows`."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from typing import Any, TypeVar

from apexstream.plugin.operators.calls import Function, above, at_least, result_of
from apexstream.plugin.operators.clock import LOOP_CLOCK, Timers
from apexstream.plugin.operators.errors import LateElement, Overflow
from apexstream.plugin.operators.reading import Readers
from apexstream.plugin.operators.stream import Guard, Source, Stream, opened
from apexstream.plugin.operators.windows import ENDED, Time, Window, WindowKind, Windows
from apexstream.plugin.values import Watermark

T = TypeVar("T")

HELD_MAX = 100_000  # elements that windows or a side of a join hold


def window(
    source: Source[T],
    kind: WindowKind,
    *,
    time_of: Callable[[T], Time] | None = None,
    key_of: Callable[[T], Hashable] | None = None,
    lateness: Time = 0,
    late: Function[T, object] | None = None,
    held_max: int = HELD_MAX,
    clock: Timers = LOOP_CLOCK,
    ahead_max: int = 1,
) -> Stream[Window[T]]:
    """Closed windows, one a key if ``key_of`` is given, by their ends.

    In event time, with ``time_of``: a window is closed by the first element, of whichever key, whose time is at least its end
    plus ``lateness`` (a sliding one: more than that), by a :class:`Watermark` of its end, or by the source's end; by nothing
    else, so a silent source keeps windows open. In arrival time, without ``time_of``, in seconds: by the clock.

    An element that belongs to closed windows only is handed to ``late``; without it the stream fails with
    :class:`~apexstream.plugin.operators.LateElement`. So it does with :class:`~apexstream.plugin.operators.Overflow` when
    open windows hold more than ``held_max`` elements; a failed source's open windows are not given.
    """
    above(0, held_max=held_max)
    at_least(0, ahead_max=ahead_max)
    Windows(kind, lateness)  # what is wrong is said now
    if time_of is None and lateness:
        raise ValueError("elements are never late in arrival time: lateness needs time_of")
    key = key_of or (lambda _: None)

    async def event_time(guard: Guard | None) -> AsyncGenerator[Window[T], None]:
        windows = Windows(kind, lateness)
        async with opened(source, guard) as elements:
            async for element in elements:
                if isinstance(element, Watermark):
                    windows.advance(element.time)
                elif not windows.add(time_of(element), key(element), element):  # type: ignore[misc]  # it is given here
                    await handed_over(element, late, windows.watermark)
                if len(windows) > held_max:
                    raise overflowing("open windows", held_max)
                for closed in windows.closed():
                    yield closed
        windows.advance(ENDED)
        for closed in windows.closed():
            yield closed

    async def arrival_time(guard: Guard | None) -> AsyncGenerator[Window[T], None]:
        windows = Windows(kind)
        async with Readers(clock, guard) as readers:
            inbox = readers.add(source, ahead_max)
            while not inbox.over:
                due = windows.due()
                if await inbox.arrived(None if due == ENDED else due) and inbox:
                    element = inbox.take()
                    windows.advance(clock.monotonic())
                    windows.add(clock.monotonic(), key(element), element)
                    if len(windows) > held_max:
                        raise overflowing("open windows", held_max)
                windows.advance(clock.monotonic())
                for closed in windows.closed():
                    yield closed
            inbox.finish()
        windows.advance(ENDED)
        for closed in windows.closed():
            yield closed

    return Stream(arrival_time if time_of is None else event_time, source)


async def handed_over(
    element: Any, late: Callable[[Any], Awaitable[object] | object] | None, watermark: Time, what: str = "its windows"
) -> None:
    """Give a late element to whoever takes such; raises :class:`LateElement` if nobody does."""
    if late is None:
        raise LateElement(
            f"an element came after {what} were closed, at watermark {watermark}",
            hint="Allow more lateness, or say with late= what becomes of such elements",
        )
    await result_of(late, element)


def overflowing(what: str, held_max: int) -> Overflow:
    """The error for more than ``held_max`` elements in ``what``."""
    return Overflow(
        f"{what} hold more than {held_max} elements", hint="Use smaller windows, less lateness, or raise held_max"
    )
