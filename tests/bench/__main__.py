"""``python -m tests.bench [name[:size] ...]``: run benchmarks and print their tables. Some take a size, see their ``run``."""

import importlib
import sys

import uvloop

BENCHMARKS = (
    "latency",
    "submit",
    "gateway",
    "throughput",
    "replay",
    "scale",
    "stalled",
    "operators",
    "dispatch",
    "processors",
    "metrics",
    "overhead",
)


def main() -> None:
    """Run the named benchmarks, or all."""
    wanted = [name.partition(":") for name in sys.argv[1:] or BENCHMARKS]
    unknown = {name for name, _, _ in wanted} - set(BENCHMARKS)
    if unknown:
        sys.exit(f"no benchmark named {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")
    for name, _, size in wanted:
        run = importlib.import_module(f"tests.bench.{name}").run
        print(uvloop.run(run(int(size)) if size else run()), flush=True)


main()
