"""Streams that are loaded one after the other, in any turn of the loop, are all loaded."""

import asyncio
from types import SimpleNamespace
from typing import Any

from apexstream.gateway.loading import Loader

PARTITION = ("chunks", 3)
TIMEOUT_S = 60


class NothingWritten:
    """A tail at the beginning of an empty partition."""

    def position(self, _: Any) -> int:
        return 0


def stream(name: str) -> Any:
    return SimpleNamespace(stream_id=name, partition=PARTITION)


async def test_a_stream_wanted_in_the_turn_in_which_a_scan_ends_is_loaded_too() -> None:
    loaded: list[str] = []
    loader = Loader(None, NothingWritten(), lambda each: loaded.append(each.stream_id))  # type: ignore[arg-type]

    async with asyncio.timeout(TIMEOUT_S):
        for name in "abc":  # each as soon as the one before is there
            await loader.load(stream(name), 0)

    assert loaded == ["a", "b", "c"]
