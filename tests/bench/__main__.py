"""``python -m tests.bench [name ...]``: run benchmarks and print their tables."""

import importlib
import sys

import uvloop

BENCHMARKS = ("latency", "submit", "throughput", "operators")


def main() -> None:
    """Run the named benchmarks, or all."""
    names = sys.argv[1:] or BENCHMARKS
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        sys.exit(f"no benchmark named {', '.join(sorted(unknown))}; there are: {', '.join(BENCHMARKS)}")
    for name in names:
        print(uvloop.run(importlib.import_module(f"tests.bench.{name}").run()), flush=True)


main()
