"""``apexstream metrics``: every metric, from the same declarations that the services count with."""

from apexstream.cli.exits import ExitCode
from apexstream.cli.output import write_data, write_json
from apexstream.cli.table import write_table
from apexstream.runtime.instruments import Declaration, Declared, Histogram
from apexstream.runtime.meters import METERS

_HEAD = """# Metrics

Made by `apexstream metrics -o markdown` (`make metrics`); do not edit. Every service serves them at `/metrics` on
`APEX_METRICS_PORT`, with `apexstream_build_info` (service, version, python) and the process' own `process_…` and
`python_gc_…`. In OpenMetrics, buckets carry exemplars with the trace id of one observation. A metric that grows beyond
1,000 sets of labels counts the rest under `other`.

| metric | kind | unit | labels | meaning |
|---|---|---|---|---|
"""


def list_metrics(output: str) -> ExitCode:
    """Show name, kind, unit, labels and meaning of all metrics."""
    declared = [metric.declaration for metric in METERS.all()]
    if output == "markdown":
        write_data(page(METERS).rstrip("\n"))
    elif output == "json":
        for declaration in declared:
            write_json(declaration)
    else:
        write_table(("metric", "kind", "unit", "labels", "meaning"), map(_row, declared))
    return ExitCode.OK


def page(declared: Declared) -> str:
    """``docs/metrics.md``."""
    rows = [f"| {' | '.join(_row(metric.declaration, mark='`'))} |\n" for metric in declared.all()]
    spread = [metric for metric in declared.all() if isinstance(metric, Histogram)]
    buckets = [f"- `{metric.declaration.name}`: {', '.join(map(_number, metric.bounds))}\n" for metric in spread]
    return _HEAD + "".join(rows) + "\n## Buckets\n\n" + "".join(buckets)


def _row(told: Declaration, mark: str = "") -> tuple[str, str, str, str, str]:
    labels = ", ".join(f"{mark}{label}{mark}" for label in told.labels)
    return f"{mark}{told.name}{mark}", told.kind.value, told.unit, labels, told.meaning


def _number(value: float) -> str:
    return f"{value:g}"
