"""An agent that stops consuming without a word: readiness says so, it is started again, and the pipeline goes on."""

import asyncio
from typing import Any

import pytest
from tests.support.jobs import DEADLINE_S, Log, processing, values
from tests.support.pipelines import chunks_of
from tests.support.streams import Author

from apexstream.processors import application, faust_mends, watchdog
from apexstream.runtime import meters
from apexstream.runtime.health import HEALTH


async def test_an_agent_that_stopped_consuming_is_started_again(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Seen(application.MendedApp):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            made.append(self)

    monkeypatch.setattr(application, "MendedApp", Seen)
    monkeypatch.setattr(watchdog, "STALL_S", 2.0)
    monkeypatch.setattr(faust_mends, "DRAIN_TIMEOUT_S", 1.0)
    monkeypatch.setattr(watchdog, "LOOK_S", 0.2)
    monkeypatch.setattr(watchdog, "RESTARTS_MAX", 100)
    author, chunks = Author("s"), chunks_of([{"v": v} for v in range(400)])
    restarts, troubles = meters.PIPELINE_RESTARTS.of(), set()

    async def listen() -> None:
        while True:
            troubles.add(HEALTH.ready().checks.get("consumer", ""))
            await asyncio.sleep(0.05)

    async with Log.open(kafka) as log, processing(log.settings):
        before = restarts.value
        await log.submit("out", inputs=[{"stream": "s"}], operators=[{"op": "scan", "give": {"n": "count"}}])
        await log.append("s", author.claim(0), author.run(chunks[:200]))
        await log.until("out", count=200)
        listening = asyncio.create_task(listen())
        for agent in made[0].agents.values():
            await (
                agent.stop()
            )  # as a rebalance that goes wrong leaves it: the application runs, and nobody takes anything
        await log.append("s", author.run(chunks[200:]))

        content = await log.until("out")

        async with asyncio.timeout(DEADLINE_S):
            while HEALTH.ready().checks["consumer"] != "ok":
                await asyncio.sleep(0.05)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)

    assert [x["n"] for x in values(content)] == list(range(1, 401))
    assert restarts.value > before
    assert len(made) > 1
    assert any("although there is work" in trouble for trouble in troubles)
