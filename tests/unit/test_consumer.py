"""An answer that says "not now" is no answer that says "never"."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import NotCoordinatorForGroupError
from aiokafka.protocol.commit import OffsetFetchResponse_v3
from aiokafka.structs import TopicPartition

from apexstream.log.consumer import HeedfulCoordinator

PLACE = TopicPartition("t", 0)
LOADING, NOT_ME, FINE = 14, 16, 0


class Coordinator(HeedfulCoordinator):
    """Asks a broker that gives these answers: (error of the whole, committed offset)."""

    def __init__(self, *answers: tuple[int, int]) -> None:
        self.group_id, self.coordinator_id, self._retry_backoff_ms = "g", 1, 1
        self.lost = 0
        self._answers = list(answers)
        self._client = SimpleNamespace(send=self._answer)

    async def _answer(self, *_: Any, **__: Any) -> OffsetFetchResponse_v3:
        error, offset = self._answers.pop(0)
        return OffsetFetchResponse_v3(0, [("t", [(0, offset, "", 0)])], error)

    async def ensure_coordinator_known(self) -> None:
        self.coordinator_id = 1

    def coordinator_dead(self) -> None:
        self.lost += 1


@pytest.mark.parametrize("error", [LOADING, NOT_ME])
async def test_committed_offsets_that_cannot_be_told_now_are_asked_for_again(error: int):
    coordinator = Coordinator((error, -1), (error, -1), (FINE, 7))
    committed = await asyncio.wait_for(coordinator.fetch_committed_offsets([PLACE]), 5)
    assert committed[PLACE].offset == 7
    assert coordinator.lost == 2


async def test_an_offset_that_was_never_committed_is_none():
    assert await Coordinator((FINE, -1)).fetch_committed_offsets([PLACE]) == {}


async def test_an_answer_to_one_question_raises_what_it_says():
    with pytest.raises(NotCoordinatorForGroupError):
        await Coordinator((NOT_ME, -1))._do_fetch_commit_offsets([PLACE])
