"""What the dispatcher's loop needs handed in to write to the log."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from apexstream.log.writer import AppendListener
from apexstream.runtime.tracing import Headers

Append = Callable[[str, bytes], Awaitable[object]]
"""Appends an encoded message under a key; returns once it is acknowledged."""

PublishState = Callable[[str, bytes | None], Awaitable[object]]
"""The same, for a topic that knows tombstones."""

SendEvent = Callable[[bytes, bytes, AppendListener], None]
"""Appends an encoded event under a key, and tells the listener what became of it."""


class Assign(Protocol):
    """Appends an assignment or a claim to a partition; returns once it is acknowledged."""

    def __call__(
        self, partition: int, key: bytes, value: bytes | None, headers: Headers = (), /
    ) -> Awaitable[object]: ...


class SendTo(Protocol):
    """Appends an assignment to a partition, and tells the listener what became of it."""

    def __call__(
        self, partition: int, key: bytes, value: bytes, listener: AppendListener, headers: Headers, /
    ) -> None: ...
