"""What flows through the steps of a job, and how a step says that something is wrong. Pure.

Times are microseconds since the epoch. Everything between two steps is a list of items, in order.
"""

from typing import Any, Final, TypeAlias

import msgspec

from apexstream.core.errors import ApexError
from apexstream.core.stateless import ElementFailed

NEVER: Final = -(1 << 63)
ENDED: Final = (1 << 63) - 1


class Element(msgspec.Struct, gc=False):
    """A decoded value and its event time. Steps never change a value in place."""

    time: int
    value: Any


class Tick(msgspec.Struct, gc=False):
    """Time has come this far, as an element of this time would show; later elements may still be late by the lateness."""

    time: int


class Mark(msgspec.Struct, gc=False):
    """No element below this time follows; ``ENDED``: no element at all."""

    time: int


Item: TypeAlias = Element | Tick | Mark
END: Final = Mark(ENDED)


class PipelineFailed(ApexError):
    """The job cannot go on; its output ends with this error."""

    code = "pipeline_failed"


class Overflow(PipelineFailed):
    """A job would have to remember more than its bound."""

    code = "pipeline_overflow"


class Sides:
    """What goes to the side outputs in a step, and what becomes of elements that fail.

    ``policy`` is the definition's ``on_failure``. ``names`` are the side outputs that the definition has.
    """

    def __init__(self, policy: str, names: frozenset[str]) -> None:
        self._policy = policy
        self._names = names
        self._taken: dict[str, list[Element]] = {}

    def late(self, element: Element, name: str = "late") -> None:
        """An element came too late for what it belongs to."""
        self._put(name, element)

    def failed(self, element: Element, problem: ElementFailed, name: str = "failed") -> None:
        """An element could not be taken. Raises :class:`PipelineFailed` if that ends the pipeline."""
        if self._policy == "fail":
            raise PipelineFailed(problem.what, where=problem.where, hint=problem.hint)
        if self._policy == "dead_letter":
            self._put(name, Element(element.time, {"error": problem.as_dict(), "value": element.value}))

    def taken(self) -> dict[str, list[Element]]:
        """What came since the last call, by side output."""
        taken, self._taken = self._taken, {}
        return taken

    def _put(self, name: str, element: Element) -> None:
        if name in self._names:
            self._taken.setdefault(name, []).append(element)
