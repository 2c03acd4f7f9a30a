"""The dashboards: their files are what the code makes, and every metric is on one of them."""

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from apexstream.runtime.meters import METERS

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "dashboards").glob("*.json"))
OURS = {metric.declaration.name for metric in METERS.all()}


def test_the_committed_dashboards_are_what_the_code_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "dashboards.generate", str(tmp_path)], cwd=ROOT, check=True, timeout=60)

    made = {path.name: path.read_text() for path in tmp_path.glob("*.json")}

    assert made
    assert {path.name: path.read_text() for path in COMMITTED} == made, "run `make dashboards`"


def test_every_declared_metric_is_on_a_dashboard() -> None:
    asked = " ".join(path.read_text() for path in COMMITTED)

    shown = {name for name in OURS if re.search(rf"\b{name}(_bucket|_count|_sum)?\b", asked)}

    assert OURS - shown == set()


def test_dashboards_ask_for_no_metric_of_ours_that_is_not_declared() -> None:
    asked = {name for path in COMMITTED for name in re.findall(r"\bapexstream_\w+", path.read_text())}

    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked} <= OURS


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_panels_have_their_own_places_and_ids(path: Path) -> None:
    panels = msgspec.json.decode(path.read_bytes())["panels"]

    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels)
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
