"""An installation of real processes for one test, on the broker that all tests share or on one that may be killed."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from tests.faults.brokers import SomebodysBroker
from tests.faults.evidence import Job
from tests.faults.harness import SHORT_SESSIONS, Run, started

TIMEOUT_S = 120.0
Begin = Callable[..., AbstractAsyncContextManager[Run]]


@pytest.fixture
def begin(kafka: str, topic_prefix: str, tmp_path: Path) -> Begin:
    """``async with begin() as run``: processes on the shared broker, with topics of this test's own and short sessions."""

    @asynccontextmanager
    async def begin(**more: Any) -> AsyncIterator[Run]:
        settings = {"timeout_s": TIMEOUT_S, "prefix": topic_prefix, **SHORT_SESSIONS, **more}
        async with started(SomebodysBroker(kafka), tmp_path, 1, **settings) as run:
            yield run
        await _forget_topics(kafka, topic_prefix)

    return begin


async def _forget_topics(kafka: str, prefix: str) -> None:
    """A hundred tests leave 15,000 partitions, of which a broker on a small heap dies."""
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    try:
        await client.delete_topics([topic for topic in await client.list_topics() if topic.startswith(prefix)])
    finally:
        await client.close()


def follow(run: Run, jobs: Iterable[Job]) -> list[asyncio.Task[None]]:
    """Submit the jobs and watch each to its end, in tasks that end with that."""
    return [asyncio.create_task(run.load.follow(job)) for job in jobs]


def steady(
    count: int, seconds: float, *, per_s: float = 20.0, actions: tuple[str, ...] = (), name: str = "steady"
) -> list[Job]:
    """``count`` streams that take about ``seconds`` each, of every way to resume in turn."""
    actions = actions or ("checkpointed", "deterministic", "restart", "persistent")
    rng = random.Random(count)
    return [
        Job(
            task_id=f"{name}-{number}",
            action=actions[number % len(actions)],
            plan={
                "key": f"{name}-{number}",
                "n": int(seconds * per_s) + rng.randint(0, 20),
                "interval_s": 1 / per_s,
                "progress_every": rng.choice([0, 0, 7]),
            },
            options={"max_attempts": 100},
        )
        for number in range(count)
    ]
