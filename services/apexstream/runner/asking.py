"""What the action of one attempt asks of other tasks: each question in a task of its own, all of them over with the attempt."""

import asyncio
from collections.abc import Callable

import msgspec

from apexstream.core.coordination import refused
from apexstream.runner.coordination import Party


class Asking:
    """The questions of one attempt. ``answer`` takes a question's number and its answer back to the action."""

    def __init__(self, party: Party, answer: Callable[[int, bytes], None]) -> None:
        self._party = party
        self._answer = answer
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, number: int, question: bytes, attempt: int) -> None:
        """Find the answer; whoever asks bounds how many questions there are at once."""
        task = asyncio.create_task(self._find(number, question, attempt), name="answer an action")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Answer nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._party.leave()

    async def _find(self, number: int, question: bytes, attempt: int) -> None:
        try:
            answer = await self._party.ask(question, attempt)
        except Exception as problem:
            answer = refused("unavailable", f"the question could not be answered: {problem}", "Try again")
        self._answer(number, msgspec.msgpack.encode(answer))
