"""``python -m tests.faults``: the long run, the time to recover from a killed runner, or a check of a run that was kept."""

import argparse
import asyncio
import random
import sys
import time
from pathlib import Path

from tests.faults.brokers import three_brokers
from tests.faults.checker import judge
from tests.faults.evidence import Evidence
from tests.faults.harness import LONG_RUN_SESSION_S, Plan, run
from tests.faults.timeline import load, timeline


def main() -> int:
    """Run what the arguments ask for; status 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long at most (default 30)")
    parser.add_argument("--seed", type=int, default=None, help="repeat a run (default: a random one, printed)")
    parser.add_argument("--streams", type=int, default=24, help="how many run at once (default 24)")
    parser.add_argument("--cluster", action="store_true", help="on three brokers with replication 3 instead of one")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for logs and evidence")
    parser.add_argument("--thousand", action="store_true", help="measure how long 1,000 streams take to move again")
    parser.add_argument("--check", action="store_true", help="judge the run in --keep again")
    parser.add_argument("--explain", metavar="TASK", default="", help="show all that the run in --keep says of a task")
    asked = parser.parse_args()
    if asked.check or asked.explain:
        return _look_back(asked.keep, asked.explain)
    if asked.thousand:
        from tests.faults.recovery import measure

        return asyncio.run(measure(asked.keep))
    return asyncio.run(_long_run(asked))


async def _long_run(asked: argparse.Namespace) -> int:
    seed = random.randrange(1 << 31) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    seconds = asked.minutes * 60
    plan = Plan(
        seed=seed,
        kills=asked.kills,
        seconds=seconds,
        width=asked.streams,
        drain_s=min(240.0, seconds / 3),
        environ={"APEX_SESSION_TIMEOUT_S": str(LONG_RUN_SESSION_S)},
    )
    began = time.monotonic()
    report, installation = await run(plan, three_brokers() if asked.cluster else None, keep=asked.keep)
    print(report)
    for line in installation.fallen:
        print(f"  fell: {line[:400]}")
    print(f"seed {seed}, {time.monotonic() - began:.0f} s: {'PASS' if report.ok else 'FAIL'}")
    return 0 if report.ok else 1


def _look_back(folder: Path, task_id: str) -> int:
    topics = load(folder)
    if task_id:
        print("\n".join(timeline(topics, task_id)))
        return 0
    report = judge(topics, Evidence.load(folder / "evidence.json"))
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
