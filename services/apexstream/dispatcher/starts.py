"""Records of starts that are on their way: how many, and whether one was lost."""

import asyncio

from apexstream.core.errors import Unavailable


class Starts:
    """Listens for the outcomes of appends that nobody waits for one by one; at most about ``records_max`` are in flight."""

    def __init__(self, records_max: int) -> None:
        self._records_max = records_max
        self._flying = 0
        self._changed = asyncio.Event()
        self._lost: Unavailable | None = None

    def one(self) -> "Starts":
        """The listener of one more record."""
        self._flying += 1
        return self

    def appended(self, offset: int) -> None:  # noqa: ARG002 - the listener's signature
        """One of them is in the log."""
        self._flying -= 1
        if self._flying < self._records_max:
            self._changed.set()

    def failed(self, error: Unavailable) -> None:
        """One of them may or may not be in the log."""
        self._flying -= 1
        self._lost = error
        self._changed.set()

    async def room(self) -> None:
        """Until another record may leave."""
        while self._flying >= self._records_max and self._lost is None:
            self._changed.clear()
            await self._changed.wait()

    async def watch(self) -> None:
        """Until cancelled; raises what became of a record that was lost. Only the log tells then what was started."""
        while self._lost is None:
            self._changed.clear()
            await self._changed.wait()
        lost, self._lost = self._lost, None
        raise lost
