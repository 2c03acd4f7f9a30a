"""What an action raises to say why it failed, and how any exception is classed; the class decides whether it is tried again."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from typing import Any

from apexstream.core.errors import (
    ApexError,
    InvalidChunk,
    InvalidConfiguration,
    InvalidRequest,
    Unavailable,
    UnknownAction,
    UnknownTask,
)
from apexstream.core.options import ErrorClass


class TransientError(ApexError):
    """It may work in a moment: a dropped connection, a server that restarts. Tried again with growing pauses."""

    code = "transient"


class RateLimited(ApexError):
    """Somebody asked for patience. Tried again after at least ``retry_after_s`` seconds.

    Its JSON form has ``retry_after_s``, a number, beside the fields of every error.
    """

    code = "rate_limited"

    def __init__(
        self, retry_after_s: float, what: str = "asked to slow down", *, where: str = "", hint: str = ""
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.retry_after_s = max(0.0, float(retry_after_s))

    def as_dict(self) -> dict[str, Any]:
        """As every error, with the time that was named."""
        return {**super().as_dict(), "retry_after_s": self.retry_after_s}


class PermanentError(ApexError):
    """Trying again is pointless: bad input, missing rights, a resource that is gone. Never tried again."""

    code = "permanent"


class ResourceError(ApexError):
    """Something here has run out: memory, disk, file descriptors, a licence. Tried again, elsewhere if possible."""

    code = "resource"


# The first that fits decides, so subclasses stand before their bases.
_BY_TYPE: tuple[tuple[tuple[type[BaseException], ...], ErrorClass], ...] = (
    ((TransientError, Unavailable), ErrorClass.TRANSIENT),
    ((RateLimited,), ErrorClass.RATE_LIMITED),
    ((ResourceError, MemoryError), ErrorClass.RESOURCE),
    ((PermanentError, InvalidRequest, InvalidChunk, InvalidConfiguration), ErrorClass.PERMANENT),
    ((UnknownAction, UnknownTask, PermissionError), ErrorClass.PERMANENT),
    ((ConnectionError, TimeoutError, InterruptedError, BlockingIOError), ErrorClass.TRANSIENT),
    ((socket.gaierror, asyncio.IncompleteReadError), ErrorClass.TRANSIENT),
)
_RAN_OUT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EFBIG})
_NETWORK = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT})
_GRAVEST_FIRST = (
    ErrorClass.PERMANENT,
    ErrorClass.PLUGIN_BUG,
    ErrorClass.RESOURCE,
    ErrorClass.RATE_LIMITED,
    ErrorClass.TRANSIENT,
)


def classify(problem: BaseException) -> ErrorClass:
    """The class of an exception that left an action.

    What nobody classified is a ``plugin_bug``, :class:`ValueError` and :class:`OSError` in general included: only network
    trouble is transient, only what has run out is a resource. A group is as grave as the gravest exception in it.
    """
    if isinstance(problem, BaseExceptionGroup):
        classes = {classify(leaf) for leaf in _leaves(problem)}
        return next(kind for kind in _GRAVEST_FIRST if kind in classes)
    for types, kind in _BY_TYPE:
        if isinstance(problem, types):
            return kind
    if isinstance(problem, OSError):
        return _class_of_errno(problem.errno)
    return ErrorClass.PLUGIN_BUG


def _class_of_errno(number: int | None) -> ErrorClass:
    if number in _RAN_OUT:
        return ErrorClass.RESOURCE
    return ErrorClass.TRANSIENT if number in _NETWORK else ErrorClass.PLUGIN_BUG


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for problem in group.exceptions:
        if isinstance(problem, BaseExceptionGroup):
            yield from _leaves(problem)
        else:
            yield problem
