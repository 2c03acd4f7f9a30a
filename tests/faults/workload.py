"""Which tasks a run submits: drawn from a seed, so that the same seed asks for the same streams."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tests.faults.evidence import Job

ACTIONS = {"restart": 3, "deterministic": 4, "checkpointed": 4, "persistent": 2, "threaded": 1}
TIERS = {"high": 1, "normal": 3, "low": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How long streams are and how many misbehave. ``long_s`` is how long a long one takes, seconds from … to."""

    long_share: float = 0.5
    long_s: tuple[float, float] = (6.0, 25.0)
    short_chunks: tuple[int, int] = (1, 150)
    failing_share: float = 0.06
    cancelled_share: float = 0.08


def jobs(rng: random.Random, mix: Mix, name: str) -> Iterator[Job]:
    """An endless row of jobs, with ids ``<name>-<number>``."""
    number = 0
    while True:
        yield _job(rng, mix, f"{name}-{number:05d}")
        number += 1


def _job(rng: random.Random, mix: Mix, task_id: str) -> Job:
    action = rng.choices(list(ACTIONS), list(ACTIONS.values()))[0]
    plan = {"key": task_id, **(_long(rng, mix) if rng.random() < mix.long_share else _short(rng, mix))}
    if action != "threaded" and rng.random() < 0.4:
        plan["progress_every"] = rng.randint(3, 40)
    if action != "threaded" and rng.random() < mix.failing_share:
        plan["fail_at"] = rng.randrange(int(plan["n"]))
    cancelled = rng.random() < mix.cancelled_share
    return Job(
        task_id=task_id,
        action=action,
        plan=plan,
        more={"every": rng.choice([1, 1, 3, 10, 50])} if action in {"checkpointed", "persistent"} else {},
        tier=rng.choices(list(TIERS), list(TIERS.values()))[0],
        options={
            "max_attempts": 100,
            "backoff_s": 0.1,
            "backoff_max_s": 1,
        },  # a killed plugin process counts as a failure
        cancel_after_s=rng.uniform(0.0, 6.0) if cancelled else None,
    )


def _long(rng: random.Random, mix: Mix) -> dict[str, object]:
    interval_s, burst = rng.choice([(0.05, 1), (0.1, 1), (0.1, 3), (0.25, 12)])
    steps = int(rng.uniform(*mix.long_s) / interval_s)
    return {"n": steps * burst, "interval_s": interval_s, "burst": burst, "pad": rng.choice([0, 50, 200])}


def _short(rng: random.Random, mix: Mix) -> dict[str, object]:
    return {"n": rng.randint(*mix.short_chunks), "burst": rng.choice([1, 8, 1000]), "pad": rng.choice([0, 200, 2000])}
