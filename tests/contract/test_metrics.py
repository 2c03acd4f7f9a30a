"""The declarations of metrics: their names, their labels, their documents, and that each is counted somewhere."""

import re
from pathlib import Path

import pytest

from apexstream.cli.metrics import page
from apexstream.runtime import meters
from apexstream.runtime.instruments import Counter, Declaration, Gauge, Histogram
from apexstream.runtime.meters import METERS

ROOT = Path(__file__).parents[2]
DECLARED = [metric.declaration for metric in METERS.all()]
# A label whose values have no end makes a time series for each of them, for ever.
ENDLESS = {"stream", "stream_id", "task", "task_id", "client", "client_id", "viewer", "trace_id", "instance", "runner"}
BASE_UNITS = ("seconds", "bytes")


def test_the_document_is_what_the_declarations_make() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == page(METERS), "run `make metrics`"


@pytest.mark.parametrize("declaration", DECLARED, ids=lambda declaration: declaration.name)
def test_a_metric_is_named_after_the_rules(declaration: Declaration) -> None:
    assert re.fullmatch(r"apexstream_[a-z]+(_[a-z]+)+", declaration.name)
    assert declaration.name.endswith("_total") == (declaration.kind == "counter")
    if declaration.unit in BASE_UNITS:
        assert declaration.unit in declaration.name
    assert not re.search(r"_(ms|millis|us|kb|mb|minutes|hours)(_|$)", declaration.name)
    assert declaration.meaning.endswith(".")


@pytest.mark.parametrize("declaration", DECLARED, ids=lambda declaration: declaration.name)
def test_no_label_has_values_without_end(declaration: Declaration) -> None:
    assert not ENDLESS & set(declaration.labels)


def test_every_metric_is_counted_somewhere() -> None:
    code = "".join(
        path.read_text() for path in (ROOT / "services" / "apexstream").rglob("*.py") if path.name != "meters.py"
    )
    names = [name for name, value in vars(meters).items() if isinstance(value, Counter | Gauge | Histogram)]

    assert names
    assert [name for name in names if f"meters.{name}." not in code] == []
